"""Whole runs whose VLM answers in a thread, on a server, from a recording, or never."""

from __future__ import annotations

import pytest

from covr_jax.io.metrics import read_metrics
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.reporters import Quiet
from tests.support.trees import assert_trees_equal, host_copy
from tests.support.vllm_server import CHAT, LOAD, VLLMServer
from tests.support.watched_runs import rows_of, with_vlm

pytestmark = pytest.mark.xdist_group("training")
KEY = "some-words-of-a-key"


@pytest.fixture
def server(monkeypatch):
    """A vLLM server with a key, which the environment holds."""
    monkeypatch.setenv("COVR_VLLM_API_KEY", KEY)
    server = VLLMServer(key=KEY)
    yield server
    server.stop()


def on(server, config):
    """The config with its VLM on a server that is waited for."""
    options = {"mode": "vllm", "endpoint": server.endpoint, "lora_targets": "language", "deadline_s": 300.0}
    return with_vlm(config, **options)


def test_a_thread_that_is_waited_for_is_sync_bit_for_bit(run, tiny_config, folder, covr):
    log = run(with_vlm(tiny_config, mode="async", deadline_s=300.0), folder / "async")
    assert_trees_equal(host_copy(log.ended), host_copy(covr.ended))
    assert rows_of(folder / "async") == rows_of(folder / "covr") and log.vlm.bias == covr.vlm.bias
    last = [row for row in read_metrics(folder / "async/metrics.jsonl") if "vlm/queries" in row][-1]
    assert [last[f"vlm/{name}"] for name in ("failures", "hangs", "dropped", "lost", "stale", "down")] == [0] * 6


@pytest.mark.slow
def test_a_server_that_is_waited_for_is_sync_bit_for_bit(run, tiny_config, folder, covr, server):
    log = run(on(server, tiny_config), folder / "vllm")
    assert_trees_equal(host_copy(log.ended), host_copy(covr.ended))
    assert rows_of(folder / "vllm") == rows_of(folder / "covr") and log.vlm.bias == covr.vlm.bias
    assert log.queried == [] and len(server.bodies(LOAD)) == 2 * (1 + len(log.rounds))
    last = [row for row in read_metrics(folder / "vllm/metrics.jsonl") if "vlm/queries" in row][-1]
    names = ("failures", "hangs", "dropped", "lost", "stale", "down", "unanswered", "push_failures")
    assert [last[f"vlm/{name}"] for name in names] == [0] * 8 and last["vlm/queries"] > 0
    files = [path for path in (folder / "vllm").rglob("*") if path.is_file()]
    assert files and [path for path in files if KEY.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_run_whose_server_never_answers_is_the_base_method_and_tunes_all_the_same(
    run, tiny_config, folder, covr, rad, server
):
    server.faults[CHAT].extend([500] * 100_000)
    reporter = Quiet()
    log = run(on(server, tiny_config), folder / "away", reporter=reporter)
    assert_trees_equal(host_copy(log.ended).learner.params, host_copy(rad.ended).learner.params)
    assert log.rounds[:2] == covr.rounds[:2]  # the last one is due in a pause
    assert len([text for text in reporter.messages if "does not answer, learning goes on" in text]) == 1
    last = [row for row in read_metrics(folder / "away/metrics.jsonl") if "vlm/queries" in row][-1]
    assert last["vlm/failures"] >= 1 and last["vlm/queries"] == 0 and last["vlm/unanswered"] > 0


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
