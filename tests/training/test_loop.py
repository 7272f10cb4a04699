"""Guidance, rounds and metrics of whole runs, with a deterministic stand-in for the VLM."""

from __future__ import annotations

import dataclasses
import itertools
import json
from types import SimpleNamespace

import pytest

from covr_jax.covr import schedule
from covr_jax.io.metrics import read_metrics
from covr_jax.training import loop
from covr_jax.training.rounds import warn_about_schedule
from covr_jax.types import EnvironmentLost
from tests.support.reporters import Quiet
from tests.support.watched_runs import same

pytestmark = pytest.mark.xdist_group("training")


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


def test_the_vlm_is_queried_neither_for_actions_nor_in_evaluations(covr):
    assert set(covr.queried) == {"between"}
    guided = sum(row[1] >= 2 for row in covr.chunks)
    held_out = 3 * covr.vlm.counters["rounds"]  # per round before, after and untuned
    assert len(covr.queried) == guided + held_out


# ---------------------------------------------------------------------- rounds


def test_rounds_fire_within_a_chunk_of_their_step(covr, tiny_config):
    due = schedule.round_steps(tiny_config.covr.psi_0, tiny_config.total_steps)
    assert due == [2000, 6000, 12_000]
    longest = 10 * 2 * 40  # one chunk: agent steps, environments, action repeat
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
def test_what_will_be_missing_is_announced(tiny_config, total_steps, capacity, said):
    """Rounds are due at 400, 1200, 2400 and 4000, and one can begin at 2000 and at 4000, where an episode ends."""
    early = dataclasses.replace(tiny_config.covr, psi_0=400)
    kept = dataclasses.replace(tiny_config.replay, capacity=capacity)
    config = dataclasses.replace(tiny_config, total_steps=total_steps, covr=early, replay=kept)
    env = SimpleNamespace(num_envs=2, episode_length=25, action_repeat=40)
    quiet = Quiet()
    parts = SimpleNamespace(env=env, hosted=False)
    warn_about_schedule(config, SimpleNamespace(parts=parts), schedule.round_steps(400, total_steps), quiet)
    assert [text.startswith(said) for text in quiet.messages] == ([True] if said else [])


def test_a_failed_video_costs_no_result(monkeypatch, tmp_path):
    from covr_jax.training import video

    def lost(*_):
        raise EnvironmentLost("the world is gone")

    monkeypatch.setattr(video, "record_episode", lost)
    quiet = Quiet()
    trainer = SimpleNamespace(
        compile_log=SimpleNamespace(close=lambda: None),
        config=SimpleNamespace(run=SimpleNamespace(video=True)),
        programs=None,
        policy=lambda: None,
        run_dir=tmp_path,
        reporter=quiet,
    )
    loop.AgentTrainer.finish(trainer)
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
