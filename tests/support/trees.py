"""Comparisons of pytrees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def host_copy(tree):
    """Returns the tree as NumPy arrays; PRNG keys as their data."""

    def copy(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(copy, tree)


def trees_equal(one, two) -> bool:
    """Returns whether two trees have equal leaves, bit for bit."""
    pairs = zip(jax.tree.leaves(host_copy(one)), jax.tree.leaves(host_copy(two)), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def assert_trees_equal(one, two):
    """Asserts that two trees have equal leaves, bit for bit, and names the first leaf that differs."""
    one, two = host_copy(one), host_copy(two)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def assert_trees_equal_but_for_rounding(one, two, atol=1e-7):
    """Asserts that two programs computed the same: XLA may add the terms of a sum in another order in each.

    A step of the optimisers is 1e-3 and more, whatever the size of the gradient. Images (uint8) are rounded to whole
    levels: a last digit can move the few pixels that lie halfway between two levels, by one level.
    """
    one, two = host_copy(one), host_copy(two)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        name = jax.tree_util.keystr(path)
        if a.dtype == np.uint8:
            assert np.mean(a != b) < 1e-4, name
            np.testing.assert_allclose(a.astype(int), b.astype(int), rtol=0, atol=1, err_msg=name)
            continue
        close = {"rtol": 1e-5, "atol": atol} if np.issubdtype(a.dtype, np.floating) else {"rtol": 0, "atol": 0}
        np.testing.assert_allclose(a, b, **close, err_msg=name)
