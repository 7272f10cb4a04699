"""The learner as a library: alone in its process, under vmap, scan and a mesh of devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import make_learner, make_method
from covr_jax.config import AugmentConfig, SACConfig
from covr_jax.types import Batch, Future, Prior

ROOT = Path(__file__).parents[2]
SIZE, A = 12, 2
CONFIG = SACConfig(hidden_dim=8, feature_dim=5, num_filters=3, conv_kernels=(4, 3), conv_strides=(2, 1))
FOREIGN = ("torch", "mujoco", "dm_control", "brax", "tyro", "tensorboardX", "orbax", "matplotlib")


def method_of(name):
    return make_method(name, AugmentConfig(), SIZE, "translate")


def make(name):
    return make_learner(A, 1e-3, method_of(name), CONFIG)


def make_batch(seed, batch=8, name="rad"):
    """With what the method reads beyond a transition."""
    g, method = np.random.default_rng(seed), method_of(name)
    shape = (batch, SIZE, SIZE, 9 + 3 * method.history)
    images = g.integers(0, 256, (2, *shape), dtype=np.uint8)
    action, reward = g.uniform(-1, 1, (batch, A)).astype(np.float32), g.uniform(0, 1, batch).astype(np.float32)
    prior = Prior(action, np.zeros(batch, bool))
    result = Batch(images[0], action, reward, np.ones(batch, np.float32), images[1], prior)
    if method.residual:
        result = result._replace(previous_action=g.uniform(-1, 1, (batch, A)).astype(np.float32))
    if method.horizon:
        actions = g.uniform(-1, 1, (method.horizon, batch, A)).astype(np.float32)
        rewards = g.uniform(0, 1, (method.horizon, batch)).astype(np.float32)
        seen = g.integers(0, 256, (method.horizon, *shape), dtype=np.uint8)
        result = result._replace(future=Future(actions, rewards, seen, g.random(batch) > 0.3))
    return result


def start(learner, seed, name="rad"):
    image = jnp.zeros((1, SIZE, SIZE, 9 + 3 * method_of(name).history), jnp.uint8)
    return learner.init(jax.random.key(seed), image, jnp.zeros((1, A)))


def close(one, two, rtol=1e-4, atol=1e-6):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


def stacked(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@pytest.mark.parametrize("method", ["rad", "drq", "resact", "taco"])  # every kind of composition
def test_seeds_by_vmap_and_steps_by_scan_equal_one_learner_after_the_other(method):
    learner, seeds, steps = make(method), (0, 1), 3
    batches = [[make_batch(10 * seed + step, name=method) for step in range(steps)] for seed in seeds]
    keys = [[jax.random.key(100 * seed + step) for step in range(steps)] for seed in seeds]
    update = jax.jit(learner.update, static_argnames="with_actor")
    alone = []
    for seed in seeds:
        state = start(learner, seed, method)
        for step in range(steps):
            state, metrics = update(state, batches[seed][step], keys[seed][step], with_actor=True)
        alone.append((state, metrics))

    @jax.jit
    @jax.vmap
    def train(state, batches, keys):
        def step(state, now):
            return learner.update(state, *now, with_actor=True)

        state, metrics = jax.lax.scan(step, state, (batches, keys))
        return state, jax.tree.map(lambda x: x[-1], metrics)

    together = train(
        stacked([start(learner, seed, method) for seed in seeds]),
        stacked([stacked(row) for row in batches]),
        stacked([jnp.stack(row) for row in keys]),
    )
    for seed in seeds:
        mine = jax.tree.map(lambda x, seed=seed: x[seed], together)
        # Adam divides by the gradient's size: where that is near zero, rounding moves a weight by part of a step.
        close(mine, alone[seed], rtol=1e-3, atol=1e-4)
    assert not np.allclose(*jax.tree.leaves(together[0].params["actor"])[1][:2])


def on_a_mesh():
    """Run in a process with two devices: the batch split between them, the learner on both."""
    from jax.sharding import NamedSharding, PartitionSpec

    assert len(jax.devices()) == 2
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    learner = make("rad")
    state, batch, key = start(learner, 0), make_batch(0), jax.random.key(3)
    update = jax.jit(learner.update, static_argnames="with_actor")
    expected, expected_metrics = update(state, batch, key, with_actor=True)
    split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))
    state, key = jax.device_put((state, key), NamedSharding(mesh, PartitionSpec()))
    result, metrics = update(state, split, key, with_actor=True)
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(result))
    close(metrics, expected_metrics)
    close(result, expected, rtol=1e-3, atol=1e-4)
    action = jax.jit(learner.act)(result, split.observation)
    assert not action.sharding.is_fully_replicated
    close(action, learner.act(expected, batch.observation), rtol=1e-3, atol=1e-4)


def run(code, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)


def test_an_update_on_a_mesh_of_two_devices_equals_one_on_one():
    done = run(
        "from tests.agents import test_library; test_library.on_a_mesh()",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
        JAX_PLATFORMS="cpu",
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_foreign_package_comes_with_the_learner():
    done = run(f"import sys, covr_jax.agents; print([name for name in {FOREIGN} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-2000:]
