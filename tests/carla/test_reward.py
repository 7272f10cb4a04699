"""Reward and end of the episode of both profiles: numbers worked out by hand, and properties of random ticks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covr_jax.carla.reward import (
    DBC,
    DMR,
    DT,
    Progress,
    Tally,
    Tick,
    distance,
    end_reason,
    step_reward,
    tick_reward,
)

DRIVING = Tick((10.0, 0.0, 0.0), (1.0, 0.0), 0.0, (), 0.0, 0.0, on_road=True, road_ahead=True)
# 12 m/s at 3-4-5 to the lane: 0.8 * 10 + 0.6 * 5 = 11 m/s along it, 0.55 m in a tick; impulses sum to 700 N s
SWERVING = DRIVING._replace(velocity=(10.0, 5.0, 0.3), lane=(0.8, 0.6), impulses=(200.0, 500.0), steer=-0.4, brake=0.25)


@pytest.mark.parametrize(
    ("rules", "tick", "reward"),
    [
        (DMR, DRIVING, 0.5),
        (DBC, DRIVING, 0.5),
        (DMR, SWERVING, 0.55 - 0.7 - 0.025 - 0.04),
        (DBC, SWERVING, 0.55 - 0.07 - 0.4),
        (DMR, DRIVING._replace(velocity=(-2.0, 0.0, 0.0), brake=1.0), -0.1 - 0.1),
        (DBC, DRIVING._replace(velocity=(-2.0, 0.0, 0.0), brake=1.0), -0.1),
        (DMR, DRIVING._replace(lane=(0.0, 0.0), steer=1.0), -0.1),  # off the road there is no lane direction
        (DBC, DRIVING._replace(lane=(0.0, 0.0), steer=1.0), -1.0),
    ],
)
def test_tick_reward(rules, tick, reward):
    assert tick_reward(rules, tick) == pytest.approx(reward, abs=1e-12)


def test_an_agent_step_is_the_mean_of_its_ticks_and_the_distance_of_the_last():
    slow = DRIVING._replace(velocity=(4.0, 0.0, 0.0), steer=0.2)
    ticks = [DRIVING, DRIVING, DRIVING, slow]  # 0.5, 0.5, 0.5 and 0.2 - 0.2
    assert step_reward(DBC, ticks) == pytest.approx(1.5 / 4)
    assert step_reward(DBC, ticks[2:]) == pytest.approx(0.5 / 2)  # the episode ended after two of four
    tally = Tally().after(DBC, ticks).after(DBC, [SWERVING._replace(steer=0.0)])
    assert tally.er == pytest.approx(0.375 + 0.55 - 0.07)
    assert tally.dd == pytest.approx(0.2 + 0.55)
    assert (tally.steps, tally.collisions) == (2, 2)
    assert tally.seconds == pytest.approx(5 * 0.05)


def first_end(rules, ticks):
    """The first end reason along some ticks, and the number of ticks up to it."""
    progress = Progress()
    for tick in ticks:
        progress = progress.after(tick)
        if end := end_reason(rules, progress, tick):
            return end, progress.ticks
    return None, progress.ticks


HIT = DRIVING._replace(impulses=(0.0,))
STILL = DRIVING._replace(velocity=(0.01, 0.01, 0.0))


@pytest.mark.parametrize(
    ("ticks", "dmr", "dbc"),
    [
        ([DRIVING] * 1001, ("time_limit", 1000), ("time_limit", 1000)),
        ([DRIVING, DRIVING._replace(on_road=False)], ("off_road", 2), ("off_road", 2)),
        ([DRIVING._replace(road_ahead=False)], ("road_end", 1), ("road_end", 1)),
        ([HIT] * 19 + [DRIVING] + [HIT] * 19, (None, 39), (None, 39)),
        ([DRIVING] * 5 + [HIT] * 30, ("collisions", 25), (None, 35)),
        ([STILL] * 99, (None, 99), (None, 99)),
        ([STILL] * 150, ("stuck", 100), ("stuck", 100)),
        ([STILL] * 99 + [DRIVING] + [STILL] * 150, ("stuck", 200), ("stuck", 200)),
        ([DRIVING._replace(velocity=(0.0, 0.0, 1.01))], ("glitch", 1), ("glitch", 1)),
        ([DRIVING] * 19 + [DRIVING._replace(height=0.51)], ("glitch", 20), ("glitch", 20)),
        ([DRIVING] * 20 + [DRIVING._replace(height=0.51)], (None, 21), (None, 21)),
    ],
)
def test_end_reason_and_its_tick(ticks, dmr, dbc):
    assert first_end(DMR, ticks) == dmr
    assert first_end(DBC, ticks) == dbc


numbers = st.floats(-60.0, 60.0)
angles = st.floats(-math.pi, math.pi)
ticks = st.builds(
    lambda velocity, angle, impulses, steer, brake: Tick(
        velocity, (math.cos(angle), math.sin(angle)), 0.0, tuple(impulses), steer, brake, True, True
    ),
    st.tuples(numbers, numbers, numbers),
    angles,
    st.lists(st.floats(0.0, 1e5), max_size=3),
    st.floats(-1.0, 1.0),
    st.floats(0.0, 1.0),
)


@settings(max_examples=200, deadline=None)
@given(ticks, angles, st.sampled_from([DMR, DBC]))
def test_reward_is_bounded_by_the_distance_and_does_not_depend_on_where_north_is(tick, turn, rules):
    x, y, z = tick.velocity
    assert abs(distance(tick)) <= math.hypot(x, y) * DT + 1e-9
    assert tick_reward(rules, tick) <= distance(tick) + 1e-12
    c, s = math.cos(turn), math.sin(turn)
    turned = tick._replace(
        velocity=(c * x - s * y, s * x + c * y, z),
        lane=(c * tick.lane[0] - s * tick.lane[1], s * tick.lane[0] + c * tick.lane[1]),
    )
    assert tick_reward(rules, turned) == pytest.approx(tick_reward(rules, tick), abs=1e-9)
