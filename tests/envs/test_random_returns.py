"""Returns and last observations of random actions, here and in dm_control.

Starts and actions are drawn independently on both sides: distributions are compared, not trajectories. Two-sample
Kolmogorov-Smirnov tests, all of this file's together at one false alarm in a hundred (Bonferroni). Whole episodes of
all nine tasks: experiments/benchmark/returns.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from covr_jax.envs import TASKS
from experiments.benchmark.returns import FULL, SHORT, Episodes, ours, suites
from tests.support.pairs import ENGINES, NUM_ENVS, compiled

pytestmark = pytest.mark.slow

EPISODES = 300  # of ten control steps
CHEAP = ("cartpole_swingup", "reacher_easy", "pendulum_swingup")  # whole episodes, too, one in each env
NUMBERS = {  # in the state observation
    "cartpole_swingup": 5,
    "reacher_easy": 6,
    "cheetah_run": 17,
    "walker_walk": 24,
    "finger_spin": 9,
    "ball_in_cup_catch": 8,
    "hopper_hop": 15,
    "walker_run": 24,
    "pendulum_swingup": 3,
}
LEVEL = 0.01 / len(ENGINES) / sum(1 + NUMBERS[name] for name in (*TASKS, *CHEAP))


def episodes(name, physics, steps, count):
    """``count`` episodes of ours, in batches."""
    task = compiled(name, physics)
    parts = [ours(task.env, task.reset, task.step, seed, steps) for seed in range(count // NUM_ENVS)]
    return Episodes(np.concatenate([p.rewards for p in parts], 1), np.concatenate([p.observations for p in parts]))


CASES = [(name, SHORT, EPISODES) for name in TASKS] + [(name, FULL, NUM_ENVS) for name in CHEAP]
# MJX of these has its parity with dm_control step by step, and takes minutes here; whole episodes of one task suffice.
SKIPPED = {(name, SHORT, "mjx") for name in ("cheetah_run", "walker_walk", "walker_run", "finger_spin", "hopper_hop")}
SKIPPED |= {("cartpole_swingup", FULL, "mjx"), ("reacher_easy", FULL, "mjx")}


@pytest.mark.parametrize(
    ("name", "steps", "count", "physics"),
    [(*case, physics) for case in CASES for physics in ENGINES if (*case[:2], physics) not in SKIPPED],
)
def test_returns_and_last_observations_have_dm_controls_distribution(name, steps, count, physics):
    """In some tasks ten steps earn nothing; the states after them differ in every task.

    Many envs share a number, such as the speed of a free fall, up to its last digits in float32: rounding keeps ties.
    """
    mine, theirs = episodes(name, physics, steps, count), suites(name, count, 0, steps)
    assert ks_2samp(mine.rewards.sum(0), theirs.rewards.sum(0), method="asymp").pvalue > LEVEL
    assert mine.observations.shape == theirs.observations.shape == (count, NUMBERS[name])
    for one, other in zip(mine.observations.round(4).T, theirs.observations.round(4).T, strict=True):
        assert ks_2samp(one, other, method="asymp").pvalue > LEVEL
