"""Envs whose simulation leaves the numbers of MuJoCo, where dm_control raises PhysicsError."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import envs
from covr_jax.types import StepType
from tests.support.trees import assert_trees_equal


@pytest.mark.parametrize(
    ("physics", "value"),
    [*(("mujoco", value) for value in (np.nan, np.inf, 1e12)), pytest.param("warp", np.nan, marks=pytest.mark.slow)],
)
def test_a_failed_env_begins_anew_and_the_others_do_not_notice(physics, value):
    env = envs.make("pendulum_swingup", 3, pixels=False, physics=physics)
    state, _ = env.reset(jax.random.key(0))
    action, step = jnp.full((3, 1), 0.5), jax.jit(env.step)
    expected, expected_step = step(state, action)
    bad = state.replace(qvel=state.qvel.at[1].set(value))
    found, found_step = step(bad, action)
    assert found_step.step_type.tolist() == [StepType.MID, StepType.FIRST, StepType.MID]
    assert found_step.reward[1] == 0 and found.step_count[1] == 0 and np.isfinite(found_step.observation).all()
    assert all(np.isfinite(leaf).all() for leaf in (found.qpos, found.qvel, found.qacc_warmstart, found.ctrl))
    others = np.array([0, 2])
    one, two = (
        jax.tree.map(lambda x: x[others], (s.replace(key=None), t))
        for s, t in ((expected, expected_step), (found, found_step))
    )
    assert_trees_equal(one, two)
