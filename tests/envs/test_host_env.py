"""Envs on the host against values worked out by hand: stacks, restarts, seeds, faults, states that are out of date."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from covr_jax import envs
from covr_jax.envs import HostVecEnv
from covr_jax.envs.images import area_weights, resize_area
from covr_jax.envs.process_env import ProcessEnv
from covr_jax.runtime.signals import STOPPING
from covr_jax.types import EnvironmentLost
from tests.support.toy import Toy, toy_task

KEY = np.array([7, 9], np.uint32)
NOTHING = np.zeros((2, 2), np.float32)


def make(**options):
    task, opened = toy_task(options)
    return HostVecEnv(task, 2, image_size=4, frame_stack=3), opened


def times(timestep, env_id):
    """The times that the three stacked images of an env show, oldest first."""
    assert (timestep.observation[env_id] == timestep.observation[env_id, 0, 0]).all()
    return timestep.observation[env_id, 0, 0, 2::3].tolist()


def test_stacks_rewards_ends_and_restarts():
    env, opened = make()
    state, timestep = env.reset(KEY)
    rows = [(timestep.step_type, timestep.reward, timestep.discount, times(timestep, 0), times(timestep, 1))]
    for number in range(7):
        state, timestep = env.step(state, NOTHING + number / 10)
        rows.append((timestep.step_type, timestep.reward, timestep.discount, times(timestep, 0), times(timestep, 1)))
    step_types, rewards, discounts, env_0, env_1 = zip(*rows, strict=True)
    # Env 0: three steps, LAST with discount 0, FIRST again; env 1: five steps, LAST with discount 1.
    np.testing.assert_array_equal(np.array(step_types).T, [[0, 1, 1, 2, 0, 1, 1, 2], [0, 1, 1, 1, 1, 2, 0, 1]])
    np.testing.assert_array_equal(np.array(rewards).T, [[0, 1, 2, 3, 0, 1, 2, 3], [0, 11, 12, 13, 14, 15, 0, 11]])
    np.testing.assert_array_equal(np.array(discounts).T, [[1, 1, 1, 0, 1, 1, 1, 0], [1] * 8])
    # A stack begins with its first image three times, never reaches over a restart, and LAST keeps its own image.
    assert env_0[:6] == ([0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 0], [0, 0, 1])
    assert env_1[3:8] == ([1, 2, 3], [2, 3, 4], [3, 4, 5], [0, 0, 0], [0, 0, 1])
    # The action after a LAST is not taken.
    tenths = [round(10 * action[0]) for action in opened[0].actions]
    assert tenths == [0, 1, 2, 4, 5, 6]
    assert (timestep.step_type.dtype, timestep.reward.dtype, timestep.observation.dtype) == ("int32", "f4", "u1")
    assert timestep.observation.shape == (2, 4, 4, 9)


def test_metrics_are_those_of_the_episodes_that_ended_since_the_reset():
    env, _ = make()
    state, _ = env.reset(KEY)
    assert env.finished() == [[], []]
    for _ in range(7):
        state, _ = env.step(state, NOTHING)
    assert env.finished() == [[{"length": 3.0, "env_id": 0.0}] * 2, [{"length": 5.0, "env_id": 1.0}]]
    env.reset(KEY)
    assert env.finished() == [[], []]


def test_episodes_are_decided_by_key_env_id_and_number():
    (env, opened), (again, others) = make(), make()
    for one, key in ((env, KEY), (again, KEY)):
        state, _ = one.reset(key)
        for _ in range(12):
            state, _ = one.step(state, NOTHING)
    assert [toy.seeds for toy in opened] == [toy.seeds for toy in others]
    assert [len(toy.seeds) for toy in opened] == [4, 3]
    assert len({seed for toy in opened for seed in toy.seeds}) == 7
    first = [toy.seeds[0] for toy in opened]
    env.reset(KEY + 1)
    assert all(toy.seeds[-1] not in seeds for toy, seeds in zip(opened, [o.seeds for o in others], strict=True))
    env.reset(KEY)
    assert [toy.seeds[-1] for toy in opened] == first


def test_a_state_that_is_not_the_latest_starts_new_episodes_that_follow_its_own():
    (env, opened), (fresh, others) = make(), make()
    state, _ = env.reset(KEY)
    for _ in range(2):
        state, _ = env.step(state, NOTHING)
    expected = [np.random.SeedSequence([7, 9, env_id, 1]).generate_state(1)[0] for env_id in (0, 1)]
    # In the same process, after an evaluation has used the same envs,
    env.reset(KEY + 5)
    after, timestep = env.step(state, NOTHING)
    assert timestep.step_type.tolist() == [0, 0] and after.episode.tolist() == [1, 1]
    assert [toy.seeds[-1] for toy in opened] == expected
    # and in another one, where nothing is open yet.
    _, timestep = fresh.step(state, NOTHING)
    assert timestep.step_type.tolist() == [0, 0]
    assert [toy.seeds for toy in others] == [[seed] for seed in expected]
    _, timestep = env.step(after, NOTHING)  # the latest state goes on
    assert timestep.step_type.tolist() == [1, 1]


def test_a_fault_begins_an_episode_in_its_env_alone():
    env, opened = make(faults=(2,))
    state, _ = env.reset(KEY)
    kinds = []
    for _ in range(3):
        state, timestep = env.step(state, NOTHING)
        kinds.append(timestep.step_type.tolist())
    assert kinds == [[1, 1], [0, 0], [1, 1]] and times(timestep, 0) == [0, 0, 1]
    assert [toy.actions for toy in opened] == [[[0, 0], [0, 0]]] * 2


def test_nothing_is_opened_before_it_is_needed_and_everything_closed():
    env, opened = make()
    state, timestep = env.abstract_state(KEY)
    assert not opened and timestep.observation.shape == (2, 4, 4, 9)
    env.step(state, NOTHING)
    env.close()
    assert [toy.closed for toy in opened] == [True, True]
    env.reset(KEY)
    assert len(opened) == 4


def test_a_lost_environment_raises():
    env, _ = make(gone_at=2)
    state, _ = env.step(env.reset(KEY)[0], NOTHING)
    with pytest.raises(EnvironmentLost, match="does not come back"):
        env.step(state, NOTHING)


def test_after_a_reset_that_fails_no_earlier_state_goes_on():
    env, opened = make()
    state, _ = env.step(env.reset(KEY)[0], NOTHING)
    reset, opened[1].reset = opened[1].reset, lambda: (_ for _ in ()).throw(EnvironmentLost("gone"))
    with pytest.raises(EnvironmentLost):
        env.reset(KEY + 1)  # an evaluation's
    opened[1].reset = reset
    _, timestep = env.step(state, NOTHING)
    assert timestep.step_type.tolist() == [0, 0]  # both start new episodes: env 0 was in the evaluation's


# ------------------------------------------------------------ child processes


def test_a_process_returns_what_the_environment_itself_returns():
    build = partial(Toy, 1, image_size=4, action_repeat=4)
    local, child = build(), ProcessEnv(build, 4)
    try:
        for env in (local, child):
            env.seed(300)
        for number in range(7):
            one, two = (env.step([0, 0]) if number else env.reset() for env in (local, child))
            assert one[:3] == two[:3]
            np.testing.assert_array_equal(one.observation, two.observation)
        assert child.metrics() == {"length": 6.0, "env_id": 1.0}
        for action, said in (([0], r"\[2\] in \[-1, 1\], got int64 \[1\]"), ([0, np.nan], r"nan at \[1\]")):
            with pytest.raises(ValueError, match=said):
                child.step(action)
        before = two.observation.copy()
        child.step([0, 0])
        np.testing.assert_array_equal(two.observation, before)  # an image returned before does not change
        child.seed("no number")
        with pytest.raises(EnvironmentLost, match="an environment failed: TypeError: "):
            child.reset()
        child._process.kill()
        with pytest.raises(EnvironmentLost, match="died \\(exit code -9\\)"):
            child.reset()
    finally:
        child.close()


class Odd(Exception):
    """Neither its class nor its arguments survive a pipe."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}", lambda: None)


class Fragile(Toy):
    def __init__(self, fails_at, **sizes):
        super().__init__(1, **sizes)
        self.fails_at = fails_at
        self.fail("build")

    def fail(self, here):
        if here == self.fails_at:
            raise Odd("no", here)

    def step(self, action):
        self.fail("step")
        return super().step(action)


@pytest.mark.parametrize("where", ["build", "step"])
def test_any_exception_in_a_process_arrives_in_one_line(where):
    with pytest.raises(EnvironmentLost, match=f"^an environment failed: Odd: .*no {where}"):
        child = ProcessEnv(partial(Fragile, where, image_size=4, action_repeat=4), 4)
        try:
            child.seed(1)
            child.reset()
            child.step([0, 0])
        finally:
            child.close()


def test_a_fault_in_a_process_returns_first_within_an_episode():
    child = ProcessEnv(partial(Toy, 1, image_size=4, action_repeat=4, faults=(1,)), 4)
    try:
        child.seed(1)
        child.reset()
        assert child.step([0, 0]).first()
    finally:
        child.close()


def test_a_process_leaves_the_signals_that_stop_a_run_to_its_parent():
    """Schedulers and terminals send them to all processes; the parent still finishes its chunk."""
    child = ProcessEnv(partial(Toy, 1, image_size=4, action_repeat=4), 4)
    try:
        child.seed(1)
        child.reset()
        for number in STOPPING:
            os.kill(child._process.pid, number)
        assert child.step([0, 0]).mid()
    finally:
        child.close()
    assert child._process.exitcode == 0


def test_a_process_ends_when_its_parent_is_killed():
    code = """
import os, signal
from functools import partial
from covr_jax.envs.process_env import ProcessEnv
from tests.support.toy import Toy
if __name__ == "__main__":
    child = ProcessEnv(partial(Toy, 1, image_size=4, action_repeat=4), 4)
    print(child._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    status = Path(f"/proc/{done.stdout.strip()}/stat")
    for _ in range(100):
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child still runs ten seconds after its parent was killed")


# ---------------------------------------------------------------------- images


def test_area_interpolation_by_hand():
    # Three pixels onto two: each target pixel is one and a half source pixels wide.
    np.testing.assert_allclose(area_weights(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :, 0] = [[0, 100, 20, 40], [40, 60, 0, 20]]
    np.testing.assert_array_equal(resize_area(image, 2)[..., 0], [[50, 30], [50, 10]])
    np.testing.assert_array_equal(resize_area(image, 2)[..., 1:], 0)
    assert resize_area(image[:, :2], 2) is not None and np.shares_memory(resize_area(image[:, :2], 2), image)


@pytest.mark.parametrize("size", [84, 100, 48])
def test_area_interpolation_keeps_means(size):
    image = np.random.default_rng(size).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    np.testing.assert_allclose(resize_area(image, size).mean((0, 1)), image.mean((0, 1)), atol=0.1)


# -------------------------------------------------------------------- registry


def test_names_make_their_kind_of_environment():
    assert set(envs.HOST_TASKS) == {"car_racing", "carla_highway", "carla_ghost_pedestrian"}
    highway = envs.find_task("carla_highway")
    assert (highway.action_repeat, highway.time_limit, highway.action_dim) == (1, 1000, 2)
    assert envs.find_task("carla_highway", profile="dbc").action_repeat == 4
    env = envs.make("car_racing", 2, image_size=20)
    assert (env.action_dim, env.action_repeat, env.episode_length) == (3, 4, 250)
    for name in ("cartpole_swingdown", "carla_lowway"):
        with pytest.raises(ValueError, match=r"cartpole_swingup, .*, car_racing, carla_highway"):
            envs.find_task(name)
    with pytest.raises(ValueError, match="'nowhere' is no endpoint"):
        envs.find_task("carla_highway", endpoint="nowhere")
    with pytest.raises(ValueError, match="at least 1"):
        envs.make("car_racing", 0)
    with pytest.raises(ValueError, match="car_racing has no state observation"):
        envs.make("car_racing", 1, pixels=False)
    with pytest.raises(ValueError, match="unknown task 'car_racing'; choose from cartpole_swingup"):
        envs.get_task("car_racing")
