"""Random draws of episodes, and the changing weather."""

from __future__ import annotations

import math

import pytest

from covr_jax.carla.scenarios import CHANGING, SCENARIOS, WEATHERS, draw, weather


def test_equal_seeds_draw_equal_episodes_and_others_do_not():
    scenario = SCENARIOS["highway"]
    assert draw(scenario, 3, 7) == draw(scenario, 3, 7)
    starts = {(draw(scenario, seed, episode).s) for seed in range(5) for episode in range(20)}
    assert len(starts) == 100


def test_highway_traffic_is_ahead_and_no_two_vehicles_share_a_position():
    scenario = SCENARIOS["highway"]
    counts = []
    for episode in range(300):
        drawn = draw(scenario, 0, episode)
        assert drawn.lane in (-1, -2, -3, -4) and 100 <= drawn.s <= 110 and not drawn.ghosts
        positions = [(drawn.lane, drawn.s), *((driver.lane, driver.s) for driver in drawn.drivers)]
        for index, (lane, s) in enumerate(positions):
            assert all(lane != other or abs(s - other_s) >= 8.0 for other, other_s in positions[index + 1 :])
        assert all(115 <= driver.s <= 300 and -60 <= driver.speed_difference <= -30 for driver in drawn.drivers)
        counts.append(len(drawn.drivers))
    assert max(counts) == 10 and min(counts) >= 5
    assert {draw(scenario, 0, episode).lane for episode in range(40)} == {-1, -2, -3, -4}


def test_three_pedestrians_wait_on_the_street():
    for episode in range(100):
        drawn = draw(SCENARIOS["ghost_pedestrian"], 1, episode)
        assert [ghost.s for ghost in drawn.ghosts] == [40.0, 100.0, 160.0] and not drawn.drivers
        assert all(12 <= ghost.trigger <= 20 and 1.5 <= ghost.speed <= 3.5 for ghost in drawn.ghosts)


def test_changing_weather_follows_the_storm_and_the_sun():
    """The storm starts at -50 and climbs by 0.13 a tick to 100, then falls to -250."""
    assert weather(CHANGING, 0)["sun_altitude_angle"] == 90.0
    assert weather(CHANGING, 0)["precipitation"] == 0.0
    at_50 = round((50 + 50) / 0.13)
    rainy = weather(CHANGING, at_50)
    assert rainy["precipitation"] == pytest.approx(50.0, abs=0.13)
    assert (rainy["cloudiness"], rainy["wind_intensity"]) == (60.0, 90.0)
    falling = weather(CHANGING, round((150 + 50) / 0.13))
    assert falling["precipitation"] == pytest.approx(50.0, abs=0.13)
    assert weather(CHANGING, round((150 + 350) / 0.13))["cloudiness"] == 0.0
    noonless = math.pi / (0.008 * 0.1)
    assert weather(CHANGING, round(noonless))["sun_altitude_angle"] == pytest.approx(20.0, abs=1e-3)
    assert WEATHERS["midnight"]["sun_altitude_angle"] < 0 < WEATHERS["hard_rain"]["precipitation"]
