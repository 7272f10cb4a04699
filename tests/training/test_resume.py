"""Runs that were killed: resumed bit for bit, rounds as transactions, nothing compiled anew."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from covr_jax import load_policy, runtime
from covr_jax.commands import export, push
from covr_jax.config import ConfigError
from covr_jax.io.checkpoint import Checkpointer, CheckpointError
from covr_jax.io.metrics import read_metrics
from covr_jax.training import loop, restore, trainer
from covr_jax.training.resolve import resolve
from covr_jax.training.restore import load_run
from covr_jax.training.rounds import FinetuneScheduler
from covr_jax.training.selection import DataSelector
from covr_jax.training.state import EvaluatedState
from covr_jax.training.surroundings import changes, provenance
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.reporters import Quiet
from tests.support.trees import assert_trees_equal, host_copy
from tests.support.watched_runs import TIMING, Stop

pytestmark = pytest.mark.xdist_group("training")


def test_the_kills_lost_steps_after_a_checkpoint(resumed):
    for killed, stopped in zip(resumed, (5300, 9500), strict=False):
        assert 0 < max(killed.saved) < stopped - 1600  # two chunks of 800 env steps
    assert [len(part.rounds) for part in resumed] == [1, 1, 1]


def test_a_resumed_run_begins_with_the_state_that_was_saved(resumed):
    for killed, following in itertools.pairwise(resumed):
        assert_trees_equal(following.began, killed.saved[max(killed.saved)])


def test_straight_and_resumed_runs_are_bitwise_equal(covr, resumed):
    assert_trees_equal(host_copy(resumed[-1].ended), host_copy(covr.ended))
    assert covr.vlm.bias != 0.0 and resumed[-1].vlm.bias == covr.vlm.bias
    timing = {"latency_s", "query_s"}
    counts = [{k: v for k, v in log.vlm.counters.items() if k not in timing} for log in (resumed[-1], covr)]
    assert counts[0] == counts[1]


def test_the_policy_of_the_best_evaluation_is_kept(covr, folder, make_programs, monkeypatch):
    rows = read_metrics(folder / "covr" / "metrics.jsonl")
    returns = {row["env_steps"]: row["eval/episode_return"] for row in rows if "eval/episode_return" in row}
    best = max(returns, key=lambda step: (returns[step], -step))
    assert len(returns) > 2
    (kept,) = (folder / "covr" / "best").iterdir()
    assert kept.name == str(best) and json.loads((kept / "host.json").read_text())["return"] == returns[best]
    monkeypatch.setattr(restore, "Programs", make_programs)
    _, _, state = load_run(folder / "covr", "best")
    assert int(state.progress.transitions) * 40 == best  # of action repeat 40
    if best in covr.saved:
        assert_trees_equal(host_copy(state.learner), covr.saved[best].learner)


def test_a_finished_run_that_is_extended_equals_one_of_that_length(run, tiny_config, folder, covr):
    directory = folder / "extended"
    run(dataclasses.replace(tiny_config, total_steps=8000), directory)
    short = json.loads((directory / "result.json").read_text())
    extended = run(tiny_config, directory)
    assert_trees_equal(host_copy(extended.ended), host_copy(covr.ended))
    final = json.loads((directory / "result.json").read_text())
    straight = json.loads((folder / "covr" / "result.json").read_text())
    assert 8000 <= short["env_steps"] < final["env_steps"] == straight["env_steps"]  # whole chunks of both environments
    assert final["final_return"] == straight["final_return"]
    changes = [json.loads(line) for line in (directory / "changes.jsonl").read_text().splitlines()]
    assert changes == [{"env_steps": short["env_steps"], "options": {"total_steps": [8000, 12_000]}}]
    written, began = (json.loads((folder / name / "config.json").read_text()) for name in ("extended", "covr"))
    assert written["total_steps"] == 12_000
    made_by = written["provenance"]  # of the run's first process
    assert made_by == began["provenance"] == json.loads(json.dumps(provenance(tiny_config)))
    assert made_by["device"] == "cpu" and made_by["jax"] == jax.__version__ and made_by["torch"]


def test_a_checkpoint_that_lacks_only_its_name_is_used(run, tiny_config, folder, covr):
    """Killed between the two moves by which a checkpoint takes the place of another one of the same step."""
    directory = folder / "without a name"
    shutil.copytree(folder / "covr", directory)
    (directory / "result.json").unlink()
    *older, newest = (directory / "checkpoints" / str(step) for step in Checkpointer(directory).steps())
    for path in older:
        shutil.rmtree(path)
    newest.rename(newest.with_suffix(".old"))
    assert_trees_equal(run(tiny_config, directory).began, host_copy(covr.ended))


def test_a_run_that_goes_on_elsewhere_says_what_differs(run, tiny_config, folder, covr, monkeypatch):
    directory, here = folder / "elsewhere", trainer.surroundings()
    shutil.copytree(folder / "covr", directory)
    (directory / "result.json").unlink()
    monkeypatch.setattr(trainer, "surroundings", lambda: here | {"processors": 99, "x64": not here["x64"]})
    told = Quiet()
    run(tiny_config, directory, reporter=told)
    (line,) = (text for text in told.messages if text.startswith("going on"))
    differs = f"processors {here['processors']} -> 99, x64 {here['x64']} -> {not here['x64']}"
    assert line == f"going on elsewhere ({differs}): the last digits may differ from now on"
    rows = read_metrics(directory / "metrics.jsonl")
    assert [row["checkpoint/changed_surroundings"] for row in rows if "checkpoint/changed_surroundings" in row] == [2]
    assert changes({"old": 1, "jax": "1"}, {"jax": "1", "new": 2}) == []


STAGES = {
    "while samples are chosen": (DataSelector, "select"),
    "in the fine-tuning": (FakeVLM, "finetune"),
    "after the fine-tuning": (FinetuneScheduler, "complete"),
    "before the checkpoint": (loop.AgentTrainer, "save"),
    "between arrays and adapter": (FakeVLM, "save_adapter"),
    "before the checkpoint counts": (Path, "rename"),
    "never": None,
}


@pytest.fixture(scope="module")
def before_round_2(run, tiny_config, folder):
    """A run killed shortly before its second round, and what a checkpoint holds of the transaction."""
    run(tiny_config, folder / "round_2", 5300)

    def look(directory):
        newest = directory / "checkpoints" / str(Checkpointer(directory).steps()[-1])
        host = json.loads((newest / "host.json").read_text())
        return host["rounds"], host["data_start"], json.loads((newest / "adapter/bias.json").read_text())

    return folder / "round_2", look


@pytest.mark.parametrize("stage", STAGES)
def test_a_round_is_done_or_not_done_wherever_it_is_killed(run, tiny_config, folder, before_round_2, covr, stage):
    original, look = before_round_2
    directory = folder / f"killed {stage}"
    shutil.copytree(original, directory)
    (directory / ".lock").unlink(missing_ok=True)
    kills = []

    def kill(*arguments, **options):
        kills.append(stage)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        if STAGES[stage] is not None:
            patch.setattr(*STAGES[stage], kill)
        log = run(tiny_config, directory, 6900)
    found = look(directory)
    assert log.chunks[-1][0] >= 6000 and kills == [stage] * (stage != "never")
    if stage == "never":
        assert found[0] == 2 and found[1] == covr.rounds[1][1] and found[2] not in (0.0, look(original)[2])
    else:
        assert found == look(original) and found[0] == 1 and found[1] == covr.rounds[0][1]


def test_metrics_of_a_resumed_run_have_no_gap_and_no_duplicate(covr, resumed, folder):
    straight, again = (
        [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / name / "metrics.jsonl")]
        for name in ("covr", "resumed")
    )
    assert again == straight


def test_resuming_compiles_nothing_anew(resumed, covr, tiny_config, make_programs, piece_sizes):
    sizes = piece_sizes(make_programs(resolve(tiny_config)))  # those that the runs had
    assert set(sizes.values()) == {1}, sizes


def test_nothing_is_compiled_once_every_part_of_a_run_has_run(rad, covr, folder):
    """JAX's own count of programs, eager ones included, over the rows of whole runs."""
    # The VLM's priors come in after the second round.
    for name, run, settled in (("rad", rad, 0), ("covr", covr, 6000)):
        rows = read_metrics(folder / name / "metrics.jsonl")
        evaluated = min(row["env_steps"] for row in rows if "eval/episode_return" in row)
        learnt = min(row["env_steps"] for row in rows if "losses/critic" in row)
        since = max(evaluated, learnt, settled) + 2 * 800  # and a chunk of it
        since = max(since, min(run.saved))  # the first checkpoint copies keys
        counts = [row["compile/programs"] for row in rows if "compile/programs" in row and row["env_steps"] > since]
        assert len(counts) >= 3
        assert set(counts) == {counts[0]}, (name, counts)


def test_speed_after_a_resume_counts_the_steps_since(resumed, folder):
    rows = read_metrics(folder / "resumed/metrics.jsonl")
    restart = max(resumed[1].saved)
    first = next(row for row in rows if row["env_steps"] > restart)
    # One chunk in the time since the restart; counted from zero it would be an order of magnitude more.
    before = max(row["wall_s"] for row in rows if row["env_steps"] <= restart)
    assert first["train/env_steps_per_second"] * (first["wall_s"] - before) < 4 * (first["env_steps"] - restart)


def test_a_finished_run_is_left_alone(run, covr, tiny_config, folder):
    before = (folder / "covr/metrics.jsonl").read_bytes()
    again = run(tiny_config, folder / "covr")
    assert again.began is None and (folder / "covr/metrics.jsonl").read_bytes() == before


def test_an_exported_policy_acts_bit_for_bit_as_its_run(covr, folder, make_programs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(restore, "Programs", make_programs)
    monkeypatch.setattr(runtime, "configure", lambda: None)
    monkeypatch.setattr(sys, "argv", ["export.py", str(folder / "covr"), "--output", str(tmp_path / "p.safetensors")])
    assert export.main() == 0 and "at 12,320 env steps" in capsys.readouterr().out
    policy, images = load_policy(tmp_path / "p.safetensors"), np.random.default_rng(0).integers(0, 256, (2, 20, 20, 9))
    programs = make_programs(policy.config)
    expected = programs.evaluator.mean_action(covr.ended.learner, images.astype(np.uint8), None)
    np.testing.assert_array_equal(policy.act(images.astype(np.uint8)), expected)
    shared = tmp_path / "shared"
    shared.mkdir()
    push.gather(folder / "covr", None, "people/cartpole", shared)
    np.testing.assert_array_equal(load_policy(shared).act(images.astype(np.uint8)), expected)
    files = {path.relative_to(shared).as_posix() for path in shared.rglob("*") if path.is_file()}
    kept = folder / "covr" / "checkpoints" / "12320" / "adapter"
    adapter = {f"adapter/{path.name}" for path in kept.iterdir() if path.suffix in push.SHARED}
    assert files == {"policy.safetensors", "README.md"} | adapter
    assert 'load_policy("people/cartpole")' in (shared / "README.md").read_text()


def test_a_run_can_be_loaded_without_its_vlm(covr, tiny_config, folder, make_programs, monkeypatch):
    monkeypatch.setattr(restore, "Programs", make_programs)
    config, _, state = load_run(folder / "covr")
    assert config == resolve(tiny_config)
    ended = covr.ended
    assert_trees_equal(host_copy(state), host_copy(EvaluatedState(ended.learner, ended.progress)))
    with pytest.raises(ConfigError, match="holds no run"):
        load_run(folder)
    with pytest.raises(CheckpointError, match="no checkpoint 7 "):
        load_run(folder / "covr", 7)
