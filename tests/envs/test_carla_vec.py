"""CARLA as a host task, with a stand-in for the simulator's process: seeds, faults, square images, ports."""

from __future__ import annotations

import dm_env
import numpy as np
import pytest

pytest.importorskip("carla")

from covr_jax.carla.client import CarlaError, ServerGone
from covr_jax.envs import carla_vec, find_task
from covr_jax.envs.carla_vec import CarlaVecEnv
from covr_jax.types import EnvironmentLost


@pytest.fixture
def scripted(monkeypatch):
    """An env with a scripted simulator, and its log: images of 4 x 8 pixels, a fault where the throttle is negative."""
    made = CarlaVecEnv("highway", "127.0.0.1:2000", image_size=4)
    log = []

    def image(value):
        return np.full((4, 8, 3), value, np.uint8)

    def reset(self):
        self.fault = None
        log.append((self._seed, self.episode + 1))
        self.episode += 1
        return dm_env.restart(image(len(log)))

    def step(self, action):
        self.fault = "silence" if action[1] < 0 else None
        return dm_env.truncation(0.0, image(99)) if self.fault else dm_env.transition(float(action[1]), image(50))

    monkeypatch.setattr(carla_vec.CarlaEnv, "reset", reset)
    monkeypatch.setattr(carla_vec.CarlaEnv, "step", step)
    return made, log


def test_a_fault_becomes_the_first_of_a_new_episode(scripted):
    env, log = scripted
    env.seed(5)
    assert env.reset().first()
    assert env.step([0.0, 0.5]).reward == 0.5
    after = env.step([0.0, -1.0])
    assert after.first() and after.reward is None and (after.observation == 2).all()
    env.seed(6)
    env.reset()
    assert log == [(5, 0), (5, 1), (6, 0)]


def test_images_are_squares(scripted):
    env, _ = scripted
    env.seed(5)
    assert env.reset().observation.shape == env.step([0.0, 0.5]).observation.shape == (4, 4, 3)


def test_each_env_has_a_server_of_its_own():
    task = find_task("carla_highway", endpoint="10.0.0.7:2000", profile="dbc")
    assert (task.image_source, task.action_repeat, task.time_limit) == ("carla", 4, 1000)
    assert find_task("carla_highway").image_source == "loopback"
    opened = [task.open(env_id, image_size=8, action_repeat=4) for env_id in range(3)]
    assert [env.supervisor.address for env in opened] == [("10.0.0.7", 2000), ("10.0.0.7", 2003), ("10.0.0.7", 2006)]
    several = find_task("carla_highway", endpoint="10.0.0.7:2000,other:2100")
    opened = [several.open(env_id, image_size=8, action_repeat=1).supervisor.address for env_id in range(4)]
    assert opened == [("10.0.0.7", 2000), ("other", 2100), ("10.0.0.7", 2003), ("other", 2103)]
    with pytest.raises(ValueError, match=r"^a:1,b:2,a:1 names a server twice; further envs use port \+ 3"):
        find_task("carla_highway", endpoint="a:1,b:2,a:1")
    with pytest.raises(ValueError, match="'b' is no endpoint"):
        find_task("carla_highway", endpoint="a:1,b")
    with pytest.raises(ValueError, match="unknown profile 'abc'"):
        find_task("carla_highway", profile="abc")


def test_a_server_that_is_gone_ends_a_run_as_a_lost_environment():
    assert issubclass(ServerGone, CarlaError) and issubclass(CarlaError, EnvironmentLost)
