"""dm_env's contract tests in both scenarios and profiles, on the loopback server and, if given, on a real one."""

from __future__ import annotations

import os
import unittest

import numpy as np
import pytest
from absl.testing import absltest
from dm_env import test_utils

from covr_jax.carla.env import LOOPBACK, CarlaEnv

pytest.importorskip("carla", reason="the client is not installed")

REAL = os.environ.get("COVR_CARLA_ENDPOINT", "")


class SharedEnv(CarlaEnv):
    """``close`` resets the env but keeps its simulator, which the tests of one class share."""

    def close(self):
        self._over = True


class Contract(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """Promises of every environment."""

    endpoint, scenario, profile = LOOPBACK, "highway", "dmr"
    env: SharedEnv

    @classmethod
    def setUpClass(cls):
        if not cls.endpoint:
            raise unittest.SkipTest("COVR_CARLA_ENDPOINT=host:port names no real server")
        super().setUpClass()
        cls.env = SharedEnv(cls.scenario, cls.endpoint, profile=cls.profile, image_size=24, max_ticks=12)

    @classmethod
    def tearDownClass(cls):
        CarlaEnv.close(cls.env)
        super().tearDownClass()

    def make_object_under_test(self):
        return self.env

    def make_action_sequence(self):
        for _ in range(9 if self.profile == "dbc" else 30):
            yield np.array([0.0, 0.5], np.float32)

    def test_an_episode_is_truncated_at_its_time_limit(self):
        steps, step = 0, self.env.reset()
        while not step.last():
            step = self.env.step(np.array([0.0, 0.5], np.float32))
            steps += 1
        self.assertEqual((self.env.end, step.discount), ("time_limit", 1.0))
        self.assertEqual(steps, 12 // (4 if self.profile == "dbc" else 1))
        self.assertEqual(self.env.metrics()["steps"], steps)
        self.assertAlmostEqual(self.env.metrics()["seconds"], 0.6)
        self.assertEqual(step.observation.shape, (24, 24 * (5 if self.profile == "dbc" else 1), 3))
        self.assertIsNone(self.env.fault)


def contracts():
    for server, endpoint in (("Loopback", LOOPBACK), ("Real", REAL)):
        for scenario in ("highway", "ghost_pedestrian"):
            for profile in ("dmr", "dbc"):
                fields = {"endpoint": endpoint, "scenario": scenario, "profile": profile}
                yield f"Test{server}_{scenario}_{profile}", fields


for name, fields in contracts():
    globals()[name] = type(name, (Contract,), fields)
del Contract
