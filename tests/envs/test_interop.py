"""The tasks in the interfaces of brax, dm_env and gymnasium, checked by these libraries' own code."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from dm_env import StepType as DmStepType
from dm_env import test_utils

from covr_jax import envs
from covr_jax.envs.interop.as_brax import BraxEnv
from covr_jax.envs.interop.as_dm_env import DmEnv
from covr_jax.envs.interop.as_gymnasium import GymVectorEnv

TASK = "pendulum_swingup"  # the smallest
LONG = {"action_repeat": 100}  # ten agent steps an episode


class TestDmEnv(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """dm_env's own contract."""

    def make_object_under_test(self):
        return DmEnv(TASK, pixels=False, **LONG)

    def make_action_sequence(self):
        for _ in range(25):
            yield np.zeros(1, np.float32)


@pytest.mark.slow
def test_dm_env_ends_with_a_truncation_and_pixels():
    env = DmEnv(TASK, image_size=16, samples=1, **LONG)
    steps = [env.reset()] + [env.step(np.ones(1, np.float32)) for _ in range(11)]
    kinds = [step.step_type for step in steps]
    assert kinds == [DmStepType.FIRST, *[DmStepType.MID] * 9, DmStepType.LAST, DmStepType.FIRST]
    assert steps[10].discount == 1.0
    assert steps[3].observation.shape == (16, 16, 9) and steps[3].observation.dtype == np.uint8
    assert not np.array_equal(steps[0].observation, steps[11].observation)  # another start


def test_gymnasium_envs_restart_on_the_next_step():
    env = GymVectorEnv(TASK, 3, pixels=False, **LONG)
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    first, _ = env.reset(seed=4)
    again, _ = env.reset(seed=4)
    np.testing.assert_array_equal(first, again)
    assert env.observation_space.contains(first)
    ends = []
    for _ in range(12):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation) and reward.shape == (3,)
        ends.append((terminated.any(), truncated.all(), truncated.any()))
    assert [end[1] for end in ends] == [False] * 9 + [True] + [False] * 2
    assert not any(end[0] for end in ends)


def test_gymnasium_requires_a_reset_first():
    with pytest.raises(RuntimeError, match="reset"):
        GymVectorEnv(TASK, 1, pixels=False).step(np.zeros((1, 1)))


@pytest.mark.slow
def test_brax_steps_as_the_vectorised_environment_does():
    brax_env = BraxEnv(TASK)
    env = envs.make(TASK, 1, pixels=False)
    state, (physics, _) = brax_env.reset(jax.random.key(3)), env.reset(jax.random.key(3))
    for action in (0.3, -1.0, 0.8):
        state = brax_env.step(state, jnp.array([action]))
        physics, timestep = env.step(physics, jnp.array([[action]]))
        np.testing.assert_array_equal(state.obs, timestep.observation[0])
        assert (state.reward, state.done) == (timestep.reward[0], 0.0)
    assert (brax_env.observation_size, brax_env.action_size) == (3, 1)


@pytest.mark.slow
def test_braxs_own_sac_trains_on_a_task(monkeypatch):
    """A short run through brax's wrappers, replay and losses; every episode is truncated at its full length."""
    from brax.training.agents.sac import train

    def replicated(tree, devices):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(devices)), tree)

    # brax 0.14 still calls a function that JAX 0.10 has removed.
    monkeypatch.setattr(jax, "device_put_replicated", replicated, raising=False)
    lengths = []
    env = BraxEnv(TASK, action_repeat=50)
    train.train(
        environment=env,
        num_timesteps=400,
        episode_length=env.episode_length,
        num_envs=8,
        num_eval_envs=4,
        num_evals=2,
        batch_size=16,
        min_replay_size=32,
        max_replay_size=1000,
        grad_updates_per_step=1,
        progress_fn=lambda _, metrics: lengths.append(float(metrics["eval/avg_episode_length"])),
    )
    assert lengths == [env.episode_length] * 2
