"""dm_control's own tasks as environments of the host: its time steps, its rewards, its pictures."""

from __future__ import annotations

import ctypes.util
from functools import partial

import numpy as np
import pytest

from covr_jax.envs import HostVecEnv, get_task, suite_task
from covr_jax.envs.process_env import ProcessEnv
from covr_jax.envs.suite_env import SuiteEnv
from covr_jax.render.mujoco_renderer import HostRenderer
from tests.support.pairs import load

pytestmark = [
    pytest.mark.skipif(
        not any(map(ctypes.util.find_library, ("OSMesa", "EGL"))), reason="no off-screen OpenGL is installed"
    ),
    pytest.mark.xdist_group("suite_env"),
]
SIZE, REPEAT, SEED = 24, 4, 5


@pytest.fixture(scope="module")
def env():
    env = ProcessEnv(partial(SuiteEnv, "reacher_easy", image_size=SIZE, action_repeat=REPEAT), SIZE)
    yield env
    env.close()


def test_an_episode_is_dm_controls(env):
    """Starts, rewards and the end of an episode by its own seed; pictures by MuJoCo's renderer of the same state."""
    theirs, actions = load("reacher_easy", SEED), np.random.default_rng(0).uniform(-1, 1, (250, 2))
    draw = HostRenderer(theirs.physics.model.ptr, SIZE, SIZE)
    env.seed(SEED)
    steps, _ = [env.reset()], theirs.reset()
    images, rewards = [draw(theirs.physics.data.ptr)], [0.0]
    for action in actions:
        steps.append(env.step(action))
        rewards.append(sum(theirs.step(action.astype(np.float32)).reward for _ in range(REPEAT)))
        images.append(draw(theirs.physics.data.ptr))
    draw.close()
    assert [steps[0].first(), steps[249].mid(), steps[250].last()] == [True] * 3
    assert steps[250].discount == 1.0  # a time limit, not an end
    np.testing.assert_allclose([step.reward or 0.0 for step in steps], rewards, rtol=0, atol=1e-6)
    assert np.ptp(rewards) > 0 or sum(rewards) == 0
    for step, image in zip(steps[::50], images[::50], strict=True):
        np.testing.assert_array_equal(step.observation, image)
    assert env.step(actions[0]).first()


def test_a_seed_decides_the_start(env):
    def start(seed):
        env.seed(seed)
        return env.reset().observation.copy()

    one, other, again = start(1), start(2), start(1)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_the_task_of_the_suite_has_the_numbers_of_ours():
    ours = get_task("walker_walk")
    task = suite_task("walker_walk")
    assert (task.action_dim, task.action_repeat, task.time_limit) == (6, ours.action_repeat, 1000)
    assert task.fps == pytest.approx(40.0)
    assert HostVecEnv(task, 1, image_size=SIZE).episode_length == 500
    with pytest.raises(ValueError, match="unknown task"):
        suite_task("walker_sit")
