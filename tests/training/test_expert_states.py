"""The VLM measured on an expert's states, which stay the same from round to round."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax.config import ConfigError
from covr_jax.training.expert_states import MEASURED, ExpertStates, Recorder, expert_error, measured, read_states
from covr_jax.types import Prior
from covr_jax.vlm.serving.protocol import PriorError


def recorded(path, *, envs=2, steps=5, episodes=1):
    """A file of a policy whose action is a tenth of the step; every observation holds its step and environment."""
    recorder = Recorder(lambda _, step: np.full((envs, 1), step / 10), episodes)
    for step in range(steps):
        observation = np.zeros((envs, 4, 4, 9), np.uint8) + np.arange(envs, dtype=np.uint8)[:, None, None, None]
        observation[..., 0] = step % 250
        recorder(SimpleNamespace(observation=observation), step)
    return recorder.write(path, "cartpole_swingup")


def test_states_of_the_asked_episodes_are_written_with_their_actions(tmp_path):
    path = tmp_path / "deep" / "states.npz"
    assert recorded(path, envs=3, episodes=2) == 10
    states = read_states(path, "cartpole_swingup", 4, 3, 1)
    assert states.observation.shape == (10, 4, 4, 9) and set(states.observation[..., 8].flat) == {0, 1}
    np.testing.assert_allclose(states.action[:, 0], states.observation[:, 0, 0, 0] / 10, atol=1e-7)


def test_the_same_states_of_a_long_recording_measure_each_time(tmp_path):
    """600 states of one environment."""
    assert recorded(tmp_path / "states.npz", steps=600) == 600
    states = read_states(tmp_path / "states.npz", "cartpole_swingup", 4, 1, 1)
    once, again = measured(states), measured(states)
    np.testing.assert_array_equal(once.action, again.action)
    np.testing.assert_allclose(once.action[:, 0] * 10 % 250, once.observation[:, 0, 0, 0], atol=1e-4)
    assert len(np.unique(once.action)) == MEASURED and once.action.min() < 3 and once.action.max() > 57


class Vlm:
    """Answers 0.5 above the mean of the frame's first channel, and cannot answer where the last channel is 1."""

    def __init__(self):
        self.asked = []

    def query(self, frames):
        self.asked.append(frames.shape)
        action = frames[:, 0, 0, :1].astype(np.float32) + 0.5
        return Prior(np.concatenate([action, action], 1), frames[:, 0, 0, -1] != 1)


def test_the_error_is_that_of_valid_answers():
    """Actions 1 and 3 components off by (0.5, 0) and (0.5, 1) where valid: errors 0.25 and 0.75; a third is invalid."""
    observation = np.zeros((3, 2, 2, 9), np.uint8)
    observation[2, ..., -1] = 1
    vlm = Vlm()
    states = ExpertStates(observation, np.array([[0, 0.5], [0, -0.5], [9, 9]], np.float32))
    found = expert_error(vlm, states, 2)
    assert found == {"expert_valid": pytest.approx(2 / 3), "expert_error": pytest.approx(0.5)}
    assert vlm.asked == [(3, 2, 2, 6)]
    observation[..., -1] = 1
    assert expert_error(vlm, states, 2) == {"expert_valid": 0.0}


def test_many_states_are_asked_about_in_parts_and_a_silent_vlm_ends_no_run():
    states = ExpertStates(np.zeros((130, 2, 2, 3), np.uint8), np.zeros((130, 2), np.float32))
    vlm = Vlm()
    assert expert_error(vlm, states, 1)["expert_error"] == pytest.approx(0.5)
    assert [shape[0] for shape in vlm.asked] == [64, 64, 2]

    def silent(frames):
        raise PriorError("no answer")

    assert expert_error(SimpleNamespace(query=silent), states, 1) == {}


@pytest.mark.field
@pytest.mark.parametrize(
    ("task", "sizes", "told"),
    [
        ("reacher_easy", (4, 1, 1), "states of cartpole_swingup, not of reacher_easy"),
        (
            "cartpole_swingup",
            (8, 1, 1),
            "has 4x4 pixels, 3 frames and 1 action components; this run needs 8x8, 1 and 1",
        ),
        ("cartpole_swingup", (4, 4, 1), "this run needs 4x4, 4 and 1"),
        ("cartpole_swingup", (4, 1, 2), "this run needs 4x4, 1 and 2"),
    ],
)
def test_states_of_something_else_are_refused(tmp_path, task, sizes, told):
    recorded(tmp_path / "states.npz")
    with pytest.raises(ConfigError, match=told):
        read_states(tmp_path / "states.npz", task, *sizes)


@pytest.mark.field
@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04 cut off"])
def test_files_that_hold_no_states_are_refused(tmp_path, content):
    path = tmp_path / "states.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be read; evaluate\.py --states writes such files"):
        read_states(path, "cartpole_swingup", 4, 1, 1)


@pytest.mark.field
@pytest.mark.parametrize(("observation", "action"), [((5, 4, 4), (5, 1)), ((5, 4, 4, 3), (5,)), ((5, 4, 4, 3), (4, 1))])
def test_arrays_of_other_shapes_are_refused(tmp_path, observation, action):
    path = tmp_path / "states.npz"
    np.savez(path, observation=np.zeros(observation, np.uint8), action=np.zeros(action), task="cartpole_swingup")
    with pytest.raises(ConfigError, match=r"expected \[N,H,W,C\] and \[N,A\]"):
        read_states(path, "cartpole_swingup", 4, 1, 1)
