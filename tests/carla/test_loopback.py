"""The loopback server's parts: wire format, motion, collisions, images, scheduled faults."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from covr_jax.carla.boxes import Box, overlap
from covr_jax.carla.loopback import wire
from covr_jax.carla.loopback.__main__ import ASSETS
from covr_jax.carla.loopback.actors import BRAKE, DRAG, GRIP, MAX_STEER, THROTTLE, WHEEL_BASE
from covr_jax.carla.loopback.faults import KINDS, PICTURE, Fault, FaultSchedule, parse_faults
from covr_jax.carla.loopback.image import light_of, rays_of
from covr_jax.carla.loopback.world import World

CAR, VAN, WALKER = "vehicle.tesla.model3", "vehicle.mercedes.sprinter", "walker.pedestrian.0001"
NOON = [0.0] * 5 + [75.0] + [0.0] * 8


@pytest.fixture(scope="module")
def street():
    return (ASSETS / "covr_street.xodr").read_text(encoding="utf-8")


@pytest.fixture
def world(street):
    world = World("Carla/Maps/covr_street", street)
    world.settings[2] = [True, 0.05]
    return world


def put(world, name, x, y=2.0, yaw=0.0):
    return world.add([1, name, []], [[x, y, 0.5], [0.0, yaw, 0.0]])


def test_wire_format_is_what_the_client_reads():
    header = wire.header(13, 7, 0.5, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert struct.unpack("<QQd6f", header) == (13, 7, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert wire.token(9, 2001).hex() == "09000000" + "d107" + "01" + "01" + "7f000001" + "00" * 12
    extra = wire.vehicle_extra([0.5, -1, 0, True, False, 0, 1], 50)
    state = wire.actor_state(5, [[1.0] * 3, [2.0] * 3], [3.0] * 3, extra)
    assert len(state) == 119 and state[:5] == b"\5\0\0\0\1"
    assert struct.unpack_from("<9f", state, 5) == (1, 1, 1, 2, 2, 2, 3, 3, 3)
    assert struct.unpack_from("<3f3?if", state, 65) == (0.5, -1.0, 0.0, True, False, False, 1, 50.0)


def test_a_car_speeds_up_and_brakes(world):
    car = put(world, CAR, 20.0)
    car.control[0] = 1.0
    for _ in range(2):
        world.step()
    first = 0.25 - DRAG * 0.25**2 * 0.05  # drag is that of the speed just reached
    second = first + THROTTLE * 0.05 - DRAG * (first + 0.25) ** 2 * 0.05
    assert car.speed == pytest.approx(second, abs=1e-12)
    assert car.transform[0][0] == pytest.approx(20.0 + 0.05 * (first + second), abs=1e-12)
    car.speed, car.control = 20.0, [0.0, 0.0, 1.0, False, False, False, 0]
    start, steps = car.transform[0][0], 0
    while car.speed > 0.0:
        world.step()
        steps += 1
    seconds = math.atan(20.0 * math.sqrt(DRAG / BRAKE)) / math.sqrt(DRAG * BRAKE)  # of dv/dt = -(BRAKE + DRAG v^2)
    metres = math.log(1 + DRAG * 20.0**2 / BRAKE) / (2 * DRAG)
    assert steps * 0.05 == pytest.approx(seconds, abs=0.06)
    assert car.transform[0][0] - start == pytest.approx(metres - 20.0 * 0.05 / 2, abs=0.1)  # first order in the step


@pytest.mark.parametrize(("speed", "steer"), [(3.0, 0.5), (25.0, 0.5), (3.0, -1.0)])
def test_the_turning_circle_of_a_car(world, speed, steer):
    """Limited by the steering angle when slow, by the tyres' grip when fast; positive is to the right, which is +y."""
    car = put(world, CAR, 20.0)
    car.speed, car.control[1] = speed, steer
    world.step()
    yaw_rate = math.radians(car.transform[1][1]) / 0.05
    slow = speed / WHEEL_BASE * math.tan(math.radians(MAX_STEER) * steer)
    assert yaw_rate == pytest.approx(math.copysign(min(abs(slow), GRIP / speed), steer), rel=0.01)
    assert (car.transform[0][1] > 2.0) == (steer > 0)


def test_two_cars_have_equal_speeds_after_a_crash(world):
    """A rear-end collision at 10 m/s: both masses are 1800 kg, so each changes by 5 m/s: 9000 N s."""
    rear, front = put(world, CAR, 20.0), put(world, CAR, 24.85)
    rear.speed = 10.0
    collisions = world.step()
    speed = 10.0 - DRAG * 100 * 0.05
    assert [collision.actor for collision in collisions] == [rear, front]
    assert collisions[0].impulse[0] == pytest.approx(-900.0 * speed, rel=1e-3)
    assert collisions[1].impulse[0] == pytest.approx(900.0 * speed, rel=1e-3)
    assert rear.speed == pytest.approx(speed / 2, rel=1e-3) and front.speed == pytest.approx(speed / 2, rel=1e-3)
    assert overlap(rear.box, front.box).depth == pytest.approx(0.0, abs=1e-9)


def test_a_frozen_van_stops_a_car_that_pushes(world):
    car, van = put(world, CAR, 20.0), put(world, VAN, 25.5)
    van.frozen, car.speed, car.control[0] = True, 8.0, 1.0
    hits = [len(world.step()) for _ in range(25)]
    assert hits[3:] == [2] * 22 and van.transform[0][0] == 25.5
    assert car.transform[0][0] == pytest.approx(25.5 - (4.8 + 5.9) / 2, abs=1e-6)


def test_a_walker_stops_a_car_from_the_front_and_is_stopped_at_its_side(world):
    car, before, beside = put(world, CAR, 20.0), put(world, WALKER, 22.7), put(world, WALKER, 20.0, 3.3, -90.0)
    beside.walk = [[0.0, -1.0, 0.0], 2.0, False]
    assert world.step() == []
    for _ in range(5):
        assert world.step() == []
    assert beside.transform[0][1] == pytest.approx(2.0 + (1.9 + 0.4) / 2, abs=1e-6) and car.transform[0][1] == 2.0
    car.speed = 6.0
    collisions = world.step()
    assert [collision.actor for collision in collisions] == [car, before] and car.speed == 0.0
    assert collisions[0].impulse[0] == pytest.approx(-1800 * 6.0, rel=0.01)
    assert before.transform[0][:2] == [22.7, 2.0]
    del world.actors[before.number]
    car.speed = 6.0
    for _ in range(3):
        assert world.step() == []  # the walker still walks into its side
    assert car.speed == pytest.approx(6.0, rel=0.01) and beside.transform[0][1] > 3.1


def test_overlap_of_rotated_boxes():
    """A square of side 2 turned by 45 degrees reaches sqrt(2) to the side."""
    upright, rotated = Box(0.0, 0.0, 0.0, 1.0, 1.0), Box(2.5, 0.0, math.pi / 4, 1.0, 1.0)
    assert overlap(upright, rotated).depth == pytest.approx(1 + math.sqrt(2) - 2.5, abs=1e-9)
    assert overlap(upright, rotated._replace(x=2.0)).depth == pytest.approx(math.sqrt(2) - 1.0, abs=1e-9)
    assert overlap(rotated._replace(x=2.0), upright)[1:] == pytest.approx((-1.0, 0.0), abs=1e-9)


def test_sensors_follow_the_vehicle(world):
    car = put(world, CAR, 20.0, yaw=90.0)
    camera = world.add([2, "sensor.camera.rgb", []], [[1.0, 0.5, 1.5], [0.0, -60.0, 0.0]], car.number)
    assert world.pose(camera)[0] == pytest.approx([19.5, 3.0, 2.0])
    assert world.pose(camera)[1] == [0.0, 30.0, 0.0]


def test_camera_rays_hit_the_ground_at_its_distance():
    """A camera 1.5 m up with 90 degrees sees 45 degrees down at its lower edge: the ground 1.5 m ahead."""
    rays = rays_of(101, 1001, 90.0, 0.0, 1.5)
    assert rays.focal == pytest.approx(50.5)
    rows, columns = np.nonzero(rays.below)
    middle = (columns == 50) & (rows == 550)  # 50 px below the horizon
    assert rays.ahead[middle] == pytest.approx(1.5 * 50.5 / 50.0)
    assert rays.right[middle] == pytest.approx(0.0, abs=1e-9)
    assert rows.min() == 501


@pytest.mark.parametrize(("yaw", "length", "width"), [(0.0, 4.8, 1.9), (90.0, 1.9, 4.8), (180.0, 4.8, 1.9)])
def test_a_car_ahead_is_drawn_at_its_size(world, yaw, length, width):
    """Its rear is 1.9 m wide and its side 4.8 m; 1 m at 10 m and 90 degrees over 200 px is 10 px."""
    other = put(world, CAR, 30.0 + length / 2, yaw=yaw)
    other.transform[0][2] = 0.0
    pose = [[20.0, 2.0, 1.5], [0.0, 0.0, 0.0]]
    with_car = world.renderer.render(pose, 200, 200, 90.0, NOON, [other])
    without = world.renderer.render(pose, 200, 200, 90.0, NOON, [])
    rows, columns = np.nonzero((with_car != without).any(-1))
    assert with_car.shape == (200, 200, 4) and with_car.dtype == np.uint8
    assert abs((columns.max() - columns.min() + 1) - 10 * width) <= 1 and abs(columns.mean() - 99.5) < 1
    assert abs((rows.max() - rows.min() + 1) - 15) <= 1 and abs(rows.max() - 115) <= 1


def test_brightness_follows_the_sun():
    night, day = (light_of([0.0] * 5 + [altitude] + [0.0] * 8).brightness for altitude in (-90.0, 75.0))
    assert (night, day) == (0.25, 1.0)
    assert light_of([0.0] * 6 + [50.0] + [0.0] * 7).fog_per_m == pytest.approx(0.04)


def test_each_fault_is_due_once_and_in_order():
    schedule = FaultSchedule([])
    schedule.count("tick_cue")
    schedule.add(Fault("rpc-error", "tick_cue", 2))
    schedule.add(Fault("picture-lost", "anything"))
    assert [schedule.count("tick_cue") for _ in range(4)][1].kind == "rpc-error"
    assert schedule.count("tick_cue") is None
    assert schedule.count(PICTURE).kind == "picture-lost" and schedule.count(PICTURE) is None
    assert parse_faults('[["rpc-hang", "version", 3, 9.5]]') == [Fault("rpc-hang", "version", 3, 9.5)]
    assert len(KINDS) == 11
    with pytest.raises(ValueError, match="unknown fault 'x'"):
        parse_faults('[["x"]]')
