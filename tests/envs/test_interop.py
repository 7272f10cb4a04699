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
from gymnasium.utils.env_checker import check_env

from covr_jax import envs
from covr_jax.envs.interop import gymnasium_ids
from covr_jax.envs.interop.as_brax import BraxEnv
from covr_jax.envs.interop.as_dm_env import DmEnv
from covr_jax.envs.interop.as_gymnasium import GymEnv, GymVectorEnv

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


def test_the_ids_are_those_of_the_tasks():
    assert set(gymnasium_ids.TASKS) == set(envs.TASKS)
    assert all(f"covr_jax/{task}-v0" in gymnasium.registry for task in envs.TASKS)


def test_gymnasiums_own_checker_passes_a_single_env(recwarn):
    env = gymnasium.make("covr_jax/pendulum_swingup-v0", image_size=16, samples=1, render_mode="rgb_array", **LONG)
    check_env(env.unwrapped)
    assert [str(warning.message) for warning in recwarn if "covr_jax" in str(warning.message)] == []
    observation, _ = env.reset(seed=3)
    np.testing.assert_array_equal(env.render(), observation[..., -3:])
    assert env.metadata["render_fps"] == 0.5  # 100 control steps of 0.02 s
    ends = [env.step(np.zeros(1, np.float32))[3] for _ in range(10)]
    assert ends == [False] * 9 + [True]
    with pytest.raises(RuntimeError, match=r"call reset\(\) before step\(\): no episode is going on"):
        env.step(np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="leave pixels=False or render_mode out"):
        GymEnv(TASK, pixels=False, render_mode="rgb_array")


def test_an_id_makes_vectors_too():
    env = gymnasium.make_vec("covr_jax/pendulum_swingup-v0", 2, vectorization_mode="vector_entry_point", pixels=False)
    assert isinstance(env.unwrapped, GymVectorEnv) and env.reset(seed=1)[0].shape == (2, 3)


def test_gymnasium_requires_a_reset_first():
    with pytest.raises(RuntimeError, match="reset"):
        GymVectorEnv(TASK, 1, pixels=False).step(np.zeros((1, 1)))


WRONG = [  # actions of two envs with one number each
    (np.full((2, 1), np.nan), r"^action must be finite numbers \[2,1\], got nan at \[0, 0\]$"),
    ([[0.0], [np.inf]], r"^action must be finite numbers \[2,1\], got inf at \[1, 0\]$"),
    (np.zeros((1, 1)), r"^action must be real numbers \[2,1\] in \[-1, 1\], got float64 \[1, 1\]$"),
    (np.zeros(2, np.float32), r"got float32 \[2\]$"),
    (0.0, r"got float64 \[\]$"),
    (np.zeros((2, 1), bool), r"got bool \[2, 1\]$"),
    ([["left"], ["right"]], r"got <U5 \[2, 1\]$"),
]


@pytest.mark.field
def test_gymnasium_refuses_what_is_no_action_or_seed():
    env = GymVectorEnv(TASK, 2, pixels=False)
    env._state = "as after a reset"  # the actions are looked at before the state
    for action, said in WRONG:
        with pytest.raises(ValueError, match=said):
            env.step(action)
    for seed, said in ((-1, "between 0 and 4294967295, got -1"), (1.5, "a whole number, got 1.5"), ("1", "got '1'")):
        with pytest.raises(ValueError, match=f"^a seed must be .*{said}$"):
            env.reset(seed=seed)


@pytest.mark.field
def test_dm_env_refuses_what_is_no_action():
    """Reacher has two joints: one number would be broadcast to both."""
    env = DmEnv("reacher_easy", pixels=False)
    env._ended = False  # as after a reset
    for action, said in (
        (np.zeros(1), r"^action must be real numbers \[2\] in \[-1, 1\], got float64 \[1\]$"),
        ([0.0, np.nan], r"^action must be finite numbers \[2\], got nan at \[1\]$"),
        ([-np.inf, 0.0], r"got -inf at \[0\]$"),
        (np.zeros((1, 2)), r"got float64 \[1, 2\]$"),
        ("left", r"got <U4 \[\]$"),
    ):
        with pytest.raises(ValueError, match=said):
            env.step(action)


def test_shapes_are_refused_while_tracing():
    brax_env, env = BraxEnv("reacher_easy"), envs.make("reacher_easy", 2, pixels=False)
    state = jax.eval_shape(brax_env.reset, jax.random.key(0))
    with pytest.raises(ValueError, match=r"^action must be real numbers \[2\] in \[-1, 1\], got float32 \[1\]"):
        jax.eval_shape(brax_env.step, state, jnp.zeros(1))
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    for shape in ((2,), (1, 2), (2, 1)):
        with pytest.raises(ValueError, match=r"^action must be real numbers \[2,2\] in \[-1, 1\], got float32 \["):
            jax.eval_shape(env.step, state, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"qpos": np.zeros(2)}, r"^qpos must be \[3,2\], got \[2\]"),
        ({"qvel": np.zeros((1, 2))}, r"^qvel must be \[3,2\], got \[1, 2\]"),
        ({"goal": np.zeros((1, 2))}, r"^goal must be \[3,2\], got \[1, 2\]"),
    ],
)
def test_given_starts_have_the_shape_of_all_envs(given, said):
    env = envs.make("reacher_easy", 3, pixels=False)
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda key: env.reset(key, **given), jax.random.key(0))


def test_a_goal_for_a_task_without_one_is_refused():
    env = envs.make(TASK, 3, pixels=False)
    with pytest.raises(ValueError, match=r"^pendulum_swingup has no goal; leave it out"):
        jax.eval_shape(lambda key: env.reset(key, goal=np.zeros((3, 2))), jax.random.key(0))


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


@pytest.mark.slow
def test_stable_baselines_trains_on_an_id():
    from stable_baselines3 import PPO

    env = gymnasium.make(f"covr_jax/{TASK}-v0", pixels=False, action_repeat=20)
    model = PPO("MlpPolicy", env, n_steps=200, batch_size=50, n_epochs=2, seed=0, device="cpu")
    before = [weight.detach().clone() for weight in model.policy.parameters()]
    model.learn(1000)
    assert model.num_timesteps == 1000 and len(model.ep_info_buffer) == 1000 // 50
    assert {episode["l"] for episode in model.ep_info_buffer} == {50}  # truncated at 1000 control steps
    moved = [not weight.equal(old) for weight, old in zip(model.policy.parameters(), before, strict=True)]
    assert all(moved)
