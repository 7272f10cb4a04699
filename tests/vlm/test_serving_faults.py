"""After errors, crashes, hangs, delays and lack of memory, learning goes on and nothing waits past its deadline."""

from __future__ import annotations

import json
import os
from multiprocessing.shared_memory import SharedMemory
from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax.runtime.signals import STOPPING
from covr_jax.vlm.serving import shared
from covr_jax.vlm.serving.protocol import PriorError
from tests.support.faults import (
    MODES,
    Clock,
    assert_answer,
    counts,
    inject,
    some_batch,
    some_frames,
    submit,
    supervised,
    wait_for,
)

FAULTS = [("async", "error"), ("async", "memory"), ("process", "error"), ("process", "memory"), ("process", "exit")]


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(("mode", "fault"), FAULTS)
def test_a_failed_query_costs_its_answer_and_a_pause(start, tmp_path, mode, fault):
    service, clock = start(mode)
    service.submit_finetune(some_batch())
    assert service.poll_finetune().error == ""
    inject(tmp_path, f"query.{fault}")
    assert submit(service, 10) is True
    assert service.poll(10) == []
    assert counts(service, "failures", "lost", "restarts", "dropped") == [1, 1, 0, 0]
    assert service.metrics()["vlm/down"] == 1.0 and not service.ready
    assert submit(service, 20) is False  # within the pause
    assert service.poll(20) == [] and counts(service, "dropped") == [1]
    with pytest.raises(PriorError, match="no answer"):
        service.query(some_frames(0))
    clock.now = 0.999
    assert not service.ready
    clock.now = 1.0
    assert service.ready and counts(service, "restarts") == [1]
    submit(service, 30)
    assert_answer(service.poll(30), 30, bias=1.5)  # the adapter of the round
    assert service.metrics()["vlm/down"] == 0.0 and counts(service, "failures", "lost") == [1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_pauses_double_until_the_restarts_are_used_up(start, tmp_path, mode):
    service, clock = start(mode, restarts=3)
    for attempt, pause in enumerate((1.0, 2.0, 4.0)):
        inject(tmp_path, "query.error")
        submit(service, attempt)
        assert service.poll(attempt) == []
        clock.now += pause * 0.99
        assert not service.ready
        clock.now += pause * 0.011
        assert service.ready
    inject(tmp_path, "query.error")
    submit(service, 9)
    assert service.poll(9) == []
    clock.now += 1e9
    assert not service.ready and service.metrics()["vlm/down"] == 1.0
    assert submit(service, 10) is False
    assert service.poll(10) == []
    assert counts(service, "failures", "restarts", "lost", "dropped") == [4, 3, 4, 1]


def test_a_resumed_process_has_all_its_restarts_and_the_counters_of_the_run(start, tmp_path):
    service, clock = start("async", restarts=1)
    service.save_adapter(tmp_path / "saved")
    service.restore(tmp_path / "saved", {**service.counters, "failures": 2, "restarts": 1}, 0)
    inject(tmp_path, "query.error")
    submit(service, 10)
    assert service.poll(10) == [] and not service.ready
    clock.now += 1.001
    assert service.ready and counts(service, "failures", "restarts") == [3, 2]


def test_a_child_that_dies_while_it_restarts_uses_up_the_restarts(start, tmp_path):
    service, clock = start("process", restarts=2)
    for fault in ("query.exit", "load.error", "load.exit"):
        inject(tmp_path, fault)
        submit(service, 10)
        assert service.poll(10) == []
        clock.now += 100.0
    assert not service.ready and counts(service, "failures", "restarts") == [3, 2]


@pytest.mark.field
def test_a_first_worker_that_cannot_start_is_one_line(tmp_path):
    for mode in MODES:
        inject(tmp_path, "load.error")
        with pytest.raises(PriorError) as caught:
            supervised(mode, tmp_path)
        assert str(caught.value) == "ValueError: no such thing"


# ---------------------------------------------------------------- hangs, delays


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_answer_does_not_block_and_comes_late(start, tmp_path, mode):
    service, _ = start(mode, deadline_s=0.0)
    inject(tmp_path, "query.hang")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    assert service.poll(10) == []  # returns while the engine is busy
    assert submit(service, 20) is True
    assert submit(service, 30) is False  # two are pending
    assert service.poll(30) == [] and counts(service, "dropped", "lost") == [1, 0]
    (tmp_path / "go").touch()
    service.query(some_frames(0))  # answers come in order: after this one, the others have come
    late = service.poll(40)
    assert_answer(late[:1], 10)
    assert_answer(late[1:], 20)
    assert counts(service, "failures", "hangs", "stale") == [0, 0, 0]


def test_the_deadline_bounds_the_wait(tmp_path):
    """The clock advances by a millisecond per reading, so that the wait does not depend on the machine."""

    class Ticking(Clock):
        def __call__(self):
            self.now += 1e-3
            return self.now

    clock = Ticking()
    service = supervised("async", tmp_path, clock, deadline_s=0.1, hang_s=1e9)
    inject(tmp_path, "query.hang")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    before = clock.now
    assert service.poll(10) == [] and service.poll_finetune() is None
    assert clock.now - before < 0.1 + 10e-3
    (tmp_path / "go").touch()
    service.close()


# -------------------------------------------------------------- rounds, versions


@pytest.mark.parametrize(("mode", "fault"), FAULTS)
def test_a_round_that_fails_leaves_the_adapter_from_before(start, tmp_path, mode, fault):
    service, clock = start(mode)
    service.submit_finetune(some_batch())
    assert service.poll_finetune().error == ""
    inject(tmp_path, f"finetune.{fault}")  # fails after the engine's adapter has changed
    service.submit_finetune(some_batch(1))
    result = service.poll_finetune()
    assert result.record == {} and result.error and "\n" not in result.error
    assert service.poll_finetune() is None and service.counters["rounds"] == 1
    service.save_adapter(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "bias.json").read_text()) == 1.5
    clock.now = 1.0
    submit(service, 10)
    assert_answer(service.poll(10), 10, bias=1.5)
    service.submit_finetune(some_batch(2))  # the round is started again
    assert service.poll_finetune().error == "" and service.counters["rounds"] == 2
    submit(service, 20)
    assert_answer(service.poll(20), 20, bias=3.0)


@pytest.mark.parametrize("mode", MODES)
def test_answers_of_an_older_adapter_are_dropped(start, tmp_path, mode):
    service, _ = start(mode, deadline_s=0.0)
    inject(tmp_path, "query.hang")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    service.submit_finetune(some_batch())
    submit(service, 20)  # after the round
    assert service.poll_finetune() is None and service.poll(20) == []
    (tmp_path / "go").touch()
    assert service.poll_finetune(wait=True).error == ""
    service.query(some_frames(0))
    assert_answer(service.poll(30), 20, bias=1.5)
    assert counts(service, "stale", "lost", "dropped") == [1, 0, 0]


# ------------------------------------------------------------------------ memory


@pytest.mark.field
def test_too_little_shared_memory_is_a_failure_that_says_what_to_do(start, monkeypatch):
    service, _ = start("process")
    monkeypatch.setattr(shared.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    service.submit_finetune(some_batch())
    assert "enlarge it (--shm-size)" in service.poll_finetune().error and counts(service, "failures") == [1]


@pytest.mark.parametrize("fault", [None, "exit"])
def test_no_shared_memory_is_left_behind(start, tmp_path, monkeypatch, fault):
    names = []
    pack = shared.pack

    def recorded(*arrays):
        block, description = pack(*arrays)
        names.append(description.name)
        return block, description

    monkeypatch.setattr(shared, "pack", recorded)
    service, _ = start("process")
    if fault:
        inject(tmp_path, f"query.{fault}")
    submit(service, 10)
    service.poll(10)
    service.submit_finetune(some_batch())
    service.close()
    assert names
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def test_arrays_are_equal_after_shared_memory():
    arrays = (some_frames(0), np.zeros((0, 3), np.float32), np.arange(5.0), np.ones((2, 1), bool))
    block, description = shared.pack(*arrays)
    for array, copy in zip(arrays, shared.unpack(description), strict=True):
        assert copy.dtype == array.dtype
        np.testing.assert_array_equal(copy, array)
    shared.release(block)


def test_the_child_leaves_the_signals_that_stop_a_run_to_its_parent(start):
    service, _ = start("process")
    for number in STOPPING:
        os.kill(service._worker._process.pid, number)
    assert service.query(some_frames(0)).valid.any()


def test_the_child_ends_with_its_parent_or_its_service(start):
    service, _ = start("process")
    process = service._worker._process
    service.close()
    assert not process.is_alive() and process.exitcode == 0
    service, _ = start("process")
    service._worker._connection.close()  # as when the parent is killed
    process = service._worker._process
    process.join(60.0)
    assert process.exitcode == 0
