"""The selection of a round, repeated later on a replay that has gone on since."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax import replay
from covr_jax.config import Config, ConfigError, CovrConfig, EnvConfig
from covr_jax.covr import ablations
from covr_jax.training import past_rounds, selection
from covr_jax.training.resolve import resolve
from covr_jax.training.restore import load_experience
from covr_jax.training.state import ExperienceState
from covr_jax.types import StepType, TimeStep
from tests.support.trees import assert_trees_equal, host_copy

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST
# Of two environments; round 1 takes place after five time slots, and round 2 after the eighth.
KINDS = [(F, F), (M, M), (L, M), (F, M), (M, M), (M, L), (L, F), (F, M)]
REWARDS = [(0, 0), (1, 1), (2, 2), (0, 4), (5, 8), (6, 16), (7, 0), (0, 32)]
CONFIG = Config(env=EnvConfig(num_envs=2, action_repeat=4), covr=CovrConfig(return_discount=1.0, min_keep=1))


def experience(times, slots=16, before=()):
    """What a run has stored after some time slots, and the transitions that it has made; ``before`` are others'."""
    store, made = replay.init(slots, 2, 2, 1), -sum(kind != F for kinds in before for kind in kinds)
    rows = [*((kind, (9, 9)) for kind in before), *zip(KINDS[:times], REWARDS[:times], strict=True)]
    for kind, reward in rows:
        kinds, rewards = np.array(kind, np.int32), np.array(reward, np.float32)
        step = TimeStep(kinds, rewards, np.ones(2, np.float32), np.zeros((2, 2, 2, 3), np.uint8))
        store = replay.add(store, step, np.zeros((2, 1), np.float32))
        made += int((kinds != F).sum())
    return SimpleNamespace(replay=store, progress=SimpleNamespace(transitions=np.int32(made)))


def recorded(number, times, start):
    """The record that round ``number`` wrote after some time slots, its samples, and where the next D_f begins."""
    state = experience(times)
    samples, following = selection.finished_samples(state, start, 1.0)
    keep = np.asarray(ablations.select(selection.round_key(1, number), samples.scores, 0.0, min_keep=1))
    record = {"round": number, "env_steps": 4 * int(state.progress.transitions), "exploration": 0.0}
    record |= {"samples": len(samples.time), "return_mean": float(samples.returns.mean()), "kept": int(keep.sum())}
    return record, samples.take(np.nonzero(keep)[0]), following


def test_a_round_is_repeated_as_it_was():
    first, kept_first, start = recorded(1, 5, [0, 0])
    second, kept_second, _ = recorded(2, 8, start)
    assert (first["samples"], second["samples"]) == (2, 8) and start == [3, 0]
    for records, kept in (([first], kept_first), ([first, second], kept_second)):
        found = past_rounds.repeat_round(CONFIG, experience(8), records)
        again = found.samples.take(np.nonzero(found.keep)[0])
        for one, other in zip(again, kept, strict=True):
            np.testing.assert_array_equal(one, other)
        assert len(found.compared) == records[-1]["samples"]


def test_demonstrations_before_the_run_s_own_steps_are_no_part_of_a_round():
    """Two time slots before them hold an episode of each environment: the same round, two slots later."""
    first, kept, _ = recorded(1, 5, [0, 0])
    later = experience(8, before=[(F, F), (L, L)])
    found = past_rounds.repeat_round(CONFIG, later, [first], own_start=2)
    again = found.samples.take(np.nonzero(found.keep)[0])
    np.testing.assert_array_equal(again.time, kept.time + 2)
    np.testing.assert_array_equal(again.returns, kept.returns)
    with pytest.raises(ConfigError, match="round 1 read 2 samples"):
        past_rounds.repeat_round(CONFIG, later, [first])


def test_a_round_that_was_rolled_back_leaves_its_samples_to_the_next():
    first, _, _ = recorded(1, 5, [0, 0])
    second, _, _ = recorded(2, 8, [0, 0])
    found = past_rounds.repeat_round(CONFIG, experience(8), [first | {"rolled_back": True}, second])
    assert len(found.samples.time) == 2 + 8


def test_what_cannot_be_repeated_is_refused_in_one_line():
    first, _, _ = recorded(1, 5, [0, 0])
    with pytest.raises(ConfigError, match="round 1 read 2 samples that are no longer in the replay"):
        past_rounds.repeat_round(CONFIG, experience(8, slots=6), [first])
    with pytest.raises(ConfigError, match="round 1 kept 5 samples, but 1 when it was repeated"):
        past_rounds.repeat_round(CONFIG, experience(8), [first | {"kept": 5}])
    for options in (CovrConfig(score="q_value"), CovrConfig(truncation="bootstrap")):
        with pytest.raises(ConfigError, match="round 1 scored its samples with the critic of that time"):
            past_rounds.repeat_round(Config(covr=options), experience(8), [first])


@pytest.mark.xdist_group("training")
def test_a_run_s_round_is_repeated_from_a_checkpoint_after_it(covr, folder, tiny_config):
    record = json.loads((folder / "covr" / "vlm" / "round_1" / "record.json").read_text())
    later = covr.saved[min(step for step in covr.saved if step > record["env_steps"])]
    found = past_rounds.repeat_round(resolve(tiny_config), later, [record])
    assert found.keep.sum() == record["kept"] and len(found.keep) == record["samples"]
    assert selection._histogram(found.samples.step, found.keep) == record["kept_steps"]
    assert found.compared[found.keep].min() > max(found.compared[~found.keep])


@pytest.mark.xdist_group("training")
def test_a_run_s_experience_is_that_of_its_end(covr, folder, tiny_config):
    parts, state, own_start = load_experience(folder / "covr")
    assert parts.config == resolve(tiny_config) and own_start == 0
    assert_trees_equal(host_copy(state), ExperienceState(covr.ended.replay, covr.ended.progress))
    with pytest.raises(ConfigError, match="round 1 read 50 samples that are no longer in the replay"):
        records = [json.loads((folder / "covr" / "vlm" / "round_1" / "record.json").read_text())]
        past_rounds.repeat_round(parts.config, state, records)
