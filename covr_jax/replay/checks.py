"""What the ring's functions refuse: shapes, which are known while tracing and would be broadcast, and sizes.

T slots, E envs, H W image, A action, Q queries, N numbers of a VLM's answer.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import core

from covr_jax.checks import check_shape
from covr_jax.replay.state import ReplayState
from covr_jax.replay.storage import frame_shape
from covr_jax.types import Prior, TimeStep


def check_counts(least: int = 1, **counts: int) -> None:
    """Checks sizes by name. Raises ValueError for one below ``least``."""
    for name, value in counts.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_slot(state: ReplayState, timestep: TimeStep, action: Any) -> None:
    """Checks what is written into a slot.

    Args:
      state: the ring.
      timestep: of all environments, with a frame or a stack of them.
      action: f32[E,A].

    Raises:
      ValueError: an array of another shape, or frames that are no bytes.
    """
    num_envs, (height, width, channels) = state.frame.shape[1], frame_shape(state.frame.shape[2])
    frames = timestep.observation
    shape = tuple(frames.shape)
    if frames.dtype != jnp.uint8 or shape[:-1] != (num_envs, height, width) or not shape[-1] or shape[-1] % channels:
        expected = f"uint8 [{num_envs},{height},{width},C] with C = {channels} x frames"
        raise ValueError(f"observation must be {expected}, got {frames.dtype} {list(shape)}")
    for name in ("step_type", "reward", "discount"):
        check_shape(name, getattr(timestep, name), (num_envs,))
    check_shape("action", action, state.action.shape[1:])


def check_prior(state: ReplayState, prior: Prior) -> None:
    """Checks answers of the VLM, action f32[Q,E,N] and valid bool[Q,E]. Raises ValueError for other shapes."""
    _, num_envs, numbers = state.prior.action.shape
    queries = prior.valid.shape[0] if prior.valid.ndim else 0
    check_shape("prior.valid", prior.valid, (queries, num_envs))
    check_shape("prior.action", prior.action, (queries, num_envs, numbers))


def check_stored(state: ReplayState, frame_stack: int) -> None:
    """Checks that the ring holds a transition with its history.

    Raises:
      ValueError: it has fewer than ``frame_stack`` + 1 slots; or fewer are filled, where that is known: not while
        tracing.
    """
    if (slots := state.reward.shape[0]) < frame_stack + 1:
        raise ValueError(f"a ring of {slots} slots holds no transition of {frame_stack} frames")
    if not isinstance(state.count, core.Tracer) and state.count.ndim == 0 and int(state.count) < frame_stack + 1:
        raise ValueError(f"sampling needs {frame_stack + 1} filled slots, the ring has {int(state.count)}")
