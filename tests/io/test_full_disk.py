"""Checkpoints on a disk that has no space."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading

import jax.numpy as jnp
import pytest

from covr_jax.io import arrays
from covr_jax.io.checkpoint import Checkpointer, CheckpointError


def state(number):
    return {"w": jnp.full(4, number, jnp.float32)}


@pytest.mark.field
def test_a_disk_that_refuses_keeps_the_earlier_checkpoint(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(1), {"at": 1})

    def full(directory):
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*No space left on device.*free space"):
        checkpointer.save(2, state(2), {"at": 2}, full)
    assert checkpointer.steps() == [1]
    assert checkpointer.restore(lambda: state(0))[1] == {"at": 1}
    checkpointer.save(2, state(2), {"at": 2})
    checkpointer.wait()  # what the failed attempt left behind is no obstacle
    assert json.loads((tmp_path / "checkpoints" / "2" / "host.json").read_text())["at"] == 2


@pytest.mark.field
def test_a_disk_that_refuses_the_arrays_is_told_alike_and_without_tracebacks(tmp_path, monkeypatch, caplog):
    from orbax.checkpoint import v1 as ocp

    def full(*_):
        logging.getLogger("absl").error("Traceback of a thread of orbax")
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nsource locations")

    monkeypatch.setattr(ocp, "save", full)
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*No space left on device; free space"):
        checkpointer.save(2, state(2), {})  # a thread writes
        checkpointer.wait()
    assert "Traceback" not in caplog.text
    logging.getLogger("absl").error("other errors are logged again")
    assert "logged again" in caplog.text


def test_two_threads_that_overlap_leave_the_loggers_as_they_were(caplog):
    """A checkpoint may be written while another one is read."""
    inside = {name: threading.Event() for name in ("first", "second")}
    leave = {name: threading.Event() for name in inside}

    def work(name):
        with arrays._quiet_loggers("absl"):
            inside[name].set()
            assert leave[name].wait(10)

    threads = {name: threading.Thread(target=work, args=(name,)) for name in inside}
    for name in ("first", "second"):
        threads[name].start()
        assert inside[name].wait(10)
    for name in ("first", "second"):
        leave[name].set()
        threads[name].join()
    logging.getLogger("absl").error("logged again")
    assert "logged again" in caplog.text


FULL = """
import resource, sys
from pathlib import Path

import jax.numpy as jnp

from covr_jax.io import arrays
from covr_jax.io.checkpoint import Checkpointer, CheckpointError

checkpointer = Checkpointer(Path(sys.argv[1]))
state = {f"w{number}": jnp.sin(jnp.arange(20_000.0) + number) for number in range(20)}
checkpointer.save(1, state, {})
checkpointer.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    checkpointer.save(2, state, {})
    checkpointer.wait()
except CheckpointError as error:
    print(error)
print(checkpointer.steps())
"""


@pytest.mark.field
@pytest.mark.slow
@pytest.mark.parametrize("limit", [300, 30_000, 300_000])
def test_threads_print_no_tracebacks_beside_the_line(tmp_path, limit):
    """Files that may not grow further, while many arrays are on their way."""
    told = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path, str(limit)], capture_output=True, text=True, timeout=120
    )
    line, steps = told.stdout.splitlines()
    assert line.startswith("cannot write checkpoint ") and line.endswith("; free space and run again")
    assert steps == "[1]" and told.stderr == "" and told.returncode == 0
