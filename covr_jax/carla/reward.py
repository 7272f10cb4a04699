"""Reward, end of the episode and the paper's two figures, as pure functions of plain records.

The rules are those of two public lines of work, quirks included:

* Both pay for progress along the lane, ``v_s * dt``, and charge for collisions and steering; ``dmr`` also for braking.
* With ``dbc`` an agent step is four ticks, its reward their mean, and its distance that of the last tick alone. ER and
  DD are therefore about a quarter of the true sums; figures of the two profiles must not be compared.
* ``dbc`` never ends an episode for a collision; ``dmr`` does after 20 colliding ticks in a row.
* An episode that reaches its number of ticks is truncated, every other end is a termination.

Two things are not the originals'. They test the height of the vehicle against the world's zero; here it is the height
above the lane, which is the same on the maps that they use. And a vehicle off the road ends the episode with both
profiles, as with DBC; DMR takes the nearest lane for its own and drives on beside the road.
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
    """What happened to the ego vehicle in one tick of the simulator."""

    velocity: tuple[float, float, float]  # m/s
    lane: tuple[float, float]  # unit vector along the lane
    height: float  # m above the lane
    impulses: tuple[float, ...]  # N s, one per collision reported since the last tick
    steer: float  # [-1, 1]
    brake: float  # [0, 1]
    on_road: bool
    road_ahead: bool  # the lane goes on for at least five metres


class Rules(NamedTuple):
    """A profile's prices and reasons to stop."""

    impulse_cost: float  # per N s
    brake_cost: float
    steer_cost: float
    frame_skip: int  # ticks per agent step
    colliding_ticks: int | None  # in a row that end the episode; None: they never do
    look_ahead: float  # m; where the lane's direction is taken
    max_ticks: int = 1000


DMR = Rules(1e-3, 0.1, 0.1, frame_skip=1, colliding_ticks=20, look_ahead=0.0)
DBC = Rules(1e-4, 0.0, 1.0, frame_skip=4, colliding_ticks=None, look_ahead=5.0)
RULES = {"dmr": DMR, "dbc": DBC}


class Progress(NamedTuple):
    """What the end of an episode depends on besides the last tick."""

    ticks: int = 0
    colliding: int = 0  # ticks in a row with a collision, up to the last

    def after(self, tick: Tick) -> Progress:
        """One tick later."""
        return Progress(self.ticks + 1, self.colliding + 1 if tick.impulses else 0)


def distance(tick: Tick) -> float:
    """Metres along the lane in this tick, ``v_s * dt``; negative backwards."""
    return (tick.velocity[0] * tick.lane[0] + tick.velocity[1] * tick.lane[1]) * DT


def tick_reward(rules: Rules, tick: Tick) -> float:
    """The reward of one tick."""
    costs = rules.impulse_cost * sum(tick.impulses) + rules.brake_cost * tick.brake + rules.steer_cost * abs(tick.steer)
    return distance(tick) - costs


def step_reward(rules: Rules, ticks: Sequence[Tick]) -> float:
    """The reward of an agent step: the mean over its ticks, of which the end of an episode may leave fewer."""
    return sum(tick_reward(rules, tick) for tick in ticks) / len(ticks)


def ended(rules: Rules, progress: Progress, tick: Tick) -> str | None:
    """Why the episode is over after ``tick``, which ``progress`` includes; None while it goes on."""
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
    """An episode's figures so far."""

    er: float = 0.0  # episode reward: the sum of the agent steps' rewards
    dd: float = 0.0  # driven distance: the sum of the agent steps' distances, each that of its last tick
    steps: int = 0
    collisions: int = 0  # reported ones
    seconds: float = 0.0  # simulated

    def after(self, rules: Rules, ticks: Sequence[Tick]) -> Tally:
        """One agent step later."""
        return Tally(
            self.er + step_reward(rules, ticks),
            self.dd + distance(ticks[-1]),
            self.steps + 1,
            self.collisions + sum(len(tick.impulses) for tick in ticks),
            self.seconds + DT * len(ticks),
        )
