"""Whole runs with a deterministic stand-in for the VLM: guidance, rounds, resuming, and what refuses to start."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.config import ConfigError
from covr_jax.covr import schedule
from covr_jax.io.checkpoint import Checkpointer, CheckpointError
from covr_jax.io.metrics import read_metrics
from covr_jax.io.run_dir import claim, write_json
from covr_jax.training import loop
from covr_jax.training.evaluation import Evaluator
from covr_jax.training.programs import Programs
from covr_jax.training.restore import load_run
from covr_jax.training.rounds import FinetuneScheduler, warn_about_schedule
from covr_jax.training.selection import DataSelector
from covr_jax.types import EnvironmentLost
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.reporters import Quiet

# What depends on the clock or the machine and not on the run.
TIMING = {"wall_s", "train/env_steps_per_second", "train/updates_per_second", "vlm/latency_s", "mem/device_peak_bytes"}
TIMING |= {"time/compile_s", "time/compile_cold_s", "compile/programs", "compile/cached"}
TIMING |= {"policy/latency_s", "vlm/mean_latency_s"}


class WatchedVLM(FakeVLM):
    """The fake, telling when it was asked."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def query(self, frames):
        assert frames.dtype == np.uint8 and frames.shape[1:] == (20, 20, 3)
        self.log.asked.append(self.log.phase)
        return super().query(frames)

    def finetune(self, frames, actions, weights, progress=None):
        assert np.min(weights) >= 0 and abs(np.max(weights) - 1) < 1e-6
        return super().finetune(frames, actions, weights, progress)


class Stop(Exception):
    """Stands for a kill."""


def host_copy(tree):
    return jax.tree.map(
        lambda x: np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


def assert_equal(one, two):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


@dataclasses.dataclass
class Log:
    """What a watched run did."""

    phase: str = "between"  # what the loop is doing when the VLM is asked
    asked: list = dataclasses.field(default_factory=list)
    chunks: list = dataclasses.field(default_factory=list)  # (env steps, rounds, params, valid priors, weight)
    rounds: list = dataclasses.field(default_factory=list)  # (env steps, D_f's start after the round)
    saved: dict = dataclasses.field(default_factory=dict)  # env steps -> state at that checkpoint
    began: object = None
    ended: object = None
    vlm: object = None


@pytest.fixture(scope="module")
def run(make_programs):
    """run(config, directory, stop_at) -> Log, through loop.train with a fake VLM."""

    def go(config, run_dir, stop_at=math.inf):
        log = Log()

        class Watched(loop.Trainer):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                log.began = host_copy(self.state)

            def _chunk(self):
                super()._chunk()
                learner, valid = self.state.learner, int(self.state.replay.prior.valid.sum())
                row = (
                    self.env_steps,
                    self.host.rounds,
                    host_copy(learner.params),
                    valid,
                    float(learner.guidance_weight),
                )
                log.chunks.append(row)

            def _round(self, *arguments):
                ended = super()._round(*arguments)
                if ended:
                    log.rounds.append((self.env_steps, list(self.host.data_start)))
                return ended

            def _save(self):
                super()._save()
                log.saved[self.env_steps] = host_copy(self.state)
                log.ended = self.state

        def phased(owner, name):
            original = getattr(owner, name)

            def method(self, *arguments, **options):
                log.phase = name
                try:
                    return original(self, *arguments, **options)
                finally:
                    log.phase = "between"

            return method

        def build_engine(*arguments):
            log.vlm = WatchedVLM(log)
            return log.vlm

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Programs", make_programs)
            patch.setattr(loop, "Trainer", Watched)
            patch.setattr(factory, "build_engine", build_engine)
            for owner, name in ((Programs, "chunk"), (Evaluator, "evaluate")):
                patch.setattr(owner, name, phased(owner, name))
            with contextlib.suppress(Stop):
                loop.train(config, run_dir, Quiet(stop_at, Stop))
        return log

    return go


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def covr(run, tiny_config, folder):
    return run(tiny_config, folder / "covr")


@pytest.fixture(scope="module")
def rad(run, tiny_config, folder):
    return run(dataclasses.replace(tiny_config, method="rad"), folder / "rad")


# -------------------------------------------------------------------- guidance


def test_covr_is_its_base_bit_for_bit_until_the_gate_opens(covr, rad):
    assert [row[0] for row in covr.chunks] == [row[0] for row in rad.chunks]
    opened = next(index for index, row in enumerate(covr.chunks) if row[1] == 2)  # the chunk after the second round
    assert 5 < opened < len(covr.chunks) - 3
    for one, two in zip(covr.chunks[: opened + 1], rad.chunks[: opened + 1], strict=True):
        assert same(one[2], two[2])
    # Priors come in after that chunk; a batch of 4 soon holds one, and from then on the two never meet again.
    differs = [
        not same(one[2]["actor"], two[2]["actor"])
        for one, two in zip(covr.chunks[opened + 1 :], rad.chunks[opened + 1 :], strict=True)
    ]
    assert any(differs[:3]) and differs == sorted(differs)


def test_learning_moved_the_parameters_at_all(rad):
    learning = [row[2] for row in rad.chunks[2:]]
    assert all(not same(one, two) for one, two in itertools.pairwise(learning))
    assert same(rad.chunks[0][2], rad.chunks[1][2])  # random actions, no updates


def test_priors_and_weight_reach_the_learner_only_after_the_gate(covr, rad, tiny_config):
    for env_steps, rounds, _, valid, weight in covr.chunks:
        assert (weight, valid > 0) == ((1.0, True) if rounds >= 2 else (0.0, False)), env_steps
    assert all((valid, weight) == (0, 0.0) for *_, valid, weight in rad.chunks)


def test_the_vlm_is_asked_neither_for_actions_nor_in_evaluations(covr):
    assert set(covr.asked) == {"between"}
    guided = sum(row[1] >= 2 for row in covr.chunks)
    held_out = 3 * covr.vlm.counters["rounds"]  # per round before, after and untuned
    assert len(covr.asked) == guided + held_out


# ---------------------------------------------------------------------- rounds


def test_rounds_fire_within_a_chunk_of_their_step(covr, tiny_config):
    due = schedule.round_steps(tiny_config.covr.psi_0, tiny_config.total_steps)
    assert due == [2000, 6000, 12_000]
    longest = 10 * 2 * 40  # one chunk: agent steps, lanes, action repeat
    for expected, (env_steps, _) in zip(due, covr.rounds, strict=True):
        assert expected <= env_steps < expected + longest


def test_a_round_waits_until_an_episode_has_ended(run, tiny_config, folder):
    """Due at 400, 1200, 2400 and 4000; episodes end at 2000 and 4000, chunks at 720, 1520, 2320, 3120, 3920, 4640."""
    early = dataclasses.replace(tiny_config.covr, psi_0=400)
    log = run(dataclasses.replace(tiny_config, covr=early, total_steps=4800), folder / "early")
    assert [env_steps for env_steps, _ in log.rounds] == [2320, 4640]
    records = [json.loads((folder / f"early/vlm/round_{number}/record.json").read_text()) for number in (1, 2)]
    assert [record["samples"] for record in records] == [50, 50]


@pytest.mark.parametrize(
    ("total_steps", "capacity", "said"),
    [
        (1600, 200, "no round will take place: 2 environments in step end their first episodes after 2,000 env steps"),
        (4000, 200, "the VLM will not guide: 1 of the 2 rounds that guidance waits for take place before the end"),
        (4800, 200, None),
        (4800, 39, "rounds are up to 1,600 env steps apart, more than --replay.capacity holds"),
    ],
)
def test_what_will_be_missing_is_foretold(tiny_config, total_steps, capacity, said):
    """Rounds are due at 400, 1200, 2400 and 4000, and one can begin at 2000 and at 4000, where an episode ends."""
    early = dataclasses.replace(tiny_config.covr, psi_0=400)
    kept = dataclasses.replace(tiny_config.replay, capacity=capacity)
    config = dataclasses.replace(tiny_config, total_steps=total_steps, covr=early, replay=kept)
    env = SimpleNamespace(num_envs=2, episode_length=25, action_repeat=40)
    quiet = Quiet()
    warn_about_schedule(config, SimpleNamespace(env=env, hosted=False), schedule.round_steps(400, total_steps), quiet)
    assert [text.startswith(said) for text in quiet.messages] == ([True] if said else [])


def test_a_film_that_fails_costs_no_result(monkeypatch, tmp_path):
    from covr_jax.training import video

    def lost(*_):
        raise EnvironmentLost("the world is gone")

    monkeypatch.setattr(video, "record_episode", lost)
    quiet = Quiet()
    programs = SimpleNamespace(evaluator=SimpleNamespace(eval_policy=lambda learner: None))
    state = SimpleNamespace(learner=None)
    loop.Trainer._record_video(SimpleNamespace(programs=programs, state=state, run_dir=tmp_path, reporter=quiet))
    assert quiet.messages == ["no video: the world is gone"]


def test_every_round_starts_with_an_empty_buffer(covr, tiny_config, folder):
    records = [
        json.loads((folder / f"covr/vlm/round_{number}/record.json").read_text())
        for number in range(1, len(covr.rounds) + 1)
    ]
    starts = [start for _, start in covr.rounds]
    assert [record["env_steps"] for record in records] == [env_steps for env_steps, _ in covr.rounds]
    assert [record["guidance"] for record in records] == [False, True, True]
    before = [0, 0]
    for record, start in zip(records, starts, strict=True):
        episodes = [(after - first) // 26 for first, after in zip(before, start, strict=True)]
        assert all((after - first) % 26 == 0 for first, after in zip(before, start, strict=True))
        assert record["samples"] == 25 * sum(episodes) > 0  # whole episodes, each of 25 actions, none twice
        assert record["kept"] < record["samples"] and record["trained"] <= record["kept"]
        before = start
    assert (folder / "covr/vlm/round_3/sample_0.png").stat().st_size > 0


def test_rows_of_metrics(covr, rad, folder):
    rows = read_metrics(folder / "covr/metrics.jsonl")
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(steps) and steps[0] == 0 and "eval/random_return" in rows[0]
    assert [row["covr/round"] for row in rows if "covr/tau" in row] == [1, 2, 3]
    training = [row for row in rows if "replay/size" in row]
    assert len(training) == len(covr.chunks)
    assert all(row["agent_steps"] * 40 == row["env_steps"] for row in rows)
    learnt = [row for row in training if "losses/critic" in row]
    assert len(learnt) == len(training) - 2
    assert all(row["losses/guidance"] >= 0 and row["sac/alpha"] > 0 for row in learnt)
    assert {"vlm/queries", "vlm/parse_fail_rate"} <= training[-1].keys()
    evaluations = [row["env_steps"] for row in rows if "eval/episode_return" in row]
    assert len(evaluations) == len(set(evaluations)) >= 3 and evaluations[-1] == covr.chunks[-1][0]
    # The base's own numbers are the same until the gate opens.
    guided = next(row[0] for row in covr.chunks if row[1] == 2)
    names = ("losses/critic", "losses/actor", "sac/entropy", "train/episode_return", "eval/episode_return")
    ours, theirs = (
        [
            {name: row.get(name) for name in names}
            for row in read_metrics(folder / run / "metrics.jsonl")
            if row["env_steps"] <= guided and "covr/round" not in row
        ]
        for run in ("covr", "rad")
    )
    assert ours == theirs
    result = json.loads((folder / "covr/result.json").read_text())
    assert result["renderer"] == "jax" and result["env_steps"] == covr.chunks[-1][0]
    assert result["final_return"] == rows[-1]["eval/episode_return"]


# ----------------------------------------------------------------------- modes


def with_vlm(config, **options):
    return dataclasses.replace(config, vlm=dataclasses.replace(config.vlm, **options))


def rows_of(directory):
    rows = read_metrics(directory / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMING and not k.startswith("vlm/")} for row in rows]


def test_a_thread_that_is_waited_for_is_sync_bit_for_bit(run, tiny_config, folder, covr):
    log = run(with_vlm(tiny_config, mode="async", deadline_s=300.0), folder / "async")
    assert_equal(host_copy(log.ended), host_copy(covr.ended))
    assert rows_of(folder / "async") == rows_of(folder / "covr") and log.vlm.bias == covr.vlm.bias
    last = [row for row in read_metrics(folder / "async/metrics.jsonl") if "vlm/queries" in row][-1]
    assert [last[f"vlm/{name}"] for name in ("failures", "hangs", "dropped", "lost", "stale", "down")] == [0] * 6


def test_an_asynchronous_run_is_repeated_from_its_recording(run, tiny_config, folder):
    recorded = run(with_vlm(tiny_config, mode="async", deadline_s=0.0, record=True), folder / "recorded")
    path = str(folder / "recorded/vlm/answers.jsonl")
    again = run(with_vlm(tiny_config, name="never/loaded", replay=path), folder / "replayed")
    assert again.vlm is None
    assert_equal(host_copy(again.ended), host_copy(recorded.ended))
    assert rows_of(folder / "replayed") == rows_of(folder / "recorded")
    assert int(again.ended.replay.prior.valid.sum()) > 0
    assert read_metrics(folder / "replayed/metrics.jsonl")[-1]["env_steps"] >= 12_000


def test_a_vlm_that_never_answers_leaves_the_base_method(run, tiny_config, folder, rad, monkeypatch):
    monkeypatch.setattr(FakeVLM, "query", broken)
    config = with_vlm(tiny_config, mode="async", deadline_s=300.0, restarts=2)
    log = run(config, folder / "broken")
    assert_equal(host_copy(log.ended).learner.params, host_copy(rad.ended).learner.params)
    last = [row for row in read_metrics(folder / "broken/metrics.jsonl") if "vlm/queries" in row][-1]
    assert last["vlm/failures"] >= 1 and log.rounds == []


def broken(self, frames):
    raise MemoryError


# -------------------------------------------------------------------- resuming


@pytest.fixture(scope="module")
def resumed(run, tiny_config, folder):
    """The same run, killed once while unguided and once while guided."""
    return [run(tiny_config, folder / "resumed", stop_at) for stop_at in (5300, 9500, math.inf)]


def test_the_kills_lost_steps_after_a_checkpoint(resumed):
    for killed, stopped in zip(resumed, (5300, 9500), strict=False):
        assert 0 < max(killed.saved) < stopped - 1600  # two chunks of 800 env steps
    assert [len(part.rounds) for part in resumed] == [1, 1, 1]


def test_a_resumed_run_begins_with_the_state_that_was_saved(resumed):
    for killed, following in itertools.pairwise(resumed):
        assert_equal(following.began, killed.saved[max(killed.saved)])


def test_straight_and_resumed_runs_are_bitwise_equal(covr, resumed):
    assert_equal(host_copy(resumed[-1].ended), host_copy(covr.ended))
    assert covr.vlm.bias != 0.0 and resumed[-1].vlm.bias == covr.vlm.bias
    timing = {"latency_s", "query_s"}
    counts = [{k: v for k, v in log.vlm.counters.items() if k not in timing} for log in (resumed[-1], covr)]
    assert counts[0] == counts[1]


STAGES = {
    "while samples are chosen": (DataSelector, "select"),
    "in the lesson": (FakeVLM, "finetune"),
    "after the lesson": (FinetuneScheduler, "complete"),
    "before the checkpoint": (loop.Trainer, "_save"),
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
    sizes = piece_sizes(make_programs(tiny_config))
    assert set(sizes.values()) == {1}, sizes


def test_nothing_is_compiled_once_every_part_of_a_run_has_run(rad, covr, folder):
    """JAX's own count of programs, eager ones included, over the rows of whole runs."""
    for name, settled in (("rad", 0), ("covr", 6000)):  # the VLM's priors come in after the second round
        rows = read_metrics(folder / name / "metrics.jsonl")
        evaluated = min(row["env_steps"] for row in rows if "eval/episode_return" in row)
        learnt = min(row["env_steps"] for row in rows if "losses/critic" in row)
        since = max(evaluated, learnt, settled) + 2 * 800  # and a chunk of it
        counts = [row["compile/programs"] for row in rows if "compile/programs" in row and row["env_steps"] > since]
        assert len(counts) >= 3 and counts[0] > 0
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


def test_a_run_can_be_loaded_without_its_vlm(covr, tiny_config, folder, make_programs, monkeypatch):
    monkeypatch.setattr(loop, "Programs", make_programs)
    config, _, state = load_run(folder / "covr")
    assert config == tiny_config
    assert_equal(host_copy(state), host_copy(covr.ended))
    with pytest.raises(ConfigError, match="holds no run"):
        load_run(folder)
    with pytest.raises(CheckpointError, match="no checkpoint 7 "):
        load_run(folder / "covr", 7)


# --------------------------------------------------------------------- refusals


def refused(kind, run, *arguments):
    with pytest.raises(kind) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_configurations_directory_is_refused(run, covr, tiny_config, folder):
    other = dataclasses.replace(tiny_config, seed=9, sac=dataclasses.replace(tiny_config.sac, discount=0.5))
    message = refused(ConfigError, run, other, folder / "covr")
    assert "sac.discount: 0.99 -> 0.5 (and 1 more); choose another --run-dir" in message


def test_resume_can_be_switched_off(run, resumed, tiny_config, folder):
    config = dataclasses.replace(tiny_config, run=dataclasses.replace(tiny_config.run, resume=False))
    directory = folder / "no_resume"
    (directory / "checkpoints" / "800").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(loop.configuration.to_dict(config)))
    assert "already holds a checkpoint" in refused(ConfigError, run, config, directory)


def test_a_directory_in_use_is_refused_and_freed_afterwards(run, covr, tiny_config, folder):
    with claim(folder / "covr"):
        assert "in use by another process" in refused(ConfigError, run, tiny_config, folder / "covr")
    run(tiny_config, folder / "covr")


def test_a_corrupt_checkpoint_is_named(run, tiny_config, folder, resumed):
    directory = folder / "corrupt"
    run(tiny_config, directory, 2500)
    (newest,) = Checkpointer(directory).steps()
    path = directory / "checkpoints" / str(newest)
    (path / "adapter" / "bias.json").unlink()
    assert f"cannot read checkpoint {path}: cannot read the adapter" in refused(
        CheckpointError, run, tiny_config, directory
    )
    for file in (path / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert f"cannot read checkpoint {path}" in refused(CheckpointError, run, tiny_config, directory)


def test_options_that_turn_out_unusable_do_not_claim_the_directory(run, tiny_config, folder, monkeypatch):
    wrong = dataclasses.replace(tiny_config, method="rad", task="nonsense")
    assert "unknown task" in refused(ConfigError, run, wrong, folder / "typo")
    assert not (folder / "typo" / "config.json").exists()


def test_a_record_is_there_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"round": 1})

    def full(self, text):
        Path.open(self, "w").write(text[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"round": 2})
    assert json.loads(path.read_text()) == {"round": 1}
