"""Tendons through sites: straight when taut, a hanging chain when slack, red at their limit.

Letters: N capsules of a tendon.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from covr_jax.render.vector import Floats

PARTS = 12  # capsules of a hanging tendon
LIMIT_COLOUR = (0.9, 0.0, 0.0)  # MuJoCo mixes a tendon at its limit towards this red


@dataclass(frozen=True)
class Tendon:
    """Constants of one tendon; lengths in metres."""

    index: int  # index in the model
    sites: tuple[int, ...]  # indices in the model
    width: float  # radius
    limits: Floats | None  # shortest and longest length, or None
    impedance: Floats  # solimp of the limit
    hangs: bool  # whether it is drawn as a chain of its longest length while it is shorter
    up: Floats  # unit vector against gravity

    @property
    def parts(self) -> int:
        """Number of capsules."""
        return PARTS if self.hangs else len(self.sites) - 1


def read_tendons(model: mujoco.MjModel, groups: int) -> list[tuple[Tendon, int, np.ndarray]]:
    """Reads the tendons that are drawn. Tendons made of joints have no shape.

    Args:
      model: the model.
      groups: number of groups that are drawn.

    Returns:
      Constants, material index and rgba of each tendon.

    Raises:
      ValueError: a tendon wraps around geoms or pulleys.
    """
    found = []
    for k in range(model.ntendon):
        rows = slice(model.tendon_adr[k], model.tendon_adr[k] + model.tendon_num[k])
        kinds = set(model.wrap_type[rows].tolist())
        if model.tendon_group[k] >= groups or int(mujoco.mjtWrap.mjWRAP_JOINT) in kinds:
            continue
        if kinds != {int(mujoco.mjtWrap.mjWRAP_SITE)}:
            name = model.tendon(k).name
            raise ValueError(f"tendon {k} ('{name}') cannot be drawn: it does not run through sites only")
        limits = tuple(float(x) for x in model.tendon_range[k]) if model.tendon_limited[k] else None
        gravity = float(np.linalg.norm(model.opt.gravity))
        passive = np.concatenate(
            [np.ravel(getattr(model, f"tendon_{name}")[k]) for name in ("stiffness", "damping", "frictionloss")]
        )
        hangs = (
            model.tendon_num[k] == 2
            and limits is not None
            and limits[0] == 0
            and limits[1] > 0
            and not passive.any()
            and gravity > 0
        )
        tendon = Tendon(
            index=k,
            sites=tuple(int(s) for s in model.wrap_objid[rows]),
            width=float(model.tendon_width[k]),
            limits=limits,
            impedance=tuple(float(x) for x in model.tendon_solimp_lim[k]),
            hangs=bool(hangs),
            up=tuple(float(-g / gravity) for g in model.opt.gravity) if gravity else (0.0, 0.0, 1.0),
        )
        found.append((tendon, int(model.tendon_matid[k]), model.tendon_rgba[k]))
    return found


def tendon_pose(
    tendon: Tendon, data: Any, xp: Any = jnp
) -> tuple[
    Float[Array | np.ndarray, "N 3"],
    Float[Array | np.ndarray, "N 3"],
    Float[Array | np.ndarray, " N"],
    Float[Array | np.ndarray, ""] | np.floating,
]:
    """Computes the pose of the tendon's N capsules.

    Args:
      tendon: constants of the tendon.
      data: mjx.Data of one env, or mujoco.MjData after mj_forward.
      xp: numpy or jax.numpy, as in `data`.

    Returns:
      Centres in metres, unit axes, half lengths in metres, and the weight of LIMIT_COLOUR in 0..1.
    """
    points = data.site_xpos[np.array(tendon.sites)]
    length = data.ten_length[tendon.index]
    if tendon.hangs:
        straight = points[0] + np.linspace(0, 1, PARTS + 1)[:, None] * (points[1] - points[0])
        longest = tendon.limits[1]
        points = xp.where(length < longest, hanging_chain(points[0], points[1], longest, tendon.up, xp), straight)
    step = points[1:] - points[:-1]
    size = xp.sqrt(xp.maximum((step**2).sum(-1), 1e-12))
    return (points[1:] + points[:-1]) / 2, step / size[:, None], size / 2, _limit_weight(tendon, length, xp)


def hanging_chain(
    start: Float[Array | np.ndarray, " 3"],
    stop: Float[Array | np.ndarray, " 3"],
    length: float,
    up: Floats,
    xp: Any = jnp,
) -> Float[Array | np.ndarray, "points 3"]:
    """Computes points of a hanging chain, at equal distances along the chain.

    The chain is y = a cosh(x / a). With span h, rise v and z = h / 2a: sinh(z) / z = sqrt(length^2 - v^2) / h, and the
    middle of the span lies at x = a artanh(v / length).

    Args:
      start: first end, metres.
      stop: other end, metres.
      length: of the chain, metres.
      up: unit vector against gravity.
      xp: numpy or jax.numpy.

    Returns:
      PARTS + 1 points in metres.
    """
    up = np.asarray(up, np.float32)
    rise = ((stop - start) * up).sum()
    across = (stop - start) - rise * up
    span = xp.sqrt((across**2).sum())
    wide = xp.maximum(span, 0.01 * length)  # a narrower loop looks the same at any image size
    ratio = xp.maximum(xp.sqrt(xp.maximum(length**2 - rise**2, 1e-9)) / wide, 1.0001)
    z = xp.where(ratio < 3, xp.sqrt(6 * (ratio - 1)), xp.log(2 * ratio) + xp.log(xp.log(2 * ratio)))
    for _ in range(5):  # Newton on the convex log(sinh(z) / z), from the right
        value = z + xp.log1p(-xp.exp(-2 * z)) - np.log(2.0) - xp.log(z)
        z = xp.maximum(z - (value - xp.log(ratio)) / (1 / xp.tanh(z) - 1 / z), 1e-2)
    a = wide / (2 * z)
    x0 = a * xp.arctanh(xp.clip(rise / length, -0.9999, 0.9999)) - wide / 2
    s0 = a * xp.sinh(x0 / a)
    s = s0 + length * np.linspace(0, 1, PARTS + 1)
    x = (a * xp.arcsinh(s / a) - x0) / wide
    y = xp.sqrt(a**2 + s**2) - xp.sqrt(a**2 + s0**2)
    return start + x[:, None] * across + y[:, None] * up


def _limit_weight(tendon: Tendon, length: Any, xp: Any) -> Any:
    """Impedance of the limit constraint by MuJoCo's solimp curve; 0 where the constraint is inactive."""
    if tendon.limits is None:
        return xp.zeros(())
    low, high, width, middle, power = tendon.impedance
    violation = xp.maximum(length - tendon.limits[1], tendon.limits[0] - length)
    x = xp.clip(violation / max(width, 1e-9), 0.0, 1.0)
    rise = xp.where(
        x <= middle,
        x**power / max(middle, 1e-9) ** (power - 1),
        1 - (1 - x) ** power / max(1 - middle, 1e-9) ** (power - 1),
    )
    return xp.where(violation > 0, low + rise * (high - low), 0.0)
