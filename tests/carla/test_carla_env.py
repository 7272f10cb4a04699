"""The environment on the loopback server: metrics, seeds, refused servers."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from covr_jax.carla.env import CarlaEnv, RetryPolicy, ServerGone, ServerRefused, controls
from covr_jax.carla.servers import OwnServer, child_environment, parse_address

pytest.importorskip("carla", reason="the client is not installed")


@contextlib.contextmanager
def environment(*arguments, **options):
    """An environment that is always closed."""
    env = CarlaEnv(*arguments, **{"image_size": 24, **options})
    try:
        yield env
    finally:
        env.close()


def drive(env, actions):
    """All time steps of one episode, FIRST included."""
    steps = [env.reset()]
    for action in actions:
        steps.append(env.step(np.asarray(action, np.float32)))
        if steps[-1].last():
            break
    return steps


def same(one, other):
    return all(
        a.reward == b.reward and a.step_type == b.step_type and np.array_equal(a.observation, b.observation)
        for a, b in zip(one, other, strict=True)
    )


def test_equal_seeds_give_equal_episodes_in_any_process_and_after_any_episode():
    """On the highway, with the Traffic Manager; the second run starts with episode 1."""
    actions = [(0.01 * np.sin(t), 0.6) for t in range(25)]
    with environment(seed=4) as env:
        first, second = drive(env, actions), drive(env, actions)
        assert env.simulator == "loopback" and env.episode == 1
    with environment(seed=4, episode=1) as env:
        again = drive(env, actions)
    assert same(second, again)
    assert not same(first, second)


def test_er_is_the_sum_of_the_returned_rewards():
    """Constant throttle along the straight street, then off it in the bend: 5 m/s^2 less drag at first."""
    with environment("ghost_pedestrian", seed=1, max_ticks=100) as env:
        steps = drive(env, [(0.0, 1.0)] * 200)
        metrics = env.metrics()
        assert metrics["ER"] == pytest.approx(sum(step.reward for step in steps[1:]), abs=1e-9)
        assert metrics["steps"] == 100 and env.end == "time_limit"
        assert steps[1].reward == pytest.approx(0.25 * 0.05, rel=1e-4)  # 0.25 m/s after one tick
        speed = [0.0]
        for _ in range(20):
            speed.append(speed[-1] + (5.0 - 0.004 * (speed[-1] + 0.25) ** 2) * 0.05)
        expected = np.array(speed[1:]) * 0.05
        np.testing.assert_allclose([step.reward for step in steps[1:21]], expected, rtol=1e-5)
        braked = drive(env, [(0.0, 1.0)] * 10 + [(0.0, -1.0)])
        assert braked[-1].reward == pytest.approx((2.5 - 0.4) * 0.05 - 0.1, abs=2e-3)


def test_dbc_returns_the_mean_of_four_ticks_and_the_distance_of_the_last():
    with environment("ghost_pedestrian", profile="dbc", weather="clear_noon", seed=1, max_ticks=8) as env:
        steps = drive(env, [(0.0, 1.0)] * 2)
        assert steps[1].reward == pytest.approx(0.05 * 0.25 * (1 + 2 + 3 + 4) / 4, rel=1e-3)
        assert env.metrics()["DD"] == pytest.approx(0.05 * 0.25 * (4 + 8), rel=2e-3)
        assert steps[2].last() and steps[2].discount == 1.0


def test_leaving_the_road_terminates():
    with environment(seed=0) as env:
        steps = drive(env, [(1.0, 1.0)] * 200)
        assert env.end == "off_road" and steps[-1].discount == 0.0 and len(steps) < 120
        assert env.step(np.zeros(2)).first()


def test_a_vehicle_that_does_not_move_is_stuck():
    with environment("ghost_pedestrian", image_size=8) as env:
        steps = drive(env, [(0.0, -1.0)] * 200)
        assert (env.end, len(steps)) == ("stuck", 101)
        assert env.metrics()["ER"] == pytest.approx(-0.1 * 100)


def test_a_pedestrian_steps_out_and_stops_a_car_that_goes_on():
    """At the van at 40 m: the Model 3 of 1800 kg stops at once, which costs 1.8 per m/s of its speed."""
    with environment("ghost_pedestrian", seed=2, image_size=64) as env:
        steps = drive(env, [(0.0, 0.35)] * 160)
    rewards = np.array([step.reward for step in steps[1:]])
    hit = int(np.argmax(rewards < -1.0))
    assert 35 < rewards[:hit].sum() < 42
    before = rewards[hit - 1] / 0.05
    speed = before + (1.75 - 0.004 * before**2) * 0.05
    assert rewards[hit] == pytest.approx(-1.8 * speed, rel=1e-3)
    pink = [int(is_pink(step.observation).sum()) for step in steps]
    assert pink[hit - 5] > 40 > 3 >= max(pink[:20])


def is_pink(image):
    """Pixels of the pedestrians' clothes, in any light."""
    r, g, b = (image[..., channel].astype(int) for channel in range(3))
    return (r > 3 * g) & (b > 2 * g) & (r > b) & (r > 60)


def test_images_change_with_the_weather():
    means = {}
    for weather in ("clear_noon", "midnight", "dense_fog"):
        with environment("ghost_pedestrian", weather=weather, image_size=16) as env:
            image = env.reset().observation
            means[weather] = image.mean(), image.std()
    assert means["midnight"][0] < 0.4 * means["clear_noon"][0]
    assert means["dense_fog"][1] < 0.7 * means["clear_noon"][1]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ((0.5, 0.25), (0.5, 0.25, 0.0)),
        ((-0.5, -0.25), (-0.5, 0.0, 0.25)),
        ((3.0, -9.0), (1.0, 0.0, 1.0)),
        ((np.nan, 0.5), (0.0, 0.0, 1.0)),
        ((0.1, np.inf), (0.0, 0.0, 1.0)),
    ],
)
def test_controls_clip_actions_and_brake_for_those_that_are_not_finite(action, expected):
    assert controls(np.array(action)) == expected


@pytest.mark.parametrize("action", [[0.1], [[0.1], [0.2]], 0.1, ["left", "right"]])
def test_controls_are_two_numbers(action):
    with pytest.raises(ValueError, match=r"^action must be real numbers \[2\] in \[-1, 1\], got "):
        controls(action)


@pytest.mark.parametrize("text", ["", "localhost", "localhost:", "localhost:0", "localhost:70000", "a b:1", "h:1:2"])
def test_bad_endpoints_are_refused(text):
    with pytest.raises(ValueError, match="no endpoint"):
        parse_address(text)


@pytest.mark.parametrize("option", ["scenario", "profile", "weather"])
def test_unknown_names_are_refused_with_the_known_ones(option):
    with pytest.raises(ValueError, match=f"unknown {option} 'x'; choose from "):
        CarlaEnv(**{option: "x"})


def loopback(*options):
    """A command that starts a loopback server with options."""
    return [sys.executable, "-m", "covr_jax.carla.loopback", "--port", "{port}", *options]


def test_a_server_of_another_version_is_refused_unless_allowed():
    launch = loopback("--map", "covr_street", "--version", "0.9.15")
    with environment("ghost_pedestrian", launch=launch) as env:
        with pytest.raises(ServerRefused, match=r"server is CARLA 0\.9\.15, the client 0\.9\.16"):
            env.reset()
        assert env.supervisor.pid is None and env.supervisor.server_pid is None
    with environment("ghost_pedestrian", launch=launch, allow_version_mismatch=True) as env:
        assert env.reset().first()


def test_a_server_without_the_map_and_an_unknown_host_name_are_refused():
    refusal = pytest.raises(ServerRefused, match="none of the maps covr_highway, Town04")
    with environment("highway", launch=loopback("--map", "covr_street")) as env, refusal:
        env.reset()
    with environment("highway", "no-such-host.invalid:2000") as env, pytest.raises(ServerRefused, match="not found"):
        env.reset()


def test_a_server_that_never_responds_is_gone_in_one_line():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    policy = RetryPolicy(connect_s=0.3, call_s=0.3, patience_s=1.0)
    with environment("highway", f"127.0.0.1:{port}", retry_policy=policy) as env:
        with pytest.raises(ServerGone, match=f"^the simulator does not come back: no_server: .*127.0.0.1:{port}$"):
            env.reset()
        assert env.supervisor.pid is None


def test_close_leaves_the_server_as_it_was_found():
    """A second client finds a server on its own clock and without actors."""
    server = OwnServer(loopback("--map", "covr_street"), 30.0)
    server.start()
    try:
        with environment("ghost_pedestrian", f"127.0.0.1:{server.address.port}") as env:
            drive(env, [(0.0, 0.5)] * 3)
        code = (
            "import carla, os, sys; client = carla.Client('127.0.0.1', int(sys.argv[1])); client.set_timeout(5)\n"
            "world = client.get_world(); print(world.get_settings().synchronous_mode, len(world.get_actors()))\n"
            "sys.stdout.flush(); os._exit(0)"
        )
        command = [sys.executable, "-c", code, str(server.address.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=child_environment())
        assert done.stdout.split() == ["False", "1"]  # the spectator
    finally:
        server.stop()


def test_a_given_frame_skip_takes_the_mean_too():
    with environment("ghost_pedestrian", seed=1, max_ticks=6, frame_skip=4) as env:
        steps = drive(env, [(0.0, 1.0)] * 2)
        assert steps[1].reward == pytest.approx(0.05 * 0.25 * (1 + 2 + 3 + 4) / 4, rel=1e-3)
        assert steps[2].reward == pytest.approx(0.05 * 0.25 * (5 + 6) / 2, rel=2e-3) and steps[2].last()
