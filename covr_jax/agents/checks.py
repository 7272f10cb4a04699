"""Shapes and dtypes at the learner's public functions; known while tracing, so that checks cost nothing later."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from covr_jax.types import Batch


def check_images(name: str, images: Any) -> None:
    """Checks frame stacks.

    Raises:
      ValueError: not bytes, not square, or in another order than [B,H,W,C].
    """
    shape = images.shape
    if images.dtype != jnp.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] % 3:
        raise ValueError(
            f"{name} must be uint8 [B,H,W,C] with H = W and C = 3 x frames, got {images.dtype} {list(shape)}"
        )


def check_actions(name: str, actions: Any, batch_size: int, action_dim: int) -> None:
    """Checks actions. Raises ValueError for another shape than [B,A]."""
    if actions.shape != (batch_size, action_dim):
        raise ValueError(f"{name} must be [{batch_size},{action_dim}], got {list(actions.shape)}")


def check_batch(batch: Batch, action_dim: int) -> None:
    """Checks what every method reads of a batch.

    Raises:
      ValueError: an array of another shape, or images that ``check_images`` refuses.
    """
    check_images("observation", batch.observation)
    check_images("next_observation", batch.next_observation)
    size = batch.observation.shape[0]
    if batch.next_observation.shape != batch.observation.shape:
        one, two = list(batch.observation.shape), list(batch.next_observation.shape)
        raise ValueError(f"observation and next_observation must have one shape, got {one} and {two}")
    for name, values in (("action", batch.action), ("prior.action", batch.prior.action)):
        check_actions(name, values, size, action_dim)
    for name, values in (("reward", batch.reward), ("discount", batch.discount), ("prior.valid", batch.prior.valid)):
        if values.shape != (size,):
            raise ValueError(f"{name} must be [{size}], got {list(values.shape)}")
