"""C MuJoCo called from compiled programs: what a call depends on, and who chooses it. E envs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from operator import itemgetter

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from covr_jax import envs
from covr_jax.envs import get_task
from covr_jax.envs.engines import make_physics
from covr_jax.envs.mujoco_physics import MuJoCoPhysics
from covr_jax.envs.stepper import JitStepper
from covr_jax.envs.task import Task
from covr_jax.envs.vec_env import VecEnv
from tests.support.trees import assert_trees_equal

TASK = "walker_walk"  # with contact


@pytest.fixture(scope="module")
def physics():
    return MuJoCoPhysics(get_task(TASK))


def states(count):
    generator = np.random.default_rng(0)
    qpos = generator.normal(0, 0.3, (count, 9)).astype(np.float32)
    qvel = generator.normal(0, 1.0, (count, 9)).astype(np.float32)
    return qpos, qvel, np.zeros((count, 9), np.float32), generator.uniform(-1, 1, (count, 6)).astype(np.float32)


def steps(physics, count=4):
    return jax.jit(jax.vmap(lambda *state: physics.control_steps(*state, None, count)))


def test_an_env_neither_depends_on_the_others_nor_on_earlier_calls(physics):
    """Each alone, all together, and again after other calls: the same bits. A resumed run depends on it."""
    rows, step = states(6), steps(physics)
    together = step(*rows)
    steps(physics, 1)(*(row[::-1] for row in rows))
    again = step(*rows)
    jax.tree.map(np.testing.assert_array_equal, together, again)
    for env_id in range(6):
        alone = step(*(row[[env_id]] for row in rows))
        assert_trees_equal(alone, jax.tree.map(itemgetter(slice(env_id, env_id + 1)), together))


def test_the_number_of_threads_changes_no_bit(physics, monkeypatch):
    rows = states(6)
    expected = steps(physics)(*rows)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    jax.tree.map(np.testing.assert_array_equal, steps(MuJoCoPhysics(get_task(TASK)))(*rows), expected)


def test_several_axes_of_envs_are_one_batch(physics):
    rows = states(6)
    flat = steps(physics)(*rows)
    nested = jax.vmap(steps(physics))(*(row.reshape(2, 3, -1) for row in rows))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.reshape(b.shape), b), nested, flat)


def test_rewards_are_summed_over_the_control_steps_that_follow_each_other(physics):
    qpos, qvel, warmstart, ctrl = states(3)
    (last, *_), total = steps(physics, 4)(qpos, qvel, warmstart, ctrl)
    state, rewards = (qpos, qvel, warmstart), []
    for _ in range(4):
        (*state, _), reward = steps(physics, 1)(*state, ctrl)
        rewards.append(reward)
    # Between calls the state is rounded to float32; within one it is not.
    np.testing.assert_allclose(total, sum(rewards), rtol=1e-5)
    np.testing.assert_allclose(last, state[0], rtol=0, atol=2e-6)
    assert (np.abs(total - rewards[0]) > 0.01).all()


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("cartpole_swingup", {"xmat"}),
        ("reacher_easy", {"geom_xpos"}),
        ("finger_spin", {"sensordata"}),
        ("walker_walk", {"xpos", "xmat", "xipos", "cvel", "subtree_com"}),
    ],
)
def test_a_control_step_returns_what_its_reward_reads(task, fields):
    assert set(MuJoCoPhysics(get_task(task))._rewarding) == fields


def test_a_state_that_is_not_finite_stays_so(physics):
    """By default C MuJoCo would silently start again from the model's own pose. The other envs go on as they do."""
    rows = states(3)
    expected = steps(physics)(*rows)
    rows[1][1, 0] = np.nan
    (qpos, *_), reward = steps(physics)(*rows)
    assert np.isnan(qpos[1]).any() and np.isnan(reward[1])
    for env_id in (0, 2):
        np.testing.assert_array_equal(qpos[env_id], expected[0][0][env_id])
        np.testing.assert_array_equal(reward[env_id], expected[1][env_id])


@pytest.mark.parametrize(("backend", "expected"), [("cpu", "mujoco"), ("gpu", "mjx"), ("tpu", "mjx")])
def test_auto_is_mujoco_on_cpus_and_mjx_elsewhere(monkeypatch, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = make_physics(get_task("pendulum_swingup"))
    assert type(found).__name__.lower() == f"{expected}physics"


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="unknown physics 'bullet'; choose from auto, mjx, warp, mujoco"):
        envs.make("pendulum_swingup", 1, physics="bullet")


def test_more_envs_than_a_callback_can_take_are_refused():
    with pytest.raises(ValueError, match="physics mujoco steps up to 2844 walker_walk envs, got 2845; use physics mjx"):
        envs.make(TASK, 2845, physics="mujoco")


def test_warp_loses_no_contacts_of_more_starts_than_it_has_room_for():
    env = envs.make("pendulum_swingup", 1, pixels=False, physics="warp")
    with pytest.raises(ValueError, match="physics warp draws up to 1 starts at once here, got 2"):
        env.draw_starts(jax.random.split(jax.random.key(0), 2))


@pytest.mark.slow
def test_the_most_envs_are_stepped_on_one_core():
    """Beyond the limit this program would wait for itself."""
    code = f"""
import jax, jax.numpy as jnp, os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from covr_jax import envs
env = envs.make("{TASK}", 2844, pixels=False, physics="mujoco", action_repeat=1)
state, _ = jax.jit(env.reset)(jax.random.key(0))
print(float(jax.jit(env.step)(state, jnp.zeros((2844, 6)))[1].reward.sum()) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["True"], done.stderr


def test_all_engines_have_the_same_state():
    """A run's checkpoint holds the same arrays, whichever steps it."""
    shapes = []
    for physics in ("mjx", "mujoco", "warp"):
        env = envs.make("reacher_easy", 2, pixels=False, physics=physics)
        state = jax.eval_shape(env.initial, jax.random.key(0))
        after, reward = jax.eval_shape(env.advance, state, jnp.zeros((2, 2)))
        assert jax.tree.structure(after) == jax.tree.structure(state)
        shapes.append([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((state, after, reward))])
    assert shapes[0] == shapes[1] == shapes[2]


class Roped(Task):
    """A task whose tendon runs around a drum."""

    def load_model(self):
        return mujoco.MjModel.from_xml_string("""<mujoco><worldbody><site name="a" pos="-1 0 0"/>
          <geom name="drum" type="sphere" size=".1"/><body><joint name="slide" type="slide"/><geom size=".1"/>
          <site name="b" pos="1 0 0"/></body></worldbody><tendon><spatial><site site="a"/><geom geom="drum"/>
          <site site="b"/></spatial></tendon><actuator><motor joint="slide" ctrlrange="-1 1"/></actuator></mujoco>""")


def test_tendons_around_geoms_need_mjx():
    """C MuJoCo returns no paths of tendons, and the renderer would draw them where they are not."""
    task = get_task("pendulum_swingup")
    roped = Roped(**{f.name: getattr(task, f.name) for f in dataclasses.fields(task)})
    with pytest.raises(ValueError, match="a tendon of pendulum_swingup passes a geom or a pulley, which needs physics"):
        MuJoCoPhysics(roped)


def test_the_program_that_draws_does_not_call_the_host():
    """JAX's persistent cache takes no program that does, and this one takes ten seconds to compile."""
    env = VecEnv(get_task("cartpole_swingup"), 2, image_size=8, samples=1, physics="mujoco")
    stepper = JitStepper(env)
    state = jax.eval_shape(env.initial, jax.random.key(0))
    fields = jax.eval_shape(env.host_fields, state)
    alone, whole = (stepper._observe.lower(state, stepper._no_reward, *more).as_text() for more in ((fields,), ()))
    assert "callback" not in alone and "callback" in whole
    assert "callback" in stepper._host_fields.lower(state).as_text()
