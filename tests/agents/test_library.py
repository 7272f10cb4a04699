"""The learner as a library: without other packages, under vmap and scan, and on a mesh of devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.small_learner import make, make_batch, start

ROOT = Path(__file__).parents[2]
FOREIGN = ("torch", "mujoco", "dm_control", "brax", "tyro", "tensorboardX", "orbax", "matplotlib")


def assert_trees_close(one, two, rtol=1e-4, atol=1e-6):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


def stacked(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@pytest.mark.slow
def test_seeds_by_vmap_and_steps_by_scan_equal_separate_learners():
    method = "drq"  # several views
    learner, seeds, steps = make(method), (0, 1), 3
    batches = [[make_batch(10 * seed + step, name=method) for step in range(steps)] for seed in seeds]
    keys = [[jax.random.key(100 * seed + step) for step in range(steps)] for seed in seeds]
    update = jax.jit(learner.update, static_argnames="with_actor")
    separate = []
    for seed in seeds:
        state = start(learner, seed, method)
        for step in range(steps):
            state, metrics = update(state, batches[seed][step], keys[seed][step], with_actor=True)
        separate.append((state, metrics))

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
        one = jax.tree.map(lambda x, seed=seed: x[seed], together)
        # Adam divides by the gradient's size: where that is near zero, rounding moves a weight by part of a step.
        assert_trees_close(one, separate[seed], rtol=1e-3, atol=1e-4)
    assert not np.allclose(*jax.tree.leaves(together[0].params["actor"])[1][:2])


def on_a_mesh():
    """Compares an update on two devices with one on one device; the batch is split, the learner replicated."""
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
    assert_trees_close(metrics, expected_metrics)
    assert_trees_close(result, expected, rtol=1e-3, atol=1e-4)
    action = jax.jit(learner.act)(result, split.observation)
    assert not action.sharding.is_fully_replicated
    assert_trees_close(action, learner.act(expected, batch.observation), rtol=1e-3, atol=1e-4)


def run(code, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_an_update_on_a_mesh_of_two_devices_equals_one_on_one():
    done = run(
        "from tests.agents import test_library; test_library.on_a_mesh()",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
        JAX_PLATFORMS="cpu",
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_learner_imports_no_heavy_package():
    done = run(f"import sys, covr_jax.agents; print([name for name in {FOREIGN} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-2000:]
