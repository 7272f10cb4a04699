"""Types of options: bounds, closed sets of names, and the error for options that cannot be used."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le


class ConfigError(ValueError):
    """An option that cannot be used; the message is one line that says what to do."""


_COUNTED = Le(2**31 - 1)  # what JAX's counters hold
_FINITE = Interval(gt=-math.inf, lt=math.inf)
PositiveInt = Annotated[int, Ge(1), _COUNTED]
Count = Annotated[int, Ge(0), _COUNTED]
Finite = Annotated[float, _FINITE]
Positive = Annotated[float, Gt(0), _FINITE]
NonNegative = Annotated[float, Ge(0), _FINITE]
Rate = Annotated[float, Ge(0), _FINITE, Le(1e20)]  # of Adam; the squares of larger parameters are beyond float32
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # what JAX keeps of a seed
Fraction = Annotated[float, Interval(ge=0, le=1)]

Distractors = Literal[
    "none", "color_easy", "color_hard", "background_easy", "background_hard", "camera_easy", "camera_hard"
]
PhysicsEngine = Literal["auto", "mjx", "warp", "mujoco"]
RendererName = Literal["jax", "warp", "gl"]
Storage = Literal["device", "host"]
LogSink = Literal["tensorboard", "wandb"]
Agent = Literal["sac", "rad", "drq", "drqv2", "deepmdp", "curl", "svea", "resact", "taco", "spr", "mlr", "mrq"]
Guided = Literal["covr", "dpl", "apl"]
VLMPolicyMethod = Literal["vbe", "vpf"]
MapMethod = Literal["dgc_like"]
GUIDED = ("covr", "dpl", "apl")  # actions of a VLM regularise the actor of ``base``
VLM_POLICY_METHODS = ("vbe", "vpf")  # the VLM is the agent
ON_BASE = (*GUIDED, *VLM_POLICY_METHODS)  # methods that name another agent, ``base``
DETERMINISTIC = ("drqv2", "taco", "mrq")  # agents that explore by noise on a schedule
MAP_METHODS = ("dgc_like",)  # maps of a VLM are targets of the agent's own features
WITH_VLM = (*ON_BASE, *MAP_METHODS)
