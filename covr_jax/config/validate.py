"""Rules that the options of a run must satisfy, alone (bounds in their annotations) and together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Interval, Le

from covr_jax.config.kinds import MAP_METHODS, VLM_POLICY_METHODS, WITH_VLM, ConfigError
from covr_jax.config.options import Config, agent

Bound = Ge | Gt | Le | Interval


def validate(config: Config) -> None:
    """Checks every option of a config; None passes the bounds.

    Raises:
      ConfigError: one line on the first option that is out of range or does not go with others.
    """
    for name, value, bound in _bounded(config):
        if not _holds(bound, value):
            raise ConfigError(f"--{name} must be {_describe(bound)}, got {value}")
    _check_env(config)
    _check_learner(config)
    _check_vlm(config)
    if config.method == "vpf":
        _check_vpf(config)
    if config.method in MAP_METHODS:
        _check_maps(config)
    if config.method in WITH_VLM and config.vlm.mode == "vllm" and config.vlm.replay is None:
        _check_server(config)


# ------------------------------------------------------------------------ bounds of a single option


def _bounded(options: Any, prefix: str = "") -> Iterator[tuple[str, Any, Bound]]:
    """Yields (name on the command line, value, bound) of every bounded option that is not None."""
    for name, kind in get_type_hints(type(options), include_extras=True).items():
        value, shown = getattr(options, name), prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _bounded(value, f"{shown}.")
        elif value is not None:
            yield from ((shown, value, bound) for bound in _bounds(kind))


def _bounds(kind: Any) -> Iterator[Bound]:
    """Yields the bounds in a type such as ``Annotated[int, Ge(1)] | None``."""
    if get_origin(kind) is Annotated:
        yield from (bound for bound in kind.__metadata__ if isinstance(bound, Bound))
    else:
        for part in get_args(kind):
            yield from _bounds(part)


def _limits(bound: Bound) -> tuple[Any, Any, Any, Any]:
    """Returns (ge, gt, le, lt), None where there is no such limit."""
    ge, gt, le, lt = (getattr(bound, name, None) for name in ("ge", "gt", "le", "lt"))
    return ge, gt, le, lt


def _holds(bound: Bound, value: Any) -> bool:
    """Whether the value is within the bound; NaN never is."""
    ge, gt, le, lt = _limits(bound)
    return (
        (ge is None or value >= ge)
        and (gt is None or value > gt)
        and (le is None or value <= le)
        and (lt is None or value < lt)
    )


def _describe(bound: Bound) -> str:
    """Returns the bound in words, to follow "must be"."""
    match _limits(bound):
        case (0, None, None, None):
            return "0 or more"
        case (None, 0, None, None):
            return "positive"
        case (ge, None, None, None):
            return f"at least {ge}"
        case (None, gt, None, lt) if (gt, lt) == (-math.inf, math.inf):
            return "finite"
        case (None, None, le, None):
            return f"at most {le:,}" if isinstance(le, int) else f"at most {le}"
        case (ge, None, None, lt) if lt is not None:
            return f"at least {ge} and below {lt}"
        case (None, gt, None, lt) if lt is not None:
            return f"between {gt} and {lt}, both excluded"
        case (None, gt, le, None) if le is not None:
            return f"above {gt} and at most {le}"
        case (ge, _, le, _):
            return f"between {ge} and {le}"


# ---------------------------------------------------------------- other rules, and rules of several options


def _check_env(config: Config) -> None:
    if config.env.samples not in (1, 2, 4):
        raise ConfigError(f"--env.samples must be 1, 2 or 4, got {config.env.samples}")
    if config.vlm.frames > (stack := config.env.frame_stack):
        raise ConfigError(f"--vlm.frames must be at most --env.frame-stack, {stack}, got {config.vlm.frames}")


def _check_learner(config: Config) -> None:
    sac = config.sac
    kernels, strides = sac.conv_kernels, sac.conv_strides
    if not kernels or len(kernels) != len(strides) or min(*kernels, *strides) < 1:
        sizes = f"--sac.conv-kernels {kernels} and --sac.conv-strides {strides}"
        raise ConfigError(f"{sizes} must be positive, one per layer")
    if len(sac.filters) != len(kernels) or min(sac.filters) < 1:
        raise ConfigError(f"--sac.conv-filters {sac.filters} must be positive, one per layer of --sac.conv-kernels")
    if config.method not in VLM_POLICY_METHODS and sac.init_steps > config.total_steps:
        steps = f"--sac.init-steps {sac.init_steps:,} and --total-steps {config.total_steps:,}"
        raise ConfigError(f"{steps}: nothing would be learned; lower the first or raise the second")
    if not sac.log_std_min < sac.log_std_max:
        limits = f"{sac.log_std_min} and {sac.log_std_max}"
        raise ConfigError(f"--sac.log-std-min must be below --sac.log-std-max, got {limits}")
    if agent(config) == "resact" and sac.n_step > 1:
        # Its target reads the action before the last of the n steps, which a batch does not hold.
        raise ConfigError(f"resact takes --sac.n-step 1 only, got {sac.n_step}")
    if config.method in VLM_POLICY_METHODS and config.replay.demonstrations is not None:
        raise ConfigError(f"{config.method} has no replay: leave --demonstrations out, or use another --method")
    if config.method in WITH_VLM and config.replay.sampling == "elite":
        raise ConfigError(f"--replay.sampling elite is for runs without a VLM; drop it or {config.method}")
    if config.base in MAP_METHODS:
        raise ConfigError(f"{config.base} asks a VLM of its own and cannot be a --base; use --method {config.base}")


def _check_vlm(config: Config) -> None:
    if not config.vlm.name.strip():
        raise ConfigError("--vlm.name must not be empty; none is --vlm none")
    if config.vlm.record and config.vlm.replay is not None:
        raise ConfigError("--vlm.record and --vlm.replay exclude each other")
    if config.method in WITH_VLM and config.vlm.name == "none":
        raise ConfigError(f"{config.method} needs a VLM; use --vlm tiny or a model, or --method rad")
    if config.method in WITH_VLM and config.vlm.endpoint is not None and config.vlm.mode not in ("vllm", "ray"):
        raise ConfigError("--vlm.endpoint is the address of a vLLM server or a Ray cluster; add --vlm.mode vllm or ray")


def _check_vpf(config: Config) -> None:
    vlm = config.vlm
    if vlm.name == "fake" or vlm.mode != "sync" or vlm.record or vlm.replay:
        raise ConfigError("vpf trains the VLM itself: a model, not fake, --vlm.mode sync, no recording or replay")
    if vlm.decoding == "free":
        raise ConfigError("vpf trains the VLM under the action grammar; use --vlm.decoding constrained")
    if min(config.vpf.value_hidden, default=1) < 1:
        raise ConfigError(f"--vpf.value-hidden {config.vpf.value_hidden} must be positive")


def _check_maps(config: Config) -> None:
    method, vlm = config.method, config.vlm
    if vlm.name == "fake" and vlm.replay is None:
        raise ConfigError(f"{method} needs maps, which --vlm fake cannot give; use --vlm tiny or a CLIP model")
    if vlm.hold:
        raise ConfigError(f"{method} takes --vlm.no-hold only: a map belongs to the frame that was asked about")
    if vlm.frames > 1:
        raise ConfigError(f"{method} takes --vlm.frames 1 only: a map belongs to one frame")
    if vlm.return_episodes:
        raise ConfigError(f"{method} takes --vlm.return-episodes 0 only: its VLM proposes no actions")
    if vlm.expert_states is not None:
        raise ConfigError(f"{method} takes no --vlm.expert-states: its VLM proposes no actions")


def _check_server(config: Config) -> None:
    endpoint, targets = config.vlm.endpoint, config.vlm.lora_targets
    if config.method in MAP_METHODS:
        raise ConfigError(f"{config.method} asks for maps, which a vLLM server cannot give; use another --vlm.mode")
    if endpoint is None:
        raise ConfigError("--vlm.mode vllm needs --vlm.endpoint, such as http://localhost:8000 (docs/vlm.md)")
    if "@" in endpoint:
        raise ConfigError("--vlm.endpoint is written to config.json; put the key into COVR_VLLM_API_KEY instead")
    if not _is_address(endpoint):
        raise ConfigError(f"--vlm.endpoint must be http://host:port, got {endpoint!r}")
    if targets != "language":
        raise ConfigError(
            f"--vlm.mode vllm takes --vlm.lora-targets language only, the layers that vLLM adapts; got {targets}"
        )


def _is_address(text: str) -> bool:
    """Whether a text is an address of the form http://host:port, with an optional path."""
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and not url.query
    except ValueError:
        return False
