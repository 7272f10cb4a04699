"""Shapes and dtypes at the learner's public functions; known while tracing, so that checks cost nothing later."""

from __future__ import annotations

from typing import Any

import numpy as np

from covr_jax import runtime
from covr_jax.checks import check_shape
from covr_jax.types import Batch


def check_images(name: str, images: Any) -> None:
    """Checks frame stacks.

    Raises:
      RuntimeError: in a process that was forked after JAX had started.
      ValueError: not bytes, not square, or in another order than [B,H,W,C].
    """
    runtime.refuse_forked()
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or not shape[3] or shape[3] % 3:
        raise ValueError(
            f"{name} must be uint8 [B,H,W,C] with H = W and C = 3 x frames, got {images.dtype} {list(shape)}"
        )


def check_batch(batch: Batch, action_dim: int) -> None:
    """Checks the arrays of a batch, those that only some methods read where they are given.

    Raises:
      ValueError: an array of another shape, which would be broadcast, or images that ``check_images`` refuses.
    """
    check_images("observation", batch.observation)
    check_images("next_observation", batch.next_observation)
    size = batch.observation.shape[0]
    if batch.next_observation.shape != batch.observation.shape:
        one, two = list(batch.observation.shape), list(batch.next_observation.shape)
        raise ValueError(f"observation and next_observation must have one shape, got {one} and {two}")
    for name in ("action", "prior.action", "previous_action"):
        if (values := _field(batch, name)) is not None:
            check_shape(name, values, (size, action_dim))
    for name in ("reward", "discount", "prior.valid", "weight", "future.valid", "maps.valid"):
        if (values := _field(batch, name)) is not None:
            check_shape(name, values, (size,))
    if batch.future is not None:
        steps = len(batch.future.action)
        check_shape("future.action", batch.future.action, (steps, size, action_dim))
        check_shape("future.reward", batch.future.reward, (steps, size))
        check_shape("future.observation", batch.future.observation, (steps, *batch.observation.shape))
        check_images("future.observation[0]", batch.future.observation[0])
        for name in ("future.discount", "future.reached"):
            if (values := _field(batch, name)) is not None:
                check_shape(name, values, (steps, size))
    if batch.reward_scale is not None:
        check_shape("reward_scale", batch.reward_scale, ())
    if batch.maps is not None and (batch.maps.value.ndim != 2 or len(batch.maps.value) != size):
        raise ValueError(f"maps.value must be [{size},G*G], got {list(batch.maps.value.shape)}")


def _field(batch: Batch, name: str) -> Any:
    """Returns a field by its dotted name; None where a part of the batch is not given."""
    value: Any = batch
    for part in name.split("."):
        value = None if value is None else getattr(value, part)
    return value
