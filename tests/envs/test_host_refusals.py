"""What environments on the host refuse in one line, before it reaches a simulator."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax.envs import HostVecEnv
from covr_jax.envs.stepper import HostStepper
from covr_jax.types import Diverged
from tests.support.toy import toy_task

KEY = np.array([7, 9], np.uint32)
NOTHING = np.zeros((2, 2), np.float32)


def make_toys():
    task, opened = toy_task({})
    return HostVecEnv(task, 2, image_size=4, frame_stack=3), opened


@pytest.mark.field
@pytest.mark.parametrize(
    ("action", "said"),
    [
        (np.zeros((1, 2)), r"^action must be real numbers \[2,2\] in \[-1, 1\], got float64 \[1, 2\]$"),
        (np.zeros(2), r"got float64 \[2\]$"),
        ([[0, 0], [0, np.nan]], r"^action must be finite numbers \[2,2\], got nan at \[1, 1\]$"),
    ],
)
def test_what_is_no_action_reaches_no_env(action, said):
    """With one row for two envs only the first one would be stepped."""
    env, opened = make_toys()
    state, _ = env.reset(KEY)
    with pytest.raises(ValueError, match=said):
        env.step(state, action)
    assert [toy.actions for toy in opened] == [[], []]


def test_a_policy_that_is_not_finite_has_diverged():
    env, _ = make_toys()
    stepper = HostStepper(env)
    state, _ = stepper.reset(jax.random.key(0))
    with pytest.raises(Diverged, match=r"^an action of the policy is not finite$"):
        stepper.step(state, NOTHING + np.nan)


def test_a_forked_process_has_none_of_the_threads(monkeypatch):
    env, _ = make_toys()
    state, _ = env.reset(KEY)
    monkeypatch.setattr("os.getpid", lambda: -1)
    for call in (lambda: env.reset(KEY), lambda: env.step(state, NOTHING)):
        with pytest.raises(RuntimeError, match=r"^toy environments were made in another process; make"):
            call()
