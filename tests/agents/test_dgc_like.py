"""The map loss, and its effect on the learner; test_methods_oracle.py compares the whole update with float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from covr_jax.agents.methods.dgc_like import SIDE, map_extra_loss, map_loss, pooling_matrix
from covr_jax.types import Maps
from tests.support.compositions import SIZE, B, composition, make_batch
from tests.support.lamps import lamp_images
from tests.support.trees import assert_trees_equal, assert_trees_equal_but_for_rounding


@pytest.mark.parametrize("side", [1, 4, 7, 10, 14, 35])
def test_cells_average_as_torchs_adaptive_pooling_does(side):
    image = np.random.default_rng(side).random((3, side, side))
    matrix = pooling_matrix(side, SIDE).astype(np.float64)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(image), SIDE).numpy()
    np.testing.assert_allclose(matrix @ image @ matrix.T, expected, rtol=1e-6)


def test_only_rows_with_a_map_count():
    g = np.random.default_rng(0)
    predicted, value = (g.random((4, 9)).astype(np.float32) for _ in range(2))
    valid = np.array([True, False, True, False])
    value[1] = np.nan
    loss, gradient = jax.value_and_grad(map_loss)(jnp.asarray(predicted), value, valid)
    error = (predicted - value)[valid]
    assert float(loss) == pytest.approx(np.mean(error**2), rel=1e-6)
    np.testing.assert_allclose(gradient[valid], 2 * error / error.size, rtol=1e-5)
    assert not np.any(gradient[~valid])
    assert float(map_loss(predicted, value, np.zeros(4, bool))) == 0.0


def test_a_1x1_convolution_keeps_rows_columns_and_channels_apart():
    """A feature map that is 1 at one cell of one channel gives 1 at that cell and 0 elsewhere."""
    channels, head = 3, map_extra_loss(3)
    features = np.zeros((1, SIDE, SIDE, channels), np.float32)
    features[0, 2, 5, 1] = 1.0
    params = {"kernel": np.array([[10.0], [1.0], [10.0]], np.float32), "bias": np.zeros(1, np.float32)}
    expected = np.zeros((SIDE, SIDE), np.float32)
    expected[2, 5] = 1.0
    batch = make_batch(composition("dgc_like").method, 1, batch=1)
    batch = batch._replace(maps=Maps(expected.reshape(1, -1), np.ones(1, bool)))
    loss, metrics = head.loss(params, features.reshape(1, -1), batch)
    assert float(loss) == float(metrics["losses/map"]) == 0.0
    assert jax.tree.map(jnp.shape, head.init(jax.random.key(0), features.reshape(1, -1))) == {
        "kernel": (channels, 1), "bias": (1,)
    }  # fmt: skip


@pytest.mark.slow
def test_without_maps_it_is_deepmdp():
    ours, theirs = composition("dgc_like"), composition("deepmdp")
    states = [now.start() for now in (ours, theirs)]
    for number in range(3):
        batch = make_batch(ours.method, 20 + number)
        batch = batch._replace(maps=batch.maps._replace(valid=np.zeros(B, bool)))
        states = [
            now.update(state, batch, jax.random.key(number))[0]
            for now, state in zip((ours, theirs), states, strict=True)
        ]
    one, two = states
    for part in ("torso", "critic", "actor"):
        assert_trees_equal_but_for_rounding(one.params[part], two.params[part])
    assert_trees_equal(one.params["auxiliary"]["beside"], ours.start().params["auxiliary"]["beside"])


def test_maps_move_the_torso_and_neither_q_heads_nor_actor_of_the_same_update():
    now, batch, key = composition("dgc_like"), make_batch(composition("dgc_like").method, 30), jax.random.key(31)
    other = batch._replace(maps=batch.maps._replace(value=1.0 - batch.maps.value))
    one, two = (now.update(now.start(), b, key)[0] for b in (batch, other))
    assert not np.array_equal(*(s.params["torso"]["conv_0"]["kernel"] for s in (one, two)))
    assert_trees_equal(one.params["critic"]["heads"], two.params["critic"]["heads"])
    assert_trees_equal(one.critic_opt, two.critic_opt)


def test_features_learn_the_position_of_the_lamp():
    now, g = composition("dgc_like"), np.random.default_rng(2)

    def draw():
        still = lamp_images(g, g.choice([-1, 0, 1], B), 6)
        pooling = pooling_matrix(SIZE, SIDE)
        lit = pooling @ (still[..., 0] > 200).astype(np.float32) @ pooling.T
        batch = make_batch(now.method, 41)._replace(reward=np.zeros(B, np.float32))
        maps = Maps(lit.reshape(B, -1), np.ones(B, bool))
        return batch._replace(observation=still, next_observation=still, maps=maps)

    batches, state = [jax.device_put(draw()) for _ in range(40)], now.start()
    for number in range(300):
        state, _ = now.update(state, batches[number % 40], jax.random.key(number))
    fresh = draw()
    _, metrics = now.update(state, fresh, jax.random.key(0))
    variance = np.var(fresh.maps.value - fresh.maps.value.mean(0))
    assert float(metrics["losses/map"]) < 0.8 * variance


def test_batches_without_maps_are_refused():
    now = composition("dgc_like")
    with pytest.raises(ValueError, match="needs batches with maps of 7x7 cells"):
        now.update(now.start(), make_batch(now.method, 40)._replace(maps=None), jax.random.key(0))
