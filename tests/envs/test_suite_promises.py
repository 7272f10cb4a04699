"""What dm_control's suite promises of its tasks and models, for ours: sizes, ids, determinism, names. E envs."""

from __future__ import annotations

import jax
import mujoco
import numpy as np
import pytest
from dm_control import suite

from covr_jax import envs
from covr_jax.envs import TASKS, get_task
from tests.support.pairs import ENGINES, NUM_ENVS, compiled

DIMENSIONS = {  # actions, numbers in the state observation, agent steps of an episode
    "cartpole_swingup": (1, 5, 125),
    "reacher_easy": (2, 6, 250),
    "cheetah_run": (6, 17, 250),
    "walker_walk": (6, 24, 500),
    "finger_spin": (2, 9, 500),
    "ball_in_cup_catch": (2, 8, 250),
    "hopper_hop": (4, 15, 500),
    "walker_run": (6, 24, 500),
    "pendulum_swingup": (1, 3, 500),
}


@pytest.mark.parametrize("name", TASKS)
def test_sizes(name):
    env = envs.make(name, 2, pixels=False)
    state, timestep = compiled(name, "mujoco").reset(jax.random.key(0))
    assert (env.action_dim, timestep.observation.shape[1], env.episode_length) == DIMENSIONS[name]
    assert state.qpos.shape[1] == env.mj_model.nq
    assert env.mj_model.na == 0  # no activation that a state would have to carry
    assert env.episode_length * env.action_repeat == 1000


def named(name):
    """Ids that a task's file states as numbers."""
    model = get_task(name).load_model()
    body, geom, site, joint = (
        lambda x, kind=kind: mujoco.mj_name2id(model, kind, x)
        for kind in (
            mujoco.mjtObj.mjOBJ_BODY,
            mujoco.mjtObj.mjOBJ_GEOM,
            mujoco.mjtObj.mjOBJ_SITE,
            mujoco.mjtObj.mjOBJ_JOINT,
        )
    )
    return model, body, geom, site, joint


def test_ids_name_what_they_say():
    from covr_jax.envs.dmc import ball_in_cup, cheetah, finger, hopper, pendulum, reacher, walker

    _, body, geom, site, joint = named("reacher_easy")
    assert (geom("target"), geom("finger")) == (reacher._TARGET, reacher._FINGER)
    for module, name in ((cheetah, "cheetah_run"), (walker, "walker_walk"), (hopper, "hopper_hop")):
        _, body, *_ = named(name)
        assert body("torso") == module._TORSO
    model, body, *_ = named("hopper_hop")
    assert body("foot") == hopper._FOOT
    toe = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SENSOR, "touch_toe")
    assert hopper._TOUCH.start == model.sensor_adr[toe]
    model, body, geom, site, joint = named("finger_spin")
    assert (body("spinner"), joint("hinge")) == (finger._SPINNER, finger._HINGE)
    assert (site("target"), site("tip")) == (finger._TARGET_SITE, finger._TIP_SITE)
    top = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SENSOR, "touchtop")
    assert finger._TOUCH.start == model.sensor_adr[top]
    _, body, geom, site, _ = named("ball_in_cup_catch")
    assert (body("ball"), geom("ball")) == (ball_in_cup._BALL, ball_in_cup._BALL_GEOM)
    assert site("target") == ball_in_cup._TARGET_SITE
    assert named("pendulum_swingup")[1]("pole") == pendulum._POLE


# MJX of these has its parity with dm_control step by step, and takes minutes for what one task with contacts shows.
LEFT = {(name, "mjx") for name in ("cheetah_run", "walker_walk", "walker_run", "finger_spin", "hopper_hop")}


@pytest.mark.parametrize(("name", "physics"), [(n, p) for n in TASKS for p in ENGINES if (n, p) not in LEFT])
def test_what_the_suite_promises_of_its_tasks(name, physics):
    """dm_control's own checks of a domain, with envs in place of seeds; 2000 control steps of random actions.

    Of its suite_test.py two are elsewhere: that observations share no memory in test_compiled.py, that options arrive
    below. Colours that show the reward are an option of the suite, off by default, which these tasks do not have.
    """
    task = compiled(name, physics)
    generator = np.random.default_rng(3)
    actions = generator.uniform(-1, 1, (20, NUM_ENVS, task.env.action_dim)).astype(np.float32)

    def rollout():
        state, timestep = task.reset(jax.random.key(11))
        rows = [timestep]
        for action in actions:
            state, timestep = task.step(state, action)
            rows.append(timestep)
        return jax.tree.map(lambda *x: np.stack(x), *rows)

    one, two = rollout(), rollout()
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert np.isfinite(one.observation).all() and one.observation.dtype == np.float32
    assert (one.reward >= 0).all() and (one.reward <= 1 + 1e-6).all() and one.reward.dtype == np.float32
    assert (one.reward[0] == 0).all() and (one.discount == 1).all()
    assert (one.observation != one.observation[0]).any((0, 1)).all()  # no number of the observation stands still
    assert len(np.unique(one.observation[0], axis=0)) == NUM_ENVS
    _, other = task.reset(jax.random.key(12))
    assert (one.observation[0] != np.asarray(other.observation)).any(1).all()


@pytest.mark.parametrize("name", TASKS)
def test_what_the_suite_promises_of_its_models(name):
    """They belong to its benchmark, every element has a name, there are two cameras, motors take -1 to 1."""
    assert tuple(name.rsplit("_", 1)) in suite.BENCHMARKING
    model = get_task(name).load_model()
    counts = {
        "BODY": "nbody",
        "JOINT": "njnt",
        "GEOM": "ngeom",
        "SITE": "nsite",
        "CAMERA": "ncam",
        "LIGHT": "nlight",
        "MESH": "nmesh",
        "HFIELD": "nhfield",
        "TEXTURE": "ntex",
        "MATERIAL": "nmat",
        "EQUALITY": "neq",
        "TENDON": "ntendon",
        "ACTUATOR": "nu",
        "SENSOR": "nsensor",
        "NUMERIC": "nnumeric",
        "TEXT": "ntext",
        "TUPLE": "ntuple",
    }
    for kind, count in counts.items():
        for index in range(getattr(model, count)):
            assert mujoco.mj_id2name(model, getattr(mujoco.mjtObj, f"mjOBJ_{kind}"), index), (kind, index)
    assert model.ncam >= 2
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-1.0, 1.0]] * model.nu)


def test_there_are_nine_tasks():
    assert len(TASKS) == len(set(TASKS)) == 9


def test_options_arrive():
    env = envs.make("pendulum_swingup", 3, action_repeat=8, image_size=12, frame_stack=2, samples=1)
    _, timestep = jax.eval_shape(env.reset, jax.random.key(0))
    assert timestep.observation.shape == (3, 12, 12, 6) and env.episode_length == 125


def test_an_action_repeat_that_does_not_divide_an_episode_is_refused():
    with pytest.raises(ValueError, match="repeat of 3 does not divide the 1000 control steps of a walker_walk episode"):
        envs.make("walker_walk", 1, pixels=False, action_repeat=3)
