"""Whole runs whose VLM answers in a thread, from a recording, or never."""

from __future__ import annotations

import pytest

from covr_jax.io.metrics import read_metrics
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.trees import assert_trees_equal, host_copy
from tests.support.watched_runs import rows_of, with_vlm

pytestmark = pytest.mark.xdist_group("training")


def test_a_thread_that_is_waited_for_is_sync_bit_for_bit(run, tiny_config, folder, covr):
    log = run(with_vlm(tiny_config, mode="async", deadline_s=300.0), folder / "async")
    assert_trees_equal(host_copy(log.ended), host_copy(covr.ended))
    assert rows_of(folder / "async") == rows_of(folder / "covr") and log.vlm.bias == covr.vlm.bias
    last = [row for row in read_metrics(folder / "async/metrics.jsonl") if "vlm/queries" in row][-1]
    assert [last[f"vlm/{name}"] for name in ("failures", "hangs", "dropped", "lost", "stale", "down")] == [0] * 6


@pytest.mark.slow
def test_an_asynchronous_run_is_repeated_from_its_recording(run, tiny_config, folder):
    recorded = run(with_vlm(tiny_config, mode="async", deadline_s=0.0, record=True), folder / "recorded")
    path = str(folder / "recorded/vlm/answers.jsonl")
    again = run(with_vlm(tiny_config, name="never/loaded", replay=path), folder / "replayed")
    assert again.vlm is None
    assert_trees_equal(host_copy(again.ended), host_copy(recorded.ended))
    assert rows_of(folder / "replayed") == rows_of(folder / "recorded")
    assert int(again.ended.replay.prior.valid.sum()) > 0
    assert read_metrics(folder / "replayed/metrics.jsonl")[-1]["env_steps"] >= 12_000


@pytest.mark.slow
def test_a_vlm_that_never_answers_leaves_the_base_method(run, tiny_config, folder, rad, monkeypatch):
    monkeypatch.setattr(FakeVLM, "query", broken)
    config = with_vlm(tiny_config, mode="async", deadline_s=300.0, restarts=2)
    log = run(config, folder / "broken")
    assert_trees_equal(host_copy(log.ended).learner.params, host_copy(rad.ended).learner.params)
    last = [row for row in read_metrics(folder / "broken/metrics.jsonl") if "vlm/queries" in row][-1]
    assert last["vlm/failures"] >= 1 and log.rounds == []


def broken(self, frames):
    raise MemoryError
