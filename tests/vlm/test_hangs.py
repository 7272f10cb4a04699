"""A worker that hangs is told from one that is slow or idle."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

from covr_jax.vlm.serving import server
from tests.support.faults import (
    MODES,
    assert_answer,
    counts,
    expected,
    inject,
    some_batch,
    some_frames,
    submit,
    wait_for,
    wait_until,
)


def test_a_child_that_hangs_is_ended_and_replaced(start, tmp_path):
    service, clock = start("process", deadline_s=0.0, hang_s=30.0)
    inject(tmp_path, "query.hang")
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


def test_a_thread_that_hangs_is_left_alone_until_it_responds(start, tmp_path):
    service, clock = start("async", deadline_s=0.0, hang_s=30.0)
    inject(tmp_path, "query.hang")
    submit(service, 10)
    submit(service, 20)
    wait_for(tmp_path / "entered")
    clock.now = 31.0
    assert service.poll(30) == [] and counts(service, "hangs", "lost") == [1, 2]
    clock.now = 1e6
    assert submit(service, 30) is False
    assert not service.ready and counts(service, "hangs", "dropped", "restarts") == [1, 1, 0]
    (tmp_path / "go").touch()
    wait_until(lambda: service.poll(40) == [] and service.ready)
    assert counts(service, "restarts") == [0]
    np.testing.assert_array_equal(service.query(some_frames(4)).action, expected(some_frames(4)).action)
    assert service.poll(50) == []  # neither the late answer nor the other one that was lost


def test_a_slow_worker_is_not_hung_while_it_works(start, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_WORKING_INTERVAL_S", 0.0)
    service, clock = start("async", deadline_s=0.0, hang_s=30.0)
    inject(tmp_path, "query.slow")
    submit(service, 10)
    wait_for(tmp_path / "entered")
    for _ in range(4):
        clock.now += 29.0
        wait_until(lambda: service.poll(0) == [] and service._last_response == clock.now)
    assert counts(service, "hangs", "failures") == [0, 0]
    (tmp_path / "go").touch()
    answers = []
    wait_until(lambda: answers.extend(service.poll(20)) or answers)
    assert_answer(answers, 10)


def test_an_idle_worker_is_not_hung(start):
    service, clock = start("process", hang_s=30.0)
    for _ in range(3):
        clock.now += 1e5
        submit(service, int(clock.now))
        assert len(service.poll(int(clock.now))) == 1
    assert counts(service, "hangs", "failures") == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_a_round_that_hangs_does_not_count_even_if_it_ends_later(start, tmp_path, mode):
    service, clock = start(mode, hang_s=30.0, deadline_s=0.0)
    inject(tmp_path, "finetune.hang")
    assert service.poll(0) == []
    service.submit_finetune(some_batch())
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
