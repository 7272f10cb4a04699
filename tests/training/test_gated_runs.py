"""Whole runs whose queries are gated by entropy, beside ungated ones.

The tiny config has 2 environments, chunks of 10 agent steps and a query every 5: 4 query slots per chunk.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.io.metrics import read_metrics
from covr_jax.training import loop
from covr_jax.training.resolve import resolve
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.gated import gated
from tests.support.reporters import Quiet

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("training")]


@pytest.fixture(scope="module")
def run(make_programs, tiny_config, tmp_path_factory):
    """run(name, share, **vlm) -> (trainer, metric rows, queried batches of frames): DPL, queried from the start."""

    def go(name, share, **vlm):
        directory, asked = tmp_path_factory.mktemp("runs") / name, []

        class Watched(FakeVLM):
            def query(self, frames):
                asked.append(np.array(frames))
                return super().query(frames)

        short = dataclasses.replace(tiny_config, method="dpl", total_steps=4_000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Programs", make_programs)
            if vlm.get("mode") != "process":  # whose child would not know the class
                patch.setattr(factory, "build_engine", lambda *_: Watched())
            trainer = loop.AgentTrainer(resolve(gated(short, share, **vlm)), directory, Quiet())
            trainer.run()
            trainer.vlm.close()
        return trainer, read_metrics(directory / "metrics.jsonl"), asked

    return go


@pytest.fixture(scope="module")
def half(run):
    return run("half", 0.5)


CLOCK = ("wall_s", "checkpoint/", "time/", "compile/", "mem/", "policy/", "per_second", "latency")


def timeless(rows, *more):
    leave = (*CLOCK, *more)
    return [{k: v for k, v in row.items() if not any(part in k for part in leave)} for row in rows]


def assert_equal(one, two):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def test_a_gate_that_lets_all_through_is_none(run):
    """0.999 of 4 is 4: ranking, choosing and scattering all happen, and nothing else in the run knows of it."""
    gate, none = run("open", 0.999), run("none", 1.0)
    assert_equal(gate[0].state, none[0].state)
    assert timeless(gate[1], "vlm/asked", "vlm/skipped") == timeless(none[1])
    assert not any("vlm/asked" in row for row in none[1])
    last = [row for row in gate[1] if "vlm/asked" in row][-1]
    assert last["vlm/asked"] == 4 * len(gate[2]) and last["vlm/skipped"] == 0
    for one, two in zip(gate[2], none[2], strict=True):
        np.testing.assert_array_equal(one, two)


def test_half_of_the_frames_are_queried_and_counted(half):
    trainer, rows, asked = half
    chunks = len(asked)
    assert chunks == int(trainer.state.progress.vec_steps) // 10 >= 5
    assert all(frames.shape == (2, 20, 20, 3) for frames in asked)
    training = [row for row in rows if "vlm/asked" in row]
    assert [row["vlm/asked"] for row in training] == [2 * (i + 1) for i in range(chunks)]
    assert [row["vlm/skipped"] for row in training] == [row["vlm/asked"] for row in training]
    assert training[-1]["vlm/queries"] == chunks == len(training)
    newest = max((trainer.run_dir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    saved = json.loads((newest / "host.json").read_text())
    assert (saved["frames_queried"], saved["frames_skipped"]) == (2 * chunks, 2 * chunks)


def test_every_answer_lies_with_its_frame_and_the_others_are_without(half):
    trainer, _, asked = half
    store = jax.tree.map(np.asarray, trainer.state.replay)
    count = int(store.count)
    assert count <= len(store.reward)  # nothing overwritten
    given = {frame.tobytes() for frames in asked for frame in frames}
    valid = 0
    for time in range(0, count, 5):
        for env_id in range(2):
            frame, answered = store.pictures[time, env_id], store.prior.valid[time, env_id]
            answer = FakeVLM().query(frame[None])
            if frame.tobytes() not in given:
                assert not answered and not store.prior.action[time, env_id].any()
            elif answered:
                np.testing.assert_array_equal(store.prior.action[time, env_id], answer.action[0])
                valid += 1
    understood = sum(int(FakeVLM().query(frames).valid.sum()) for frames in asked)
    assert valid == understood > len(asked)


@pytest.mark.parametrize("mode", ["async", "process"])
def test_modes_that_are_waited_for_are_sync(run, half, mode):
    other = run(mode, 0.5, mode=mode, deadline_s=300.0)
    assert_equal(other[0].state, half[0].state)
    assert timeless(other[1], "vlm/") == timeless(half[1], "vlm/")


def test_a_recording_is_played_back_to_the_same_places(run, half):
    recorded = run("recorded", 0.5, record=True)
    path = recorded[0].run_dir / "vlm" / "answers.jsonl"
    replayed = run("replayed", 0.5, replay=str(path))
    assert replayed[2] == []
    assert_equal(replayed[0].state, half[0].state)
    assert replayed[0].vlm.counters["missed"] == 0


def test_several_frames_reach_the_vlm_in_queries_measurements_and_fine_tuning(make_programs, tiny_config, tmp_path):
    """A whole run of COVR: the channels of the querying, the measuring and the fine-tuning calls."""
    channels = {"query": set(), "finetune": set()}

    class Watched(FakeVLM):
        def query(self, frames):
            channels["query"].add(frames.shape[1:])
            return super().query(frames)

        def finetune(self, frames, *more):
            channels["finetune"].add(frames.shape[1:])
            return super().finetune(frames, *more)

    covr = dataclasses.replace(tiny_config.covr, cold_start_rounds=0)
    config = dataclasses.replace(gated(tiny_config, 1.0, frames=2, return_episodes=1), total_steps=2_400, covr=covr)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Programs", make_programs)
        patch.setattr(factory, "build_engine", lambda *_: Watched())
        loop.AgentTrainer(resolve(config), tmp_path, Quiet()).run()
    assert channels == {"query": {(20, 20, 6)}, "finetune": {(20, 20, 6)}}


def test_late_answers_go_to_the_chunk_of_their_query(run, half, monkeypatch):
    """Each answer is handed over two chunks late, as an asynchronous VLM may."""
    late = []

    def poll(self, time):
        late.append(original(self, time))
        return late.pop(0) if len(late) > 2 else []

    original = factory.SyncService.poll
    monkeypatch.setattr(factory.SyncService, "poll", poll)
    trainer, _, asked = run("late", 0.5)
    store = jax.tree.map(np.asarray, trainer.state.replay)
    end, valid = int(store.count) - 20, 0
    for time in range(0, end, 5):
        for env_id in range(2):
            if store.prior.valid[time, env_id]:
                np.testing.assert_array_equal(
                    store.prior.action[time, env_id], FakeVLM().query(store.pictures[time, env_id][None]).action[0]
                )
                valid += 1
    assert valid == sum(int(FakeVLM().query(frames).valid.sum()) for frames in asked[:-2]) > 0
    assert not store.prior.valid[end : end + 20].any()
    assert trainer.queries.pending == [int(store.count) - 10, int(store.count)]
