"""Starts of 10,000 episodes against 10,000 of dm_control's, drawn independently. Rows: episodes."""

from __future__ import annotations

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.stats import ks_2samp

from covr_jax.envs import get_task
from covr_jax.envs.mjx_physics import MJXPhysics
from covr_jax.envs.mujoco_physics import MuJoCoPhysics
from covr_jax.envs.starts import touch_at_start
from tests.support.pairs import NUM_ENVS, compiled, load

pytestmark = pytest.mark.slow

RESETS = 10_000
VARIED = {  # how many numbers of qpos, qvel and goal are drawn
    "cartpole_swingup": 4,
    "reacher_easy": 4,
    "cheetah_run": 6,
    "walker_walk": 7,
    "finger_spin": 3,
    "ball_in_cup_catch": 2,
    "hopper_hop": 5,
    "pendulum_swingup": 1,
}
MIXTURES = 20
# Kolmogorov-Smirnov tests with one false alarm in a hundred for all of them together (Bonferroni). At this level a
# distance of 0.033 between two distribution functions is detected.
LEVEL = 0.01 / (sum(VARIED.values()) + MIXTURES * len(VARIED))


@contextmanager
def unsettled():
    """Cheetahs start as they are drawn, without the 200 physics steps that follow here and in the suite."""

    def settle(physics, move, steps):
        return physics.model.qpos0 + move, jnp.zeros(physics.model.nv)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MJXPhysics, "settle", settle)
        patch.setattr(MuJoCoPhysics, "settle", settle)
        patch.setattr("dm_control.suite.cheetah.Physics.step", lambda physics, nstep=1: None)
        yield


def draws(name, physics, keys):
    """qpos, qvel and goal, concatenated, as a reset and every later episode draw them."""
    with unsettled():
        draw = jax.jit(compiled(name, physics).env.draw_starts)
        batches = [draw(some) for some in jnp.split(keys, -(-len(keys) // 2_000))]  # see ``MuJoCoPhysics.max_envs``
    numbers = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    return np.concatenate([part.astype(np.float64) for part in numbers if part is not None], -1)


def suites_draws(name):
    env, goal, rows = load(name), get_task(name).goal is not None, []
    physics = env.physics
    with unsettled(), physics.reset_context():
        for _ in range(RESETS):
            env.task.initialize_episode(physics)
            target = physics.named.model.geom_pos["target"][:2] if goal else []
            rows.append(np.concatenate([physics.data.qpos, physics.data.qvel, target]))
    return np.stack(rows)


# The two engines draw by the same code, but for what must not touch anything.
CASES = [(name, "mujoco") for name in VARIED] + [("ball_in_cup_catch", "mjx")]


@pytest.mark.parametrize(("name", "physics"), CASES)
def test_draws_have_dm_controls_distribution(name, physics):
    """Each number and, for their dependence, sums of all of them with random weights."""
    ours, theirs = draws(name, physics, jax.random.split(jax.random.key(7), RESETS)), suites_draws(name)
    still = np.ptp(theirs, axis=0) < 1e-9
    np.testing.assert_allclose(ours[:, still], theirs[:, still], rtol=0, atol=1e-6)
    if name in ("finger_spin", "ball_in_cup_catch"):  # the suite draws until nothing touches
        model = compiled(name, physics).env.mj_model
        assert deepest_contact(model, ours[:, : model.nq]) > -1e-6
    ours, theirs = ours[:, ~still], theirs[:, ~still]
    assert ours.shape[1] == VARIED[name]
    weights = np.random.default_rng(0).normal(size=(VARIED[name], MIXTURES)) / theirs.std(0)[:, None]
    weights = np.concatenate([np.eye(VARIED[name]), weights], 1)
    pairs = zip((ours @ weights).T, (theirs @ weights).T, strict=True)
    values = [ks_2samp(*pair, method="asymp").pvalue for pair in pairs]
    assert min(values) > LEVEL


@pytest.mark.parametrize("physics", ["mujoco", "mjx"])
def test_starts_that_touch_nothing_need_no_sensors(physics):
    """Those of contact, the only ones that the task reads, are 0 where they are computed."""
    env = compiled("finger_spin", physics).env
    assert env.task.clear_starts and not get_task("hopper_hop").clear_starts
    qpos, qvel, *_ = env.draw_starts(jax.random.split(jax.random.key(3), 1_000))
    computed = jax.jit(jax.vmap(env.physics.initial_touch))(qpos, qvel)
    known = touch_at_start(env.physics, qpos, qvel, drawn=True)
    assert (known.shape, known.dtype) == (computed.shape, computed.dtype)
    np.testing.assert_array_equal(computed[:, 14:16], known[:, 14:16])
    assert (computed[:, :14] != 0.0).any()


def deepest_contact(model, positions):
    """Least distance of two things that touch in any of qpos [N,nq], m."""
    data, least = mujoco.MjData(model), np.inf
    for qpos in positions:
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        least = min(least, *data.contact.dist, np.inf)
    return least


def test_walker_run_starts_as_walker_walk():
    assert get_task("walker_run").init is get_task("walker_walk").init


@pytest.mark.parametrize(("physics", "atol"), [("mujoco", 2e-6), ("mjx", 1e-4)])
def test_cheetahs_settle_as_dm_controls(physics, atol):
    """From the same draws, within a tolerance that makes a comparison of distributions unnecessary."""
    key = jax.random.key(8)
    settled, _ = compiled("cheetah_run", physics).reset(key)
    env_keys = jax.random.split(jax.random.split(key)[0], NUM_ENVS)  # as ``initial`` splits it
    suites = load("cheetah_run").physics
    for env_id, start in enumerate(draws("cheetah_run", physics, env_keys)):
        with suites.reset_context():
            suites.data.qpos[:] = start[: len(suites.data.qpos)]
            suites.step(nstep=200)
        np.testing.assert_allclose(settled.qpos[env_id], suites.data.qpos, rtol=0, atol=atol)
        np.testing.assert_allclose(settled.qvel[env_id], suites.data.qvel, rtol=0, atol=20 * atol)
