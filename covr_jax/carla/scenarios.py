"""Scenarios, camera rigs and weathers as data, and the random draw of one episode. Lengths in m, speeds in m/s.

``highway`` is the paper's #HW after the public environment of its line of work: Town04, road 45, traffic ahead.
No public source defines #GP; ``ghost_pedestrian`` is this project's reading: vans parked along a street, from behind
each of which a pedestrian steps out when the car is near. On the loopback server both use road maps of this project.
``s`` is the OpenDRIVE coordinate along the road; lanes are OpenDRIVE lane numbers, negative to the right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from covr_jax.carla.reward import RULES, Rules

Range = tuple[float, float]  # bounds of a uniform distribution


class Traffic(NamedTuple):
    """Vehicles that the Traffic Manager drives."""

    count: int
    lanes: tuple[int, ...]
    s: Range
    speed_difference: Range  # % below the limit; negative is faster
    gap: float  # least distance between the centres of two vehicles in one lane
    blueprints: tuple[str, ...]


class Ghosts(NamedTuple):
    """Parked vehicles, and behind each a pedestrian who crosses the road when the ego vehicle comes near."""

    s: tuple[float, ...]  # of the parked vehicles
    lane: int
    sideways: float  # from the lane's centre to the parked vehicle's, away from the middle of the road
    blueprints: tuple[str, ...]
    behind: float  # from the parked vehicle's centre to the pedestrian
    trigger: Range  # distance of the ego vehicle at which the pedestrian starts
    speed: Range
    crossing: float  # distance that the pedestrian walks
    walkers: str  # blueprint pattern


class Scenario(NamedTuple):
    """A place on a map and the other road users. The first of ``towns`` that the server has is loaded."""

    towns: tuple[str, ...]
    road: int
    lanes: tuple[int, ...]  # the ego vehicle's
    s: Range
    traffic: Traffic | None = None
    ghosts: Ghosts | None = None


_CARS = ("vehicle.tesla.model3", "vehicle.audi.tt", "vehicle.audi.a2", "vehicle.nissan.micra")
_VANS = ("vehicle.carlamotors.carlacola", "vehicle.mercedes.sprinter")

SCENARIOS = {
    "highway": Scenario(
        towns=("covr_highway", "Town04"),
        road=45,
        lanes=(-1, -2, -3, -4),
        s=(100.0, 110.0),
        traffic=Traffic(10, (-1, -2, -3, -4), (115.0, 300.0), (-60.0, -30.0), 8.0, _CARS),
    ),
    "ghost_pedestrian": Scenario(
        towns=("covr_street", "Town01"),
        road=12,
        lanes=(-1,),
        s=(0.2, 2.2),
        ghosts=Ghosts(
            s=(40.0, 100.0, 160.0),
            lane=-1,
            sideways=3.4,
            blueprints=_VANS,
            behind=3.6,
            trigger=(12.0, 20.0),
            speed=(1.5, 3.5),
            crossing=10.0,
            walkers="walker.pedestrian.*",
        ),
    ),
}


class Rig(NamedTuple):
    """Cameras on the ego vehicle; their images are joined from left to right."""

    yaws: tuple[float, ...]  # degrees
    forward: float
    up: float
    fov: float  # degrees
    size: int  # px, height and width of each
    attributes: tuple[tuple[str, str], ...] = ()  # set where the server's camera blueprint has them


class Profile(NamedTuple):
    """Rules, cameras and vehicle of one line of work."""

    rules: Rules
    rig: Rig
    ego: str
    weather: str
    gear_switch_s: float | None = None  # gear switch time of the ego vehicle; None: the blueprint's
    hidden: tuple[str, ...] = ()  # names of carla.CityObjectLabel whose objects are not drawn


_LENS = (
    ("enable_postprocess_effects", "True"),
    ("motion_blur_intensity", "1.0"),
    ("motion_blur_max_distortion", "0.8"),
    ("exposure_min_bright", "12.0"),
    ("exposure_max_bright", "20.0"),
)
PROFILES = {
    "dmr": Profile(
        RULES["dmr"],
        Rig((0.0,), 1.0, 1.5, 60.0, 128, _LENS),
        "vehicle.tesla.model3",
        "hard_high_light",
        gear_switch_s=0.01,
        hidden=("Poles", "Vegetation", "Static", "Dynamic", "Other"),
    ),
    "dbc": Profile(
        RULES["dbc"], Rig((-120.0, -60.0, 0.0, 60.0, 120.0), 1.6, 1.7, 60.0, 84), "vehicle.audi.a2", "changing"
    ),
}

# Fields of carla.WeatherParameters; the others keep their defaults.
_NOON = {"sun_altitude_angle": 75.0, "cloudiness": 10.0, "wind_intensity": 5.0}
WEATHERS: dict[str, dict[str, float]] = {
    "clear_noon": _NOON,
    "hard_high_light": _NOON | {"sun_altitude_angle": 90.0, "cloudiness": 0.0},
    "cloudy": _NOON | {"cloudiness": 90.0},
    "hard_rain": _NOON | {"cloudiness": 90.0, "precipitation": 90.0, "precipitation_deposits": 80.0, "wetness": 90.0},
    "dense_fog": _NOON | {"cloudiness": 60.0, "fog_density": 80.0, "fog_distance": 5.0, "fog_falloff": 0.5},
    "midnight": _NOON | {"sun_altitude_angle": -90.0},
}
CHANGING = "changing"  # sun and storms change with time, see ``weather``
_CHANGE_SPEED, _STORM_START, _STORM_LOW, _STORM_HIGH = 0.1, -50.0, -250.0, 100.0


def weather(name: str, ticks: int) -> dict[str, float]:
    """Returns fields of carla.WeatherParameters after a number of ticks.

    Under ``changing`` the sun swings between 20 and 90 degrees and a storm's strength rises and falls between -250 and
    100, from -50; rain, clouds and wind follow it.

    Raises:
      KeyError: the weather's name is unknown.
    """
    if name != CHANGING:
        return WEATHERS[name]
    span = _STORM_HIGH - _STORM_LOW
    phase = (_STORM_START - _STORM_LOW + 1.3 * _CHANGE_SPEED * ticks) % (2 * span)
    storm = _STORM_LOW + min(phase, 2 * span - phase)
    clouds, rain = _clamp(storm + 40.0, 0.0, 60.0), _clamp(storm, 0.0, 80.0)
    return {
        "sun_altitude_angle": 55.0 + 35.0 * math.cos(0.008 * _CHANGE_SPEED * ticks),
        "sun_azimuth_angle": 0.25 * _CHANGE_SPEED * ticks % 360.0,
        "cloudiness": clouds,
        "precipitation": rain,
        "wind_intensity": 5.0 if clouds <= 20.0 else 90.0 if clouds >= 60.0 else 40.0,
    }


def _clamp(number: float, low: float, high: float) -> float:
    return max(low, min(high, number))


class Driver(NamedTuple):
    """One vehicle that the Traffic Manager drives."""

    lane: int
    s: float
    speed_difference: float
    blueprint: str
    colour: str  # "r,g,b"


class Ghost(NamedTuple):
    """One parked vehicle and its pedestrian."""

    s: float
    blueprint: str
    colour: str
    walker: int  # index of the walker's blueprint among the matching ones, modulo their number
    trigger: float
    speed: float


class Episode(NamedTuple):
    """All random choices of one episode."""

    lane: int
    s: float
    drivers: tuple[Driver, ...]
    ghosts: tuple[Ghost, ...]
    traffic_seed: int


def draw(scenario: Scenario, seed: int, episode: int) -> Episode:
    """Draws the ``episode``-th episode of ``seed``; equal arguments give equal episodes."""
    random = np.random.default_rng([seed, episode])
    lane, s = int(random.choice(scenario.lanes)), float(random.uniform(*scenario.s))
    drivers = _drivers(scenario.traffic, (lane, s), random) if scenario.traffic else ()
    ghosts = _ghosts(scenario.ghosts, random) if scenario.ghosts else ()
    return Episode(lane, s, drivers, ghosts, int(random.integers(1, 2**31)))


def _drivers(traffic: Traffic, ego: tuple[int, float], random: np.random.Generator) -> tuple[Driver, ...]:
    """Draws at most ``count`` drivers: a position too near to an earlier one is dropped, not drawn again."""
    drivers, taken = [], [ego]
    for _ in range(traffic.count):
        lane, s = int(random.choice(traffic.lanes)), float(random.uniform(*traffic.s))
        speed_difference = float(random.uniform(*traffic.speed_difference))
        driver = Driver(lane, s, speed_difference, str(random.choice(traffic.blueprints)), _colour(random))
        if all(lane != other or abs(s - other_s) >= traffic.gap for other, other_s in taken):
            taken.append((lane, s))
            drivers.append(driver)
    return tuple(drivers)


def _ghosts(ghosts: Ghosts, random: np.random.Generator) -> tuple[Ghost, ...]:
    drawn = []
    for s in ghosts.s:
        blueprint, colour, walker = str(random.choice(ghosts.blueprints)), _colour(random), int(random.integers(1000))
        trigger, speed = float(random.uniform(*ghosts.trigger)), float(random.uniform(*ghosts.speed))
        drawn.append(Ghost(s, blueprint, colour, walker, trigger, speed))
    return tuple(drawn)


def _colour(random: np.random.Generator) -> str:
    return ",".join(str(part) for part in random.integers(30, 226, 3))
