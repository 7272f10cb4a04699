"""What videos show: the world that the agent sees, under the policy that is asked for."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from covr_jax import envs
from covr_jax.training import video
from covr_jax.types import StepType

SIZE = 64


@pytest.fixture(scope="module")
def reacher():
    return envs.make("reacher_easy", 1, image_size=SIZE, frame_stack=1)


def stub(env, steps, asked):
    """Programs whose evaluation goes through these (state, time step) pairs."""

    def rollout(policy, number):
        asked.append((policy, number))
        return iter(steps)

    return SimpleNamespace(evaluator=SimpleNamespace(env=env, rollout=rollout))


@pytest.mark.slow
def test_reacher_s_target_is_where_the_episode_has_it(reacher, monkeypatch):
    goal = [0.1, 0.15]
    monkeypatch.setattr(video, "_SIZE", SIZE)
    state, timestep = reacher.reset(jax.random.key(0), goal=np.array([goal], np.float32))
    last = timestep._replace(step_type=np.array([StepType.LAST]))
    asked = []
    policy = object()
    frames = video._rendered_images(stub(reacher, [(state, last)], asked), reacher, policy, 3)
    assert len(frames) == 1 and asked == [(policy, 3)]
    # The renderer draws one world and a batch by the same arithmetic.
    difference = np.abs(frames[0].astype(int) - np.asarray(timestep.observation[0]).astype(int))
    assert difference.max() <= 1


def test_an_episode_ends_with_its_last_step():
    steps = [
        ("a", SimpleNamespace(step_type=[StepType.FIRST])),
        ("b", SimpleNamespace(step_type=[StepType.LAST])),
        ("c", SimpleNamespace(step_type=[StepType.FIRST])),
    ]
    assert [state for state, _ in video._first_episode(stub(None, steps, []), None, 0)] == ["a", "b"]
