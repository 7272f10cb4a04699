"""Every task against dm_control: physics, rewards, observations, starts. E envs."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from covr_jax import envs
from covr_jax.envs import TASKS
from tests.support.pairs import ENGINES, NUM_ENVS, compiled, flat, load

MAX_AGE = 60  # control steps of random actions before a state is taken

PHYSICS = [name for name in TASKS if name != "walker_run"]  # which shares walker_walk's
# MJX of these is compared below, step by step, and as cheetahs settle in test_starts; compiling takes minutes.
ELSEWHERE = {("cheetah_run", "mjx"), ("finger_spin", "mjx")}
PAIRS = [(name, physics) for name in PHYSICS for physics in ENGINES if (name, physics) not in ELSEWHERE]
# Kernels of Warp are compiled for one device or the other; on CPUs, where nobody needs them, one task stands for all.
ON_GPU = pytest.mark.skipif(jax.default_backend() != "gpu", reason="physics warp of this task is tested on NVIDIA GPUs")
WARP = [pytest.param(name, "warp", marks=[pytest.mark.slow] if name == "walker_walk" else [ON_GPU]) for name in PHYSICS]


class Reference(NamedTuple):
    """States that dm_control reached, and one control step from each. Rows: envs."""

    qpos: np.ndarray
    qvel: np.ndarray
    goal: np.ndarray | None
    action: np.ndarray
    next_qpos: np.ndarray
    next_qvel: np.ndarray
    observation: np.ndarray
    reward: np.ndarray


@cache
def reference(name):
    env, generator = load(name), np.random.default_rng(0)
    physics, size = env.physics, env.action_spec().shape[0]
    action = generator.uniform(-1, 1, (NUM_ENVS, size)).astype(np.float32)
    rows = []
    for env_id in range(NUM_ENVS):
        env.reset()
        for _ in range(generator.integers(0, MAX_AGE)):
            env.step(generator.uniform(-1, 1, size))
        qpos, qvel = physics.data.qpos.astype(np.float32), physics.data.qvel.astype(np.float32)
        physics.data.qpos[:], physics.data.qvel[:] = qpos, qvel
        physics.data.qacc_warmstart[:] = 0.0
        physics.forward()
        goal = physics.named.model.geom_pos["target"][:2].copy() if name == "reacher_easy" else np.zeros(0)
        step = env.step(action[env_id])
        rows.append(
            (
                qpos,
                qvel,
                goal,
                action[env_id],
                physics.data.qpos.copy(),
                physics.data.qvel.copy(),
                flat(step.observation),
                step.reward,
            )
        )
    return Reference(*(np.stack(column) for column in zip(*rows, strict=True)))


# Positions, velocities and observations, rewards: MuJoCo's numbers are dm_control's, rounded to float32.
TOLERANCES = {"mujoco": (2e-6, 1e-5, 1e-6), "mjx": (2e-5, 2e-3, 1e-4), "warp": (2e-5, 2e-3, 1e-4)}


@pytest.mark.parametrize(("name", "physics"), PAIRS + WARP)
def test_a_control_step_equals_dm_controls(name, physics):
    task, known = compiled(name, physics), reference(name)
    position, velocity, reward = TOLERANCES[physics]
    state, _ = task.reset(jax.random.key(0))
    state = state.replace(qpos=jnp.asarray(known.qpos), qvel=jnp.asarray(known.qvel))
    if state.goal is not None:
        state = state.replace(goal=jnp.asarray(known.goal))
    state, timestep = task.step(state, known.action)
    np.testing.assert_allclose(state.qpos, known.next_qpos, rtol=0, atol=position)
    np.testing.assert_allclose(state.qvel, known.next_qvel, rtol=velocity / 2, atol=velocity)
    np.testing.assert_allclose(timestep.observation, known.observation, rtol=velocity / 2, atol=velocity)
    np.testing.assert_allclose(timestep.reward, known.reward, rtol=0, atol=reward)


@pytest.mark.parametrize("physics", ENGINES)
@pytest.mark.parametrize("name", TASKS)
def test_rewards_of_states_that_earn_them(name, physics):
    """Random behaviour seldom earns anything in the sparse tasks, so the states are arranged."""
    env = compiled(name, physics).env
    task, suites, target = load(name).task, load(name).physics, np.array([0.1, 0.05], np.float32)
    qpos, qvel = map(np.float32, arranged(name, env.mj_model))
    theirs = []
    for row in range(len(qpos)):
        with suites.reset_context():
            task.initialize_episode(suites)
            suites.data.qpos[:], suites.data.qvel[:] = qpos[row], qvel[row]
            if env.task.goal:
                suites.named.model.geom_pos["target"][:2] = target
        theirs.append(task.get_reward(suites))

    goal = jnp.asarray(target) if env.task.goal else None

    def reward(qpos, qvel):
        data = env.physics.data(qpos, qvel, jnp.zeros(env.action_dim), goal, None)
        return env.task.reward(env.physics.model, data)

    np.testing.assert_allclose(jax.jit(jax.vmap(reward))(qpos, qvel), theirs, rtol=0, atol=1e-5)
    assert np.ptp(theirs) > 0.3  # some earn, some do not


def arranged(name, model, count=40):
    """States near those that the task pays for: qpos [count,nq], qvel [count,nv]."""
    generator = np.random.default_rng(1)
    qpos, qvel = np.tile(model.qpos0, (count, 1)), np.zeros((count, model.nv))
    if name == "reacher_easy":
        qpos[:] = generator.uniform([-1, 0.5], [1, 3.0], (count, 2))
    elif name in ("cheetah_run", "walker_walk", "walker_run", "hopper_hop"):
        qpos[:, 3:] += generator.normal(0, 0.05, (count, model.nq - 3))
        forward = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, "rootx")
        qvel[:, forward] = generator.uniform(-2, 12, count)
    elif name == "finger_spin":
        qvel[:, 2] = generator.uniform(-25, 0, count)
    elif name == "ball_in_cup_catch":
        qpos[:, 2:] = generator.uniform([-0.05, 0.3], [0.05, 0.4], (count, 2))
    else:  # poles
        qpos[:, -1] = generator.normal(0, 0.15, count)
        qvel[:, -1] = generator.normal(0, 3.0, count)
    return qpos, qvel


@pytest.mark.slow
def test_finger_s_physics_steps_equal_mujocos():
    """One and ten physics steps from the same states with the same control, float32 against C's float64."""
    env, known = compiled("finger_spin", "mjx").env, reference("finger_spin")
    low, high = env.mj_model.actuator_ctrlrange.T
    ctrl = low + 0.5 * (known.action + 1.0) * (high - low)

    def roll(qpos, qvel, ctrl):
        data = mjx.make_data(env.mj_model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl)
        return jax.lax.scan(lambda d, _: (new := mjx.step(env.physics.model, d), new.qpos), data, None, length=10)[1]

    ours = jax.jit(jax.vmap(roll))(known.qpos, known.qvel, ctrl.astype(np.float32))
    theirs, data = np.zeros(ours.shape), mujoco.MjData(env.mj_model)
    for env_id in range(NUM_ENVS):
        mujoco.mj_resetData(env.mj_model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = known.qpos[env_id], known.qvel[env_id], ctrl[env_id]
        for step in range(10):
            mujoco.mj_step(env.mj_model, data)
            theirs[env_id, step] = data.qpos
    gap = np.abs(ours - theirs).max(-1)
    assert np.quantile(gap[:, 0], 0.95) <= 3e-7
    assert gap[:, 0].max() <= 5e-6  # a few of the states are in hard contact, where forces in float32 cost more
    assert gap[:, 9].max() <= 1e-4


@pytest.mark.slow
def test_double_precision_follows_mujoco_for_a_hundred_steps():
    """float64 in a process of its own: what separates the two in float32 is rounding, not the model."""
    code = """
import jax, numpy as np, mujoco
jax.config.update("jax_enable_x64", True)
from mujoco import mjx
from covr_jax.envs import get_task
for name in ("cheetah_run", "walker_walk"):
    model = get_task(name).load_model()
    data, generator = mujoco.MjData(model), np.random.default_rng(0)
    data.qpos[3:] += generator.normal(0, 0.1, model.nq - 3)
    controls = generator.uniform(-1, 1, (100, model.nu))
    device = mjx.make_data(model).replace(qpos=jax.numpy.asarray(data.qpos.copy()))
    step = lambda d, c: (mjx.step(mx, d.replace(ctrl=c)), None)
    mx = mjx.put_model(model)
    device, _ = jax.jit(lambda d: jax.lax.scan(step, d, controls))(device)
    for control in controls:
        data.ctrl[:] = control
        mujoco.mj_step(model, data)
    print(name, np.abs(device.qpos - data.qpos).max())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    gaps = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines() if "_" in line.split()[0]}
    assert gaps.keys() == {"cheetah_run", "walker_walk"}
    assert max(gaps.values()) <= 1e-12, gaps


def test_a_start_can_be_given():
    known = reference("reacher_easy")
    env = envs.make("reacher_easy", NUM_ENVS, pixels=False)
    state, timestep = jax.jit(env.reset)(jax.random.key(0), known.qpos, known.qvel, known.goal)
    np.testing.assert_array_equal(state.qpos, known.qpos)
    np.testing.assert_array_equal(state.qvel, known.qvel)
    np.testing.assert_allclose(state.goal, known.goal, rtol=1e-7)
    np.testing.assert_array_equal(timestep.observation[:, :2], known.qpos)


@pytest.mark.parametrize(("name", "physics"), PAIRS + WARP)
def test_the_first_observation_is_dm_controls_of_that_state(name, physics):
    state, timestep = compiled(name, physics).reset(jax.random.key(13))
    env = load(name)
    for env_id in range(NUM_ENVS):
        with env.physics.reset_context():
            env.task.initialize_episode(env.physics)
            env.physics.data.qpos[:], env.physics.data.qvel[:] = state.qpos[env_id], state.qvel[env_id]
            if state.goal is not None:
                env.physics.named.model.geom_pos["target"][:2] = state.goal[env_id]
        expected = flat(env.task.get_observation(env.physics))
        gap = TOLERANCES[physics][1]
        np.testing.assert_allclose(timestep.observation[env_id], expected, rtol=gap / 2, atol=gap)


@pytest.mark.parametrize("physics", ENGINES)
@pytest.mark.parametrize("below", [0.02, 0.35])  # m, from the cup to the ball: a slack string and a taut one
def test_the_renderer_gets_the_length_of_the_string(below, physics):
    env = envs.make("ball_in_cup_catch", 1, pixels=False, physics=physics)
    qpos = np.array([0.0, 0.0, 0.0, -below], np.float32)
    data = mujoco.MjData(env.mj_model)
    data.qpos[:] = qpos
    mujoco.mj_forward(env.mj_model, data)
    ours = jax.jit(env.physics.data)(jnp.asarray(qpos), jnp.zeros(4), jnp.zeros(2), None, None)
    assert data.ten_length[0] > 0.05
    np.testing.assert_allclose(ours.ten_length, data.ten_length, rtol=1e-5)
