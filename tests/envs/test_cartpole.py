"""Cart-pole swingup against dm_control, and whole episodes. E envs."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from dm_control import suite

from covr_jax import envs
from covr_jax.envs import VecEnv, get_task
from covr_jax.envs.stepper import JitStepper
from covr_jax.envs.task import Task
from covr_jax.render import Renderer
from covr_jax.types import StepType

pytestmark = pytest.mark.slow  # test_dmc compares the same task in the first tier

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST
TASK = "cartpole_swingup"
NUM_ENVS = 32  # of the physics tests
SIZE = 20  # pixels


def random_physics(seed=0):
    generator = np.random.default_rng(seed)
    qpos = np.stack([generator.uniform(-1.5, 1.5, NUM_ENVS), generator.uniform(-np.pi, np.pi, NUM_ENVS)], -1)
    return qpos.astype(np.float32), generator.normal(0, 2, (NUM_ENVS, 2)).astype(np.float32)


def random_actions(seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (NUM_ENVS, 1)).astype(np.float32)


@cache
def reference_rollout(repeat):
    """dm_control from the same states with the same actions: qpos, qvel, flattened observation, summed reward."""
    env = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
    rows = []
    for qpos, qvel, action in zip(*random_physics(), random_actions(), strict=True):
        env.reset()
        with env.physics.reset_context():
            env.physics.data.qpos[:], env.physics.data.qvel[:] = qpos, qvel
        steps = [env.step(action) for _ in range(repeat)]
        observation = np.concatenate([np.ravel(part) for part in steps[-1].observation.values()])
        reward = sum(step.reward for step in steps)
        rows.append((env.physics.data.qpos.copy(), env.physics.data.qvel.copy(), observation, reward))
    return [np.stack(column) for column in zip(*rows, strict=True)]


@cache
def state_env(repeat):
    env = envs.make(TASK, NUM_ENVS, pixels=False, action_repeat=repeat)
    return env, jax.jit(env.reset), jax.jit(env.step)


@pytest.mark.parametrize(("repeat", "atol", "reward_atol"), [(1, 1e-6, 1e-6), (8, 1e-4, 1e-5)])
def test_physics_reward_and_observation_equal_dm_control(repeat, atol, reward_atol):
    _, reset, step = state_env(repeat)
    state, first = reset(jax.random.key(0), *random_physics())
    state, timestep = step(state, random_actions())
    qpos, qvel, observation, reward = reference_rollout(repeat)
    np.testing.assert_allclose(state.qpos, qpos, rtol=0, atol=atol)
    # Velocities are some ten times larger than positions.
    np.testing.assert_allclose(state.qvel, qvel, rtol=0, atol=10 * atol)
    np.testing.assert_allclose(timestep.reward, reward, rtol=0, atol=reward_atol)
    np.testing.assert_allclose(timestep.observation[:, :3], observation[:, :3], rtol=0, atol=atol)
    np.testing.assert_allclose(timestep.observation[:, 3:], observation[:, 3:], rtol=0, atol=10 * atol)
    assert reward.std() > 0.05 * repeat  # the states differ in their rewards
    assert first.reward.tolist() == [0.0] * NUM_ENVS


def test_the_first_observation_is_that_of_the_given_state():
    _, reset, _ = state_env(1)
    qpos, qvel = random_physics(5)
    state, timestep = reset(jax.random.key(0), qpos, qvel)
    np.testing.assert_array_equal(state.qpos, qpos)
    np.testing.assert_array_equal(state.qvel, qvel)
    expected = np.stack([qpos[:, 0], np.cos(qpos[:, 1]), np.sin(qpos[:, 1]), qvel[:, 0], qvel[:, 1]], -1)
    np.testing.assert_allclose(timestep.observation, expected, atol=1e-6)
    assert timestep.observation.dtype == jnp.float32
    assert timestep.step_type.tolist() == [FIRST] * NUM_ENVS
    assert timestep.discount.tolist() == [1.0] * NUM_ENVS


def test_actions_beyond_the_bounds_are_those_at_the_bounds():
    _, reset, step = state_env(1)
    state, _ = reset(jax.random.key(0), *random_physics())
    action = np.sign(random_actions())
    at_bound, _ = step(state, action)
    beyond, _ = step(state, 3.0 * action)
    inside, _ = step(state, 0.5 * action)
    np.testing.assert_array_equal(at_bound.qpos, beyond.qpos)
    assert (np.abs(at_bound.qvel - inside.qvel)[:, 0] > 1e-3).all()


class WideTask(Task):
    """Cart-pole whose motor takes -2 to 6."""

    def load_model(self):
        model = super().load_model()
        model.actuator_ctrlrange[:] = [[-2.0, 6.0]]
        return model


def test_actions_map_onto_the_actuators_range():
    task = WideTask(**{field.name: getattr(get_task(TASK), field.name) for field in dataclasses.fields(Task)})
    env = VecEnv(task, 5, pixels=False, action_repeat=1)
    nothing = jnp.zeros(())
    env.physics.control_steps = lambda *args, count: ((*args[:3], None), nothing)  # only the mapping matters here
    state, _ = env.advance(env.initial(jax.random.key(0)), jnp.array([[-1.0], [0.0], [0.5], [1.0], [9.0]]))
    np.testing.assert_allclose(state.ctrl[:, 0], [-2.0, 2.0, 4.0, 6.0, 6.0], rtol=1e-6)


# ---------------------------------------------------------------------- start


def test_starts_follow_dm_controls_distribution():
    resets = 2000
    env = envs.make(TASK, resets, pixels=False)
    state = jax.jit(env.initial)(jax.random.key(3))
    got = np.concatenate([state.qpos, state.qvel], -1).astype(np.float64)
    reference = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
    rows = []
    for _ in range(400):
        reference.reset()
        rows.append([*reference.physics.data.qpos, *reference.physics.data.qvel])
    for sample in (got, np.array(rows)):  # five standard errors of the mean and of the deviation
        count = len(sample)
        np.testing.assert_allclose(sample.mean(0), [0, np.pi, 0, 0], rtol=0, atol=5 * 0.01 / np.sqrt(count))
        np.testing.assert_allclose(sample.std(0), 0.01, rtol=0, atol=5 * 0.01 / np.sqrt(2 * count))
        correlation = np.corrcoef(sample.T) - np.eye(4)
        assert np.abs(correlation).max() < 5 / np.sqrt(count)


def test_no_array_of_a_state_is_empty():
    """Checkpoints refuse arrays without elements."""
    _, reset, _ = state_env(1)
    state, _ = reset(jax.random.key(1))
    assert state.stack is None and all(leaf.size for leaf in jax.tree.leaves(state))


def test_envs_start_differently_and_keys_decide():
    _, reset, _ = state_env(1)
    one, _ = reset(jax.random.key(1))
    again, _ = reset(jax.random.key(1))
    other, _ = reset(jax.random.key(2))
    assert len(np.unique(one.qpos[:, 0])) == NUM_ENVS
    np.testing.assert_array_equal(one.qpos, again.qpos)
    np.testing.assert_array_equal(jax.random.key_data(one.key), jax.random.key_data(again.key))
    assert (one.qpos != other.qpos).all()


# ------------------------------------------------------------- a whole episode


@pytest.fixture(scope="module")
def episode():
    """127 agent steps of two envs with pixels: (time steps with physics, the env)."""
    env = envs.make(TASK, 2, image_size=SIZE, samples=1)
    compiled = JitStepper(env)
    rows = []
    state, timestep = compiled.reset(jax.random.key(5))
    for step in range(128):
        rows.append(jax.tree.map(np.asarray, (timestep, state.qpos, state.qvel, state.step_count)))
        # The step after LAST gets an action that must not matter.
        push = 0.3 if step // 10 % 2 else -0.3  # alternating, so that a step shows even in a small image
        action = np.array([[1e6], [-1e6]] if step == 125 else [[push], [-push]], np.float32)
        state, timestep = compiled.step(state, action)
    return rows, env


def test_the_time_limit_truncates_after_125_agent_steps(episode):
    rows, env = episode
    kinds = np.stack([timestep.step_type for timestep, *_ in rows])
    assert env.episode_length == 125
    expected = [FIRST, *[MID] * 124, LAST, FIRST, MID]
    assert kinds.T.tolist() == [expected, expected]
    assert all((timestep.discount == 1.0).all() for timestep, *_ in rows)
    assert rows[125][3].tolist() == [1000, 1000] and rows[126][3].tolist() == [0, 0]
    assert (rows[125][0].reward > 0).all()  # LAST has its reward


def direct_frame(env, qpos):
    """The image of a state, rendered from C MuJoCo's kinematics without the environment."""
    data = mujoco.MjData(env.mj_model)
    data.qpos[:] = qpos
    mujoco.mj_forward(env.mj_model, data)
    return np.asarray(Renderer(env.mj_model, SIZE, SIZE, samples=1)(data))


@pytest.mark.parametrize(("time", "wrong"), [(0, 60), (60, 50), (125, 126), (126, 125)])
def test_the_newest_frame_shows_the_state_of_its_own_time(episode, time, wrong):
    """Above all at 125: the true last frame, not the one that follows it."""
    rows, env = episode
    for env_id in range(2):
        newest = rows[time][0].observation[env_id, ..., -3:].astype(int)
        assert newest.shape == (SIZE, SIZE, 3)
        gap = np.abs(newest - direct_frame(env, rows[time][1][env_id]))
        # Two kinematics in float32 and float64: at most a level, but for pixels on an edge.
        assert (gap > 1).mean() < 0.01
        assert np.abs(newest - direct_frame(env, rows[wrong][1][env_id])).max() > 10


def test_a_new_episode_starts_from_a_new_state_and_ignores_the_action(episode):
    rows, _ = episode
    timestep, qpos, qvel, _ = rows[126]
    assert timestep.reward.tolist() == [0.0, 0.0]
    frames = timestep.observation.reshape(2, SIZE, SIZE, 3, 3)
    for age in range(3):
        np.testing.assert_array_equal(frames[..., age, :], frames[..., 2, :])
    np.testing.assert_allclose(qpos, [[0, np.pi]] * 2, atol=0.06)  # six deviations of the start
    np.testing.assert_allclose(qvel, 0.0, atol=0.06)
    assert (qpos[0] != qpos[1]).all() and (qpos != rows[0][1]).all()  # neither a copy of the other nor the first start


def test_stacks_hold_the_last_three_frames(episode):
    rows, _ = episode
    frames = np.stack([timestep.observation[..., -3:] for timestep, *_ in rows])
    for time in (1, 2, 3, 77, 125, 127):
        begin = 0 if time < 126 else 126
        ages = [max(time - 2, begin), max(time - 1, begin), time]
        np.testing.assert_array_equal(rows[time][0].observation, np.concatenate(frames[ages], -1))


def test_rewards_lie_in_the_range_of_the_repeat(episode):
    rows, _ = episode
    rewards = np.stack([timestep.reward for timestep, *_ in rows])
    assert rewards.dtype == np.float32
    assert (rewards >= 0).all() and (rewards <= 8).all()


# ----------------------------------------------------------------------- errors


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError) as caught:
        envs.make("cartpole_swingdown", 1)
    assert "unknown task 'cartpole_swingdown'" in str(caught.value)
    assert all(task in str(caught.value) for task in envs.TASKS)


@pytest.mark.parametrize(
    "options",
    [{"num_envs": 0}, {"num_envs": -1}, {"action_repeat": 0}, {"frame_stack": 0}, {"image_size": 0}, {"samples": 3}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError):
        envs.make(TASK, **{"num_envs": 1, **options})
