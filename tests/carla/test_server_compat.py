"""Optional calls of profile ``dmr``: gears, lens, scenery; and servers that do not support them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax.carla.env import CarlaEnv
from covr_jax.carla.loopback import wire
from covr_jax.carla.loopback.__main__ import ASSETS
from covr_jax.carla.loopback.calls import Calls
from covr_jax.carla.loopback.world import World
from covr_jax.carla.servers import child_environment

pytest.importorskip("carla", reason="the client is not installed")
server_compat = import_module("covr_jax.carla.worker.server_compat")  # imports carla

LOOKER = str(Path(__file__).parents[1] / "support" / "looker.py")


def seen_by_second_client(env):
    """The state that a second client reads while the first goes on stepping."""
    command = [sys.executable, LOOKER, str(env.supervisor.address.port)]
    looker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment())
    end = time.monotonic() + 120.0
    while looker.poll() is None and time.monotonic() < end:
        env.step(np.zeros(2))
    looker.kill()  # where it has not ended by itself
    return json.loads(looker.communicate()[0])


@pytest.mark.parametrize(("profile", "seconds", "blur"), [("dmr", 0.01, 1.0), ("dbc", 0.5, 0.45)])
def test_gears_and_lens_are_those_of_the_profile(profile, seconds, blur):
    env = CarlaEnv("ghost_pedestrian", profile=profile, image_size=16)
    try:
        env.reset()
        found = seen_by_second_client(env)
    finally:
        env.close()
    assert found["gear_switch_s"] == pytest.approx(seconds, rel=1e-6) and found["wheels"] == 4
    assert float(found["camera"]["motion_blur_intensity"]) == pytest.approx(blur)
    assert found["camera"]["enable_postprocess_effects"] == "true"
    assert [row[:3] for row in found["scenery"]] == [[1, "BP_Lamp_1", "Poles"], [2, "BP_Tree_1", "Vegetation"]]


@pytest.fixture
def world():
    return World("covr_street", (ASSETS / "covr_street.xodr").read_text(encoding="utf-8"))


def test_the_loopback_server_stores_which_scenery_is_hidden(world):
    calls = Calls(world, "", 0, lambda: 0, lambda: None)
    assert [row[2] for row in calls.get_environment_objects(wire.POLES)[0][1]] == [1]
    calls.enable_environment_objects([1, 2], False)
    calls.enable_environment_objects([1], True)
    assert world.hidden == {2}
    world.begin()
    assert world.hidden == set()


class FakeWorld:
    """A carla.World with two poles; ``error``: message of the RuntimeError that every call raises."""

    def __init__(self, error=""):
        self.error, self.off = error, set()

    def get_environment_objects(self, label):
        if self.error:
            raise RuntimeError(self.error)
        return [SimpleNamespace(id=number) for number in (7, 8)] if str(label) == "Poles" else []

    def enable_environment_objects(self, numbers, shown):
        self.off = self.off - numbers if shown else self.off | numbers


def test_scenery_is_hidden_and_shown_again():
    fake = FakeWorld()
    numbers = server_compat.hide_scenery(fake, ("Vegetation", "Poles"))
    assert numbers == fake.off == {7, 8}
    assert server_compat.show_scenery(fake, numbers) and fake.off == set()


def test_an_unsupported_call_is_reported_once_and_ignored(capsys):
    server_compat._reported.clear()
    for _ in range(2):
        assert server_compat.hide_scenery(FakeWorld("rpc::rpc_error during call"), ("Poles", "Static")) == set()
    assert capsys.readouterr().err.count("scenery: left as they are") == 1
    with pytest.raises(RuntimeError, match="time-out"):
        server_compat.hide_scenery(FakeWorld("time-out of 2000ms"), ("Poles",))
