"""A small state, and checkpoints of it that are complete or refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.io.checkpoint import CheckpointError


def state(seed):
    g = np.random.default_rng(seed)
    return {
        "params": {"w": jnp.asarray(g.normal(size=(64, 33)), jnp.float32), "b": jnp.zeros((1,), jnp.float32)},
        "frames": jnp.asarray(g.integers(0, 256, (5, 4, 4, 3)), jnp.uint8),
        "keys": jax.random.split(jax.random.key(seed), 3),
        "count": jnp.asarray(seed, jnp.int32),
        "valid": jnp.asarray(g.random(7) > 0.5),
    }


def saved(checkpointer, *arguments):
    """Saves, waits for it, and returns the directory."""
    path = checkpointer.save(*arguments)
    checkpointer.wait()
    return path


def assert_equal(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.weak_type == b.weak_type
        np.testing.assert_array_equal(a, b)


def refuse(checkpointer, like, *arguments):
    with pytest.raises(CheckpointError) as caught:
        checkpointer.restore(lambda: like, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
