"""The futures that SPR and MLR read. B batch, A action, F features, K steps."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents.methods import mlr, spr
from covr_jax.types import Future
from tests.support.compositions import SIZE, B, compose, composition, make_batch
from tests.support.trees import assert_trees_equal, assert_trees_equal_but_for_rounding

PREDICTING = ("spr", "mlr")


def updated(now, batches):
    state = now.start()
    for number, batch in enumerate(batches):
        state, _ = now.update(state, batch, jax.random.key(number))
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", PREDICTING)
def test_without_its_loss_the_method_is_rad_on_crops(name):
    method, config = composition(name).method, composition(name).config
    still = compose(method, dataclasses.replace(config, auxiliary_learning_rate=0.0))
    base = compose(method._replace(auxiliary=None), config)
    batches = [make_batch(method, 80 + number) for number in range(3)]
    one, two = updated(still, batches), updated(base, batches)
    for part in ("torso", "critic", "actor"):
        assert_trees_equal_but_for_rounding(one.params[part], two.params[part])
        if part != "actor":
            assert_trees_equal_but_for_rounding(one.target[part], two.target[part])
    assert_trees_equal(one.params["auxiliary"], still.start().params["auxiliary"])


@pytest.mark.parametrize("name", ["spr", pytest.param("mlr", marks=pytest.mark.slow)])
def test_rows_whose_episode_ends_change_nothing(name):
    now, key = composition(name), jax.random.key(65)
    batch = make_batch(now.method, 64)
    future = batch.future._replace(valid=np.arange(B) < B // 2)
    foreign = make_batch(now.method, 66).future
    mixed = [
        np.where(future.valid.reshape(B, *[1] * (part.ndim - 2)), part, other)
        for part, other in zip(future[:3], foreign[:3], strict=True)
    ]
    one, metrics = now.update(now.start(), batch._replace(future=future), key)
    two, _ = now.update(now.start(), batch._replace(future=Future(*mixed, future.valid)), key)
    assert_trees_equal(one, two)
    assert float(metrics["losses/auxiliary"]) > 0.0
    nothing, metrics = now.update(now.start(), batch._replace(future=future._replace(valid=np.zeros(B, bool))), key)
    assert float(metrics["losses/auxiliary"]) == 0.0
    assert_trees_equal(nothing.params["auxiliary"], now.start().params["auxiliary"])


@pytest.mark.parametrize("name", PREDICTING)
def test_the_last_observation_and_every_action_count(name):
    now = composition(name)
    batch, key = make_batch(now.method, 67), jax.random.key(68)
    future = batch.future
    assert len(future.action) == now.method.horizon == {"spr": 5, "mlr": 15}[name]
    loss = float(now.update(now.start(), batch, key)[1]["losses/auxiliary"])
    for part in ("action", "observation"):
        for step in (0, now.method.horizon - 1):
            other = getattr(future, part).copy()
            other[step] = -other[step] if part == "action" else 255 - other[step]
            changed = batch._replace(future=future._replace(**{part: other}))
            assert float(now.update(now.start(), changed, key)[1]["losses/auxiliary"]) != loss, (part, step)


def test_at_most_128_rows_are_read():
    method = composition("spr").method
    batch = make_batch(method, 69, batch=130)
    observation, future = spr.first_rows("spr", batch)
    np.testing.assert_array_equal(observation, batch.observation[:128])
    for part, whole in zip(future[:3], batch.future[:3], strict=True):
        np.testing.assert_array_equal(part, whole[:, :128])
    np.testing.assert_array_equal(future.valid, batch.future.valid[:128])
    with pytest.raises(ValueError, match="spr needs batches with a future"):
        spr.first_rows("spr", batch._replace(future=None))


def test_the_distance_is_that_of_directions():
    """From 0 where two latents project to one direction to 4 where to opposite ones; only the first has a gradient."""
    # Heads that pass positive and negative parts and put them together again: the identity.
    size = 3
    inner = np.concatenate([np.eye(size), -np.eye(size), np.zeros((size, spr.PROJECTION - 2 * size))], axis=1)
    identity = {
        "Dense_0": {"kernel": jnp.asarray(inner), "bias": jnp.zeros(spr.PROJECTION)},
        "Dense_1": {"kernel": jnp.asarray(inner.T), "bias": jnp.zeros(size)},
    }
    heads = {"projection": identity, "prediction": identity}
    one = jnp.asarray([[1.0, 2.0, -3.0]] * 3 + [[0.0, 0.0, 0.0]])
    two = jnp.asarray([[2.0, 4.0, -6.0], [-1.0, -2.0, 3.0], [2.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(spr.cosine_distance(heads, heads, one, two), [0.0, 4.0, 2.0, 1.0], atol=1e-5)
    here, there = jax.grad(lambda *x: spr.cosine_distance(heads, heads, *x).sum(), argnums=(0, 1))(one, two)
    assert np.isfinite(here).all() and np.abs(here[2]).max() > 0.1 and np.abs(there).max() == 0


@pytest.mark.parametrize("depth", [4, 8, 5])
@pytest.mark.parametrize(("size", "side", "cells"), [(100, 10, 10), (84, 8, 11), (48, 5, 10), (SIZE, 1, 12), (3, 1, 3)])
def test_half_of_the_patches_are_hidden_for_some_steps(size, side, cells, depth):
    masks = np.asarray(mlr.sample_mask(jax.random.key(3), size, depth))
    assert masks.shape == (16, size, size) and masks.dtype == bool
    corners = masks[:, ::side, ::side]
    assert corners.shape == (16, cells, cells)
    np.testing.assert_array_equal(masks, np.kron(corners, np.ones((side, side), bool))[:, :size, :size])
    assert (corners.sum((1, 2)) == cells * cells // 2).all()
    for step in range(1, 16):
        assert size == 3 or np.array_equal(masks[step], masks[step - 1]) == (step % depth != 0)
    if size > 3:
        assert not np.array_equal(masks, mlr.sample_mask(jax.random.key(4), size, depth))


def test_every_patch_is_hidden_half_of_the_time():
    masks = np.asarray(jax.vmap(lambda key: mlr.sample_mask(key, 5, 8))(jax.random.split(jax.random.key(0), 400)))
    share = masks[:, ::8].mean((0, 1)) * 25 / 12
    assert np.abs(share - 1.0).max() < 0.2  # of 800 draws, five standard deviations


def test_brightness_varies_by_a_tenth_at_most():
    still = composition("spr").method.augmentation._replace(random=lambda key, images: images)
    images = np.full((4000, 1, 1, 3), 200, np.uint8)
    strength = np.asarray(spr.perturb(still, jax.random.key(0), images)) * 255 / 200
    assert strength.shape == images.shape and (np.ptp(strength, axis=-1) == 0).all()
    assert 0.9 - 1e-5 <= strength.min() < 0.91 and 1.09 < strength.max() <= 1.1 + 1e-5
    assert abs(strength.std() - 0.05 * 0.959) < 0.002  # of a normal number that is clipped at two deviations
