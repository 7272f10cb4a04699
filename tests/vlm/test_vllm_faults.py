"""A vLLM server may fail, hang, go away and come back: that costs priors, and is counted and told."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from covr_jax.vlm.serving import factory, supervise, vllm_client
from covr_jax.vlm.serving.fake import FakeVLM
from covr_jax.vlm.serving.protocol import PriorError
from covr_jax.vlm.serving.supervise import RetryPolicy, SupervisedService
from covr_jax.vlm.serving.vllm_engine import VLLMEngine
from covr_jax.vlm.serving.worker import ThreadWorker
from tests.support.faults import (
    PATIENCE_S,
    Clock,
    Faulty,
    assert_answer,
    counts,
    expected,
    inject,
    some_batch,
    some_frames,
    submit,
    wait_until,
)
from tests.support.vllm_server import CHAT, LOAD, UNLOAD


@pytest.fixture
def start_served(server, tmp_path):
    """start_served(**retry) -> a service around an engine that asks the server, and its clock, which stands."""
    started = []

    def start(patience_s=PATIENCE_S, **retry):
        build = partial(
            factory.build_served, partial(Faulty, tmp_path), "fake", server.endpoint, patience_s, tmp_path / "served"
        )
        policy = RetryPolicy(**{"deadline_s": PATIENCE_S, "hang_s": PATIENCE_S, "restarts": 3, **retry})
        started.append(SupervisedService(partial(ThreadWorker, build), tmp_path / "store", policy, clock := Clock()))
        return started[-1], clock

    yield start
    server.go.set()
    (tmp_path / "go").touch()
    for service in started:
        service.close()


def understood(count):
    """Frames that ``FakeVLM`` gives a valid prior for."""
    frames = some_frames(0, 3 * count)
    return frames[expected(frames).valid][:count]


# ------------------------------------------------------------------- one frame


@pytest.mark.parametrize("fault", [500, 400, "reset", "cut", "malformed", "empty", "half"])
def test_a_frame_without_an_answer_has_no_prior_and_the_others_have(server, tmp_path, fault):
    engine, frames = VLLMEngine(FakeVLM, "fake", server.endpoint, 60.0, tmp_path / "served"), understood(6)
    server.faults[CHAT].append(fault)
    prior, right = engine.query(frames), expected(frames)
    assert prior.valid.sum() == 5 and right.valid.all()
    np.testing.assert_array_equal(prior.action, np.where(prior.valid[:, None], right.action, 0.0))
    unanswered = 0 if fault == "half" else 1  # half an answer is one that is not understood
    names = ("unanswered", "parse_failures", "frames", "queries")
    assert [engine.counters[name] for name in names] == [unanswered, 1 - unanswered, 6 - unanswered, 1]
    np.testing.assert_array_equal(engine.query(frames).action, right.action)


def test_frames_behind_a_server_that_is_gone_are_not_sent(server, tmp_path):
    client = vllm_client.VLLMClient(server.endpoint, 60.0)
    server.stop()
    made, signs = [], []
    texts, error = client.complete(lambda index: made.append(index) or {}, 1000, lambda: signs.append(1))
    assert texts == [None] * 1000 and "cannot reach the vLLM server" in error
    assert 1 <= len(made) == len(signs) <= 32  # an error is a sign of work


def test_an_error_of_ours_is_no_wait(server):
    client = vllm_client.VLLMClient(server.endpoint, 60.0)
    texts, error = client.complete(lambda index: {}["missing"], 3, lambda: None)
    assert texts == [None] * 3 and error == "KeyError: 'missing'"


def test_a_server_that_says_nothing_is_away_after_the_patience(server, tmp_path):
    server.faults[CHAT].append("hang")
    engine = VLLMEngine(FakeVLM, "fake", server.endpoint, 0.2, tmp_path / "served")
    started = time.monotonic()
    with pytest.raises(PriorError, match=r"cannot reach the vLLM server .*timed out"):
        engine.query(some_frames(0, 1))
    assert 0.2 <= time.monotonic() - started < 5.0 and engine.counters["unanswered"] == 1


# ------------------------------------------------------------------ the server


def test_a_server_that_restarts_gets_the_adapter_again(server, start_served):
    service, clock = start_served()
    service.submit_finetune(some_batch())
    assert service.poll_finetune().error == ""
    server.stop()
    assert submit(service, 10) is True and service.poll(10) == []
    assert counts(service, "failures", "lost", "unanswered", "push_failures") == [1, 1, 6, 0]
    assert service.metrics()["vlm/down"] == 1.0 and "cannot reach the vLLM server" in service.fault
    assert submit(service, 20) is False and counts(service, "dropped") == [1]  # within the pause
    server.start()
    assert server.adapters == {}
    clock.now = 1.0
    submit(service, 30)
    assert_answer(service.poll(30), 30, bias=1.5)
    assert service.fault == "" and service.metrics()["vlm/down"] == 0.0
    assert service.metrics()["vlm/unanswered"] == 6 and service.metrics()["vlm/push_failures"] == 0


def test_a_server_that_lost_its_adapters_gets_them_again(server, start_served):
    service, clock = start_served()
    server.adapters.clear()
    submit(service, 10)
    assert service.poll(10) == [] and "does not exist" in service.fault
    clock.now = 1.0
    submit(service, 20)
    assert_answer(service.poll(20), 20)


def test_an_outage_uses_up_no_restarts_and_pauses_begin_anew_after_it(server, start_served, monkeypatch):
    monkeypatch.setattr(supervise, "_MAX_AWAY_S", 3.0)
    service, clock = start_served(restarts=1)
    for failures, pauses in ((4, (1.0, 2.0, 3.0, 3.0)), (5, (1.0,))):
        server.stop()
        for step, pause in enumerate(pauses):
            assert submit(service, step) is True and service.poll(step) == []
            clock.now += pause * 0.99
            assert not service.ready
            clock.now += pause * 0.011
            assert service.ready
        server.start()
        submit(service, 50)
        assert_answer(service.poll(50), 50)
        assert counts(service, "failures", "restarts") == [failures] * 2


def test_errors_of_this_process_are_still_limited(server, start_served, tmp_path):
    service, clock = start_served(restarts=1)
    for attempt in range(2):
        inject(tmp_path, "finetune.memory")
        service.submit_finetune(some_batch())
        assert "MemoryError" in service.poll_finetune(wait=True).error
        clock.now += 1e9
        assert service.ready is (attempt == 0)
    assert server.bodies(LOAD)


def test_a_round_that_fails_here_leaves_the_adapter_there(server, start_served, tmp_path):
    service, clock = start_served()
    service.submit_finetune(some_batch())
    assert service.poll_finetune().error == ""
    inject(tmp_path, "finetune.error")
    service.submit_finetune(some_batch(1))
    assert service.poll_finetune().error == "ValueError: no such thing"
    clock.now = 1.0
    submit(service, 10)
    assert_answer(service.poll(10), 10, bias=1.5)


def test_a_round_in_an_outage_is_not_lost(server, start_served):
    service, clock = start_served()
    server.stop()
    submit(service, 10)
    assert service.poll(10) == []
    clock.now = 1.0
    service.submit_finetune(some_batch())
    result = service.poll_finetune()
    assert result.error == "" and counts(service, "rounds", "failures", "push_failures") == [1, 1, 2]
    assert "cannot reach the vLLM server" in result.record["push_error"]
    assert result.record["finetune_loss"] == [0.5] and result.record["answers"] == ["", ""]
    assert [result.record[f"action_error{when}"] for when in ("", "_before", "_untuned")] == [None] * 3
    submit(service, 20)
    assert service.poll(20) == []
    server.start()
    clock.now = 3.0
    submit(service, 30)
    assert_answer(service.poll(30), 30, bias=1.5)


def test_a_server_that_fails_halfway_through_an_adapter_is_given_it_again(server, start_served):
    service, clock = start_served()
    server.faults[LOAD].extend([None, 500])
    server.faults[UNLOAD].append(None)
    service.submit_finetune(some_batch())
    assert "answers 500" in service.poll_finetune().record["push_error"] and server.adapters == {}
    submit(service, 10)
    assert service.poll(10) == []
    clock.now = 1.0
    submit(service, 20)
    assert_answer(service.poll(20), 20, bias=1.5)


# ----------------------------------------------------------------------- hangs


def test_a_server_that_is_slow_does_not_block_and_its_answer_comes_late(server, start_served):
    service, _ = start_served(deadline_s=0.0)
    server.faults[CHAT].append("hang")
    started = time.monotonic()
    submit(service, 10)
    assert service.poll(10) == [] and submit(service, 20) is True and submit(service, 30) is False
    assert time.monotonic() - started < 5.0
    server.go.set()
    service.query(some_frames(0))
    late = service.poll(40)
    assert_answer(late[:1], 10)
    assert_answer(late[1:], 20)
    assert counts(service, "failures", "hangs", "dropped") == [0, 0, 1]


def test_the_deadline_bounds_the_wait_for_a_server(server, start_served):
    service, _ = start_served()
    service._clock = time.monotonic
    service._retry = service._retry._replace(deadline_s=0.3)
    server.faults[CHAT].append("hang")
    submit(service, 10)
    started = time.monotonic()
    assert service.poll(10) == []
    assert 0.3 <= time.monotonic() - started < 2.0


def test_a_server_that_hangs_is_a_hang_until_it_speaks(server, start_served):
    service, clock = start_served(deadline_s=0.0, hang_s=30.0)
    server.faults[CHAT].append("hang")
    submit(service, 10)
    wait_until(lambda: server.bodies(CHAT))
    clock.now = 31.0
    assert service.poll(10) == [] and counts(service, "hangs", "lost") == [1, 1] and not service.ready
    server.go.set()
    wait_until(lambda: service.poll(20) == [] and service.ready)
    service.query(frames := some_frames(4))
    np.testing.assert_array_equal(service.query(frames).action, expected(frames).action)


def test_answers_of_the_server_are_signs_of_work(server, start_served, monkeypatch):
    monkeypatch.setattr("covr_jax.vlm.serving.server._WORKING_INTERVAL_S", 0.0)
    service, clock = start_served(deadline_s=0.0, hang_s=30.0)
    server.faults[CHAT].extend([None, "hang"])
    submit(service, 10)
    clock.now = 29.0
    wait_until(lambda: service.poll(10) == [] and service._last_response == 29.0)
    clock.now = 58.0
    assert service.poll(10) == [] and counts(service, "hangs") == [0]
