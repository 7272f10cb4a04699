"""D_f read out of hand-made replay contents: returns by hand, the running episode held back, the start moving on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax import replay
from covr_jax.config import Config
from covr_jax.training import selection
from covr_jax.training.rounds import FinetuneScheduler, Round, tell_round, tile_frames
from covr_jax.types import Diverged, EnvironmentLost, StepType, TimeStep
from covr_jax.vlm.serving.protocol import PriorError

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST


def ring(kinds, rewards, slots):
    """A state whose replay has seen, per time, (kind, reward) of each lane; frames and actions spell time and lane."""
    kinds, rewards = np.array(kinds, np.int32), np.array(rewards, np.float32)
    lanes = kinds.shape[1]
    store = replay.init(slots, lanes, 2, 2)
    for time, (kind, reward) in enumerate(zip(kinds, rewards, strict=True)):
        place = np.stack([np.full(lanes, time), np.arange(lanes)], -1).astype(np.float32)
        frame = np.zeros((lanes, 2, 2, 3), np.uint8)
        frame[..., :2] = place[:, None, None]
        store = replay.add(store, TimeStep(kind, reward, np.ones(lanes, np.float32), frame), place)
    return SimpleNamespace(replay=store)


def by_place(samples):
    return {(int(t), int(e)): float(g) for t, e, g in zip(samples.time, samples.env_id, samples.returns, strict=True)}


def test_returns_by_hand_and_the_running_episode_waits():
    # r is stored with the time step it arrived with, so the action at time 0 is paid from time 1 on.
    kinds = [(F, F), (M, M), (L, M), (F, M), (M, M)]
    rewards = [(0, 0), (1, 8), (2, 8), (0, 8), (5, 8)]
    samples, start = selection.finished_samples(ring(kinds, rewards, 8), [0, 0], 0.5)
    assert by_place(samples) == {(0, 0): 1 + 0.5 * 2, (1, 0): 2.0}  # LAST takes no action, lane 1 still runs
    assert start == [3, 0]
    np.testing.assert_array_equal(samples.action, np.stack([samples.time, samples.env_id], -1))


def test_a_held_episode_is_whole_in_the_next_round_and_nothing_comes_twice():
    kinds = [(F, F), (M, M), (L, M), (F, M), (M, M), (M, L), (L, F), (F, M)]
    rewards = [(0, 0), (1, 1), (2, 2), (0, 4), (5, 8), (6, 16), (7, 0), (0, 32)]
    first, start = selection.finished_samples(ring(kinds[:5], rewards[:5], 16), [0, 0], 1.0)
    second, then = selection.finished_samples(ring(kinds, rewards, 16), start, 1.0)
    assert by_place(first) == {(0, 0): 3.0, (1, 0): 2.0}
    assert by_place(second) == {
        (3, 0): 18,
        (4, 0): 13,
        (5, 0): 7,
        (0, 1): 31,
        (1, 1): 30,
        (2, 1): 28,
        (3, 1): 24,
        (4, 1): 16,
    }
    assert (start, then) == ([3, 0], [7, 6])
    third, still = selection.finished_samples(ring(kinds, rewards, 16), then, 1.0)
    assert len(third.time) == 0 and still == then


def test_several_episodes_of_one_lane_do_not_mix():
    kinds, rewards = [(F,), (L,), (F,), (M,), (L,), (F,)], [(0,), (3,), (0,), (10,), (20,), (0,)]
    samples, start = selection.finished_samples(ring(kinds, rewards, 8), [0], 0.1)
    assert by_place(samples) == pytest.approx({(0, 0): 3.0, (2, 0): 12.0, (3, 0): 20.0})
    assert start == [5]


def test_what_the_ring_has_overwritten_is_left_out():
    # 4 slots hold times 3 to 6 of an episode that began at 0; what is left of it keeps its exact returns.
    kinds = [(F,), (M,), (M,), (M,), (M,), (L,), (F,)]
    rewards = [(0,), (1,), (2,), (4,), (8,), (16,), (0,)]
    state = ring(kinds, rewards, 4)
    samples, start = selection.finished_samples(state, [0], 1.0)
    assert by_place(samples) == {(3, 0): 24.0, (4, 0): 16.0}
    assert start == [6]
    frames = np.asarray(selection.frames_of(state, samples))
    assert frames[:, 0, 0, 0].tolist() == [3, 4]


def test_a_start_inside_an_episode_keeps_the_rest_of_it():
    kinds, rewards = [(F,), (M,), (M,), (L,)], [(0,), (1,), (2,), (4,)]
    samples, start = selection.finished_samples(ring(kinds, rewards, 8), [2], 1.0)
    assert by_place(samples) == {(2, 0): 4.0}
    assert start == [4]


def test_no_finished_episode_no_samples():
    samples, start = selection.finished_samples(ring([(F,), (M,)], [(0,), (1,)], 8), [0], 1.0)
    assert len(samples.time) == 0 and samples.action.shape == (0, 2) and start == [0]


def test_frames_are_those_of_the_samples_own_time_and_lane():
    kinds = [(F, F), (M, M), (M, M), (L, L)] * 3
    state = ring(kinds, [(1, 2)] * 12, 7)
    samples, _ = selection.finished_samples(state, [0, 0], 1.0)
    frames = np.asarray(selection.frames_of(state, samples))
    assert sorted(set(samples.time.tolist())) == [5, 6, 8, 9, 10]
    np.testing.assert_array_equal(frames[:, 0, 0, 0], samples.time)
    np.testing.assert_array_equal(frames[:, 1, 1, 1], samples.env_id)


def test_several_frames_are_the_newest_ones_and_repeat_before_the_first():
    """Lane 0 begins an episode at 4 and 8; the ring of 7 slots holds times 5 to 11."""
    kinds = [(F, F), (M, M), (M, M), (L, L)] * 3
    state = ring(kinds, [(1, 2)] * 12, 7)
    samples, _ = selection.finished_samples(state, [0, 0], 1.0)
    frames = np.asarray(selection.frames_of(state, samples, 3))
    assert frames.shape[-1] == 9
    seen = {5: [5, 5, 5], 6: [5, 5, 6], 8: [8, 8, 8], 9: [8, 8, 9], 10: [8, 9, 10]}  # 5 is the oldest stored
    assert frames[:, 0, 0, ::3].tolist() == [seen[time] for time in samples.time.tolist()]
    np.testing.assert_array_equal(frames[..., -3:], selection.frames_of(state, samples))
    strip = tile_frames(frames[0])
    for position in range(3):
        side = frames.shape[2]
        np.testing.assert_array_equal(
            strip[:, side * position : side * (position + 1)], frames[0, ..., 3 * position : 3 * position + 3]
        )


@pytest.mark.parametrize("error", [PriorError("no answer"), EnvironmentLost("gone")])
def test_a_return_of_the_vlm_that_cannot_be_measured_costs_no_round(tiny_config, tmp_path, error):
    def evaluate(policy, episodes, number):
        raise error

    config = dataclasses.replace(tiny_config, vlm=dataclasses.replace(tiny_config.vlm, return_episodes=2))
    programs = SimpleNamespace(evaluator=SimpleNamespace(env=None, evaluate=evaluate))
    finetune_scheduler = FinetuneScheduler(config, programs, None, tmp_path)
    record, start = finetune_scheduler.complete(Round(1, {"round": 1}, [0, 0], [26, 26]), None, 0)
    assert (record, start) == ({"round": 1, "tuned": False, "guidance": False}, [26, 26])


@pytest.mark.parametrize(
    ("finetuned", "tuned", "guides", "start"),
    [
        ({"finetune_loss": [0.5], "rolled_back": False}, True, True, [26, 26]),
        ({"finetune_loss": [0.5], "rolled_back": True}, False, False, [0, 0]),  # the next round learns from it too
        ({"finetune_loss": [], "rolled_back": False}, False, False, [26, 26]),  # all weights are zero
        (None, False, False, [26, 26]),
    ],
)
def test_only_rounds_that_tuned_the_vlm_count_toward_the_cold_start(
    tiny_config, tmp_path, finetuned, tuned, guides, start
):
    """The second of two rounds that the cold start waits for."""
    config = dataclasses.replace(
        tiny_config, method="covr", covr=dataclasses.replace(tiny_config.covr, cold_start_rounds=2)
    )
    scheduler = FinetuneScheduler(config, SimpleNamespace(), None, tmp_path)
    if finetuned is not None:
        finetuned |= {"answers": [], "action_error_untuned": 0.3}
    record, following = scheduler.complete(Round(2, {"round": 2, "env_steps": 9}, [0, 0], [26, 26]), finetuned, 1)
    assert (record["tuned"], record["guidance"], following) == (tuned, guides, start)
    told = []
    tell_round(record, 9, SimpleNamespace(message=told.append))
    assert ("does not count" in "".join(told)) != tuned


def test_take_selects_rows_of_every_field():
    samples, _ = selection.finished_samples(ring([(F, F), (M, M), (L, L)], [(0, 0), (1, 2), (4, 8)], 8), [0, 0], 1.0)
    taken = samples.take(np.array([3, 0]))
    assert by_place(taken) == {(1, 1): 8.0, (0, 0): 5.0}
    assert taken.action.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_the_entropy_is_that_of_what_acted():
    """Actions before slot 2 were uniform (A ln 2 = 2 ln 2), later ones the policy's, whose estimates are -1 and -3."""

    class Estimates:
        def entropy(self, state, time, env_id, number):
            return np.asarray([9.0, 9.0, -1.0, -3.0])

    samples = selection.Samples(
        np.arange(4), np.zeros(4, int), np.arange(4), np.zeros((4, 2), np.float32), *np.zeros((2, 4))
    )
    selector = selection.DataSelector(Config(), Estimates())
    assert selector.acting_entropy(None, samples, 1, 2) == pytest.approx((4 * np.log(2) - 1 - 3) / 4)
    assert selector.acting_entropy(None, samples, 1, 4) == pytest.approx(2 * np.log(2))
    assert selector.acting_entropy(None, samples, 1, 0) == pytest.approx(14 / 4)


def test_rounds_of_ever_other_sizes_keep_no_programs():
    """Each compiled program maps memory: a run of many rounds grew by 20 to 100 MB a round."""

    class Estimates:
        def entropy(self, state, time, env_id, number):
            return np.zeros(len(time))

    def select(episodes):
        kinds, rewards = [(F, F), (M, M), (L, L)] * episodes, [(0, 0), (1, 2), (4, 8)] * episodes
        state = ring(kinds, rewards, 60)
        selected = selector.select(state, 1, selection.RoundData(10, [0, 0], 0))
        selection.frames_of(state, selected.kept)
        return selected.record["samples"]

    def maps():
        return len(Path("/proc/self/maps").read_text().splitlines())

    selector = selection.DataSelector(Config(), Estimates())
    select(6)
    before = maps()
    assert [select(episodes) for episodes in (7, 8, 9, 10)] == [28, 32, 36, 40]
    assert maps() - before < 100  # 516 where each operation is a program


@pytest.mark.parametrize("kind", ["return", "q_value"])
def test_a_round_of_a_policy_that_is_not_finite_ends_the_run(kind):
    """Its filter would keep nothing, without a word."""

    class NotFinite:
        def entropy(self, state, time, env_id, number):
            return np.full(len(time), np.nan if kind == "return" else 1.0)

        def q_values(self, state, time, env_id, action):
            return np.full(len(time), np.inf)

    config = dataclasses.replace(Config(), covr=dataclasses.replace(Config().covr, score=kind))
    state = ring([(F, F), (M, M), (L, L)], [(0, 0), (1, 2), (4, 8)], 8)
    with pytest.raises(Diverged, match=r"^the entropy or a score of a round's samples is not finite$"):
        selection.DataSelector(config, NotFinite()).select(state, 1, selection.RoundData(10, [0, 0], 0))


def test_a_time_limit_goes_on_with_the_value_and_a_termination_does_not():
    """Rewards 1, 1 and discount 0.5. Without V: 1.5, 1. With V = 8 at the time limit: 1 + 0.5 * (1 + 0.5 * 8), 5."""
    state = ring([(F, F), (M, M), (L, L)], [(0, 0), (1, 1), (1, 1)], 8)
    end = state.replay.discount.at[2].set(np.asarray([1.0, 0.0]))  # env 1 has terminated
    state = SimpleNamespace(replay=state.replay.replace(discount=end))
    asked = []

    def value_of(time, env_id):
        asked.append((time.tolist(), env_id.tolist()))
        return np.asarray([8.0], np.float32)

    samples, _ = selection.finished_samples(state, [0, 0], 0.5, value_of=value_of)
    assert asked == [([2], [0])]
    gained = {(t, e): g for t, e, g in zip(samples.time, samples.env_id, samples.returns, strict=True)}
    assert gained == {(0, 0): 3.5, (1, 0): 5.0, (0, 1): 1.5, (1, 1): 1.0}
    assert samples.step.tolist() == [0, 0, 1, 1]
