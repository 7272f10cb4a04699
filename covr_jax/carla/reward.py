"""Reward, end of the episode and the paper's two driving metrics (ER, DD), as pure functions of plain records.

The rules are those of two public lines of work, their peculiarities included:

* Both reward progress along the lane, ``v_s * dt``, and penalise collisions and steering; ``dmr`` also braking.
* With ``dbc`` an agent step is four ticks, its reward their mean, and its distance that of the last tick alone. ER and
  DD are therefore about a quarter of the true sums; the metrics of the two profiles must not be compared.
* ``dbc`` never ends an episode for a collision; ``dmr`` does after 20 consecutive ticks with collisions.
* An episode that reaches its number of ticks is truncated; every other end is a termination.

Two rules differ from the originals. They compare the vehicle's height with z = 0 of the map; here it is the height
above the lane, which is the same on the maps that they use. And a vehicle off the road ends the episode with both
profiles, as with DBC; DMR takes the nearest lane as the vehicle's own and drives on beside the road.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

DT = 0.05  # s per tick, 20 a second
TIME_LIMIT = "time_limit"
_STUCK_SPEED, _STUCK_EVERY = 0.02, 100  # m/s, ticks
_GLITCH_TICKS, _GLITCH_HEIGHT, _GLITCH_CLIMB = 20, 0.5, 1.0  # ticks, m, m/s


class Tick(NamedTuple):
    """State of the ego vehicle after one tick of the simulator."""

    velocity: tuple[float, float, float]  # m/s
    lane: tuple[float, float]  # unit vector along the lane
    height: float  # m above the lane
    impulses: tuple[float, ...]  # N s, one per collision reported since the last tick
    steer: float  # [-1, 1]
    brake: float  # [0, 1]
    on_road: bool
    road_ahead: bool  # the lane goes on for at least five metres


class Rules(NamedTuple):
    """Costs and end conditions of a profile."""

    impulse_cost: float  # per N s
    brake_cost: float
    steer_cost: float
    frame_skip: int  # ticks per agent step
    colliding_ticks: int | None  # consecutive ticks with collisions that end the episode; None: never
    look_ahead: float  # m ahead of the vehicle at which the lane's direction is taken
    max_ticks: int = 1000


DMR = Rules(1e-3, 0.1, 0.1, frame_skip=1, colliding_ticks=20, look_ahead=0.0)
DBC = Rules(1e-4, 0.0, 1.0, frame_skip=4, colliding_ticks=None, look_ahead=5.0)
RULES = {"dmr": DMR, "dbc": DBC}


class Progress(NamedTuple):
    """Counters that the end of an episode depends on."""

    ticks: int = 0
    colliding: int = 0  # consecutive ticks with a collision, up to the last tick

    def after(self, tick: Tick) -> Progress:
        """Returns the counters after one more tick."""
        return Progress(self.ticks + 1, self.colliding + 1 if tick.impulses else 0)


def distance(tick: Tick) -> float:
    """Distance in m along the lane in one tick, ``v_s * dt``; negative backwards."""
    return (tick.velocity[0] * tick.lane[0] + tick.velocity[1] * tick.lane[1]) * DT


def tick_reward(rules: Rules, tick: Tick) -> float:
    """Reward of one tick."""
    costs = rules.impulse_cost * sum(tick.impulses) + rules.brake_cost * tick.brake + rules.steer_cost * abs(tick.steer)
    return distance(tick) - costs


def step_reward(rules: Rules, ticks: Sequence[Tick]) -> float:
    """Reward of an agent step: the mean over its ticks, which are fewer where the episode ends within the step."""
    return sum(tick_reward(rules, tick) for tick in ticks) / len(ticks)


def end_reason(rules: Rules, progress: Progress, tick: Tick) -> str | None:
    """Returns why the episode is over after ``tick``, or None while it goes on.

    Args:
      rules: the profile's rules.
      progress: the counters, ``tick`` included.
      tick: the last tick.
    """
    if not tick.on_road:
        return "off_road"
    if not tick.road_ahead:
        return "road_end"
    if progress.ticks <= _GLITCH_TICKS and (tick.velocity[2] > _GLITCH_CLIMB or tick.height > _GLITCH_HEIGHT):
        return "glitch"
    if rules.colliding_ticks is not None and progress.colliding >= rules.colliding_ticks:
        return "collisions"
    if progress.ticks % _STUCK_EVERY == 0 and math.hypot(*tick.velocity) < _STUCK_SPEED:
        return "stuck"
    return TIME_LIMIT if progress.ticks >= rules.max_ticks else None


class Tally(NamedTuple):
    """Sums over an episode so far."""

    er: float = 0.0  # episode reward: the sum of the agent steps' rewards
    dd: float = 0.0  # driven distance: the sum of the agent steps' distances, each that of its last tick
    steps: int = 0
    collisions: int = 0  # as reported by the sensor
    seconds: float = 0.0  # simulated

    def after(self, rules: Rules, ticks: Sequence[Tick]) -> Tally:
        """Returns the sums after one more agent step."""
        return Tally(
            self.er + step_reward(rules, ticks),
            self.dd + distance(ticks[-1]),
            self.steps + 1,
            self.collisions + sum(len(tick.impulses) for tick in ticks),
            self.seconds + DT * len(ticks),
        )
