"""Errors, crashes, hangs, slowness and lack of memory: learning goes on unguided, nothing waits past its deadline."""

from __future__ import annotations

import json
import signal
import time
from multiprocessing.shared_memory import SharedMemory
from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax.vlm.serving import shared
from covr_jax.vlm.serving.protocol import PriorError
from tests.support.faults import PATIENCE_S, Clock, expected, some_frames, some_lesson, supervised, wait_for

MODES = ["async", "process"]
FAULTS = [("async", "error"), ("async", "memory"), ("process", "error"), ("process", "memory"), ("process", "exit")]


@pytest.fixture
def start(tmp_path):
    """start(mode, **limits) -> a service whose clock stands still, patient with answers, around a faulty engine."""
    started = []

    def go(mode, clock=None, **limits):
        clock = clock or Clock()
        service = supervised(mode, tmp_path, clock, **limits)
        started.append(service)
        return service, clock

    yield go
    (tmp_path / "go").touch()
    for service in started:
        service.close()


def order(folder, *faults):
    for fault in faults:
        (folder / fault).touch()


def submit(service, time, seed=None):
    service.submit(time, some_frames(time if seed is None else seed))


def counts(service, *names):
    return [service.counters[name] for name in names]


def assert_answer(answers, time, bias=0.0):
    assert [answer.time for answer in answers] == [time]
    np.testing.assert_array_equal(answers[0].prior.action, expected(some_frames(time), bias).action)


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(("mode", "fault"), FAULTS)
def test_a_failed_question_costs_its_answer_and_a_pause(start, tmp_path, mode, fault):
    service, clock = start(mode)
    service.submit_finetune(some_lesson())
    assert service.poll_finetune().error == ""
    order(tmp_path, f"query.{fault}")
    submit(service, 10)
    assert service.poll(10) == []
    assert counts(service, "failures", "lost", "restarts", "dropped") == [1, 1, 0, 0]
    assert service.metrics()["vlm/down"] == 1.0 and not service.ready
    submit(service, 20)  # within the pause
    assert service.poll(20) == [] and counts(service, "dropped") == [1]
    with pytest.raises(PriorError, match="no answer"):
        service.query(some_frames(0))
    clock.now = 0.999
    assert not service.ready
    clock.now = 1.0
    assert service.ready and counts(service, "restarts") == [1]
    submit(service, 30)
    assert_answer(service.poll(30), 30, bias=1.5)  # the adapter of the lesson
    assert service.metrics()["vlm/down"] == 0.0 and counts(service, "failures", "lost") == [1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_pauses_double_and_the_budget_ends_them(start, tmp_path, mode):
    service, clock = start(mode, restarts=3)
    for attempt, pause in enumerate((1.0, 2.0, 4.0)):
        order(tmp_path, "query.error")
        submit(service, attempt)
        assert service.poll(attempt) == []
        clock.now += pause * 0.99
        assert not service.ready
        clock.now += pause * 0.011
        assert service.ready
    order(tmp_path, "query.error")
    submit(service, 9)
    assert service.poll(9) == []
    clock.now += 1e9
    assert not service.ready and service.metrics()["vlm/down"] == 1.0
    submit(service, 10)
    assert service.poll(10) == []
    assert counts(service, "failures", "restarts", "lost", "dropped") == [4, 3, 4, 1]


def test_a_new_sitting_has_its_whole_budget_and_the_runs_counters(start, tmp_path):
    service, clock = start("async", restarts=1)
    service.save_adapter(tmp_path / "saved")
    service.restore(tmp_path / "saved", {**service.counters, "failures": 2, "restarts": 1}, 0)
    order(tmp_path, "query.error")
    submit(service, 10)
    assert service.poll(10) == [] and not service.ready
    clock.now += 1.001
    assert service.ready and counts(service, "failures", "restarts") == [3, 2]


def test_a_child_that_dies_while_it_starts_again_uses_up_the_budget(start, tmp_path):
    service, clock = start("process", restarts=2)
    for fault in ("query.exit", "load.error", "load.exit"):
        order(tmp_path, fault)
        submit(service, 10)
        assert service.poll(10) == []
        clock.now += 100.0
    assert not service.ready and counts(service, "failures", "restarts") == [3, 2]


def test_a_first_worker_that_cannot_start_is_one_line(tmp_path):
    for mode in MODES:
        order(tmp_path, "load.error")
        with pytest.raises(PriorError) as caught:
            supervised(mode, tmp_path)
        assert str(caught.value) == "ValueError: no such thing"


# -------------------------------------------------------------- hangs, slowness


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_answer_keeps_nobody_waiting_and_comes_late(start, tmp_path, mode):
    service, _ = start(mode, deadline_s=0.0)
    order(tmp_path, "query.hang")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    assert service.poll(10) == []  # returned while the engine still works
    submit(service, 20)
    submit(service, 30)  # two are under way
    assert service.poll(30) == [] and counts(service, "dropped", "lost") == [1, 0]
    (tmp_path / "go").touch()
    service.query(some_frames(0))  # in order: once this has been answered, so have the others
    late = service.poll(40)
    assert_answer(late[:1], 10)
    assert_answer(late[1:], 20)
    assert counts(service, "failures", "hangs", "stale") == [0, 0, 0]


def test_the_deadline_bounds_the_wait(tmp_path):
    """The clock goes on by a millisecond per look, so the wait is counted, not measured."""

    class Ticking(Clock):
        def __call__(self):
            self.now += 1e-3
            return self.now

    clock = Ticking()
    service = supervised("async", tmp_path, clock, deadline_s=0.1, hang_s=1e9)
    order(tmp_path, "query.hang")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    before = clock.now
    assert service.poll(10) == [] and service.poll_finetune() is None
    assert clock.now - before < 0.1 + 10e-3
    (tmp_path / "go").touch()
    service.close()


def test_a_child_that_hangs_is_ended_and_replaced(start, tmp_path):
    service, clock = start("process", deadline_s=0.0, hang_s=30.0)
    order(tmp_path, "query.hang")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    clock.now = 30.0
    assert service.poll(10) == [] and counts(service, "hangs") == [0]
    clock.now = 30.1
    hung = service._worker._process
    assert service.poll(20) == [] and counts(service, "hangs", "lost", "failures") == [1, 1, 0]
    hung.join(60.0)
    assert hung.exitcode == -signal.SIGKILL
    clock.now = 31.2
    assert service.ready
    np.testing.assert_array_equal(service.query(some_frames(3)).action, expected(some_frames(3)).action)


def test_a_thread_that_hangs_is_left_until_it_speaks(start, tmp_path):
    service, clock = start("async", deadline_s=0.0, hang_s=30.0)
    order(tmp_path, "query.hang")
    submit(service, 10)
    submit(service, 20)
    wait_for(tmp_path / "entered")
    clock.now = 31.0
    assert service.poll(30) == [] and counts(service, "hangs", "lost") == [1, 2]
    clock.now = 1e6
    submit(service, 30)
    assert not service.ready and counts(service, "hangs", "dropped", "restarts") == [1, 1, 0]
    (tmp_path / "go").touch()
    wait_until(lambda: service.poll(40) == [] and service.ready)
    assert counts(service, "restarts") == [0]
    np.testing.assert_array_equal(service.query(some_frames(4)).action, expected(some_frames(4)).action)
    assert service.poll(50) == []  # neither the late answer nor the one given up with it


def wait_until(holds):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_quiet_worker_with_nothing_to_do_is_not_hung(start):
    service, clock = start("process", hang_s=30.0)
    for _ in range(3):
        clock.now += 1e5
        submit(service, int(clock.now))
        assert len(service.poll(int(clock.now))) == 1
    assert counts(service, "hangs", "failures") == [0, 0]


# ------------------------------------------------------------- lessons, versions


@pytest.mark.parametrize(("mode", "fault"), FAULTS)
def test_a_lesson_that_fails_leaves_the_adapter_of_before(start, tmp_path, mode, fault):
    service, clock = start(mode)
    service.submit_finetune(some_lesson())
    assert service.poll_finetune().error == ""
    order(tmp_path, f"finetune.{fault}")  # strikes when the engine's adapter has moved already
    service.submit_finetune(some_lesson(1))
    outcome = service.poll_finetune()
    assert outcome.record == {} and outcome.error and "\n" not in outcome.error
    assert service.poll_finetune() is None and service.counters["rounds"] == 1
    service.save_adapter(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "bias.json").read_text()) == 1.5
    clock.now = 1.0
    submit(service, 10)
    assert_answer(service.poll(10), 10, bias=1.5)
    service.submit_finetune(some_lesson(2))  # the round begins again
    assert service.poll_finetune().error == "" and service.counters["rounds"] == 2
    submit(service, 20)
    assert_answer(service.poll(20), 20, bias=3.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_lesson_that_hangs_does_not_count_even_if_it_ends_later(start, tmp_path, mode):
    service, clock = start(mode, hang_s=30.0, deadline_s=0.0)
    order(tmp_path, "finetune.hang")
    assert service.poll(0) == []
    service.submit_finetune(some_lesson())
    wait_for(tmp_path / "entered")
    assert service.poll_finetune() is None
    clock.now = 31.0
    assert service.poll_finetune().error == "the VLM said nothing for 30 s"
    (tmp_path / "go").touch()
    clock.now = 40.0
    wait_until(lambda: service.poll(5) == [] and service.ready)
    np.testing.assert_array_equal(service.query(some_frames(1)).action, expected(some_frames(1)).action)
    assert service.counters["rounds"] == 0
    service.save_adapter(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "bias.json").read_text()) == 0.0


@pytest.mark.parametrize("mode", MODES)
def test_answers_of_an_older_adapter_are_dropped(start, tmp_path, mode):
    service, _ = start(mode, deadline_s=0.0)
    order(tmp_path, "query.hang")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    service.submit_finetune(some_lesson())
    submit(service, 20)  # behind the lesson
    assert service.poll_finetune() is None and service.poll(20) == []
    (tmp_path / "go").touch()
    assert service.poll_finetune(wait=True).error == ""
    service.query(some_frames(0))
    assert_answer(service.poll(30), 20, bias=1.5)
    assert counts(service, "stale", "lost", "dropped") == [1, 0, 0]


# ------------------------------------------------------------------------ memory


def test_too_little_shared_memory_is_a_failure_in_words(start, monkeypatch):
    service, _ = start("process")
    monkeypatch.setattr(shared.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    service.submit_finetune(some_lesson())
    assert "enlarge it (--shm-size)" in service.poll_finetune().error and counts(service, "failures") == [1]


@pytest.mark.parametrize("fault", [None, "exit"])
def test_no_shared_memory_is_left_behind(start, tmp_path, monkeypatch, fault):
    names = []
    pack = shared.pack

    def watched(*arrays):
        block, parcel = pack(*arrays)
        names.append(parcel.name)
        return block, parcel

    monkeypatch.setattr(shared, "pack", watched)
    service, _ = start("process")
    if fault:
        order(tmp_path, f"query.{fault}")
    submit(service, 10)
    service.poll(10)
    service.submit_finetune(some_lesson())
    service.close()
    assert names
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def test_arrays_survive_the_parcel():
    arrays = (some_frames(0), np.zeros((0, 3), np.float32), np.arange(5.0), np.ones((2, 1), bool))
    block, parcel = shared.pack(*arrays)
    for given, got in zip(arrays, shared.unpack(parcel), strict=True):
        assert got.dtype == given.dtype
        np.testing.assert_array_equal(got, given)
    shared.release(block)


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
