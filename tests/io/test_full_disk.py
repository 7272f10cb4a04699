"""Checkpoints on a disk that has no space."""

from __future__ import annotations

import json
import logging

import jax.numpy as jnp
import pytest

from covr_jax.io.checkpoint import Checkpointer, CheckpointError


def state(number):
    return {"w": jnp.full(4, number, jnp.float32)}


def test_a_disk_that_refuses_keeps_the_earlier_checkpoint(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state(1), {"at": 1})

    def full(directory):
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*No space left on device.*free space"):
        checkpointer.save(2, state(2), {"at": 2}, full)
    assert checkpointer.steps() == [1]
    assert checkpointer.restore(lambda: state(0))[1] == {"at": 1}
    checkpointer.save(2, state(2), {"at": 2})  # what the failed attempt left behind is no obstacle
    assert json.loads((tmp_path / "checkpoints" / "2" / "host.json").read_text())["at"] == 2


def test_a_disk_that_refuses_the_arrays_is_told_alike_and_without_tracebacks(tmp_path, monkeypatch, caplog):
    from orbax.checkpoint import v1 as ocp

    def full(*_):
        logging.getLogger("absl").error("Traceback of a thread of orbax")
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nsource locations")

    monkeypatch.setattr(ocp, "save", full)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*No space left on device; free space"):
        Checkpointer(tmp_path).save(2, state(2), {})
    assert "Traceback" not in caplog.text
    logging.getLogger("absl").error("other errors are logged again")
    assert "logged again" in caplog.text
