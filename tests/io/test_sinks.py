"""Rows of metrics in TensorBoard's files and in those of Weights & Biases, offline."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys

import pytest

from covr_jax.config import ConfigError
from covr_jax.io import sinks
from covr_jax.io.metrics import MetricsLogger, read_metrics
from covr_jax.io.sinks import TensorBoard, WandB, check_sinks, open_sinks

WANDB = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="no wandb")


def write_rows(run_dir, steps, some_sinks, resume=None):
    with MetricsLogger(run_dir, resume_env_steps=resume, sinks=some_sinks) as logger:
        for step in steps:
            values = {"losses/critic": step / 10, "losses/actor": float("nan")}
            logger.write(values, env_steps=step, agent_steps=step // 2, updates=step // 4)


def test_tensorboard_gets_the_same_numbers_and_the_purge_mark(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    def events(path):
        data = path.read_bytes()
        while data:  # length u64, its crc u32, payload, its crc u32
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]

    write_rows(tmp_path, [10, 20], [TensorBoard(tmp_path)])
    (first,) = (tmp_path / "tensorboard").iterdir()
    values = [(e.step, e.summary.value[0]) for e in events(first) if e.summary.value]
    scalars = [(step, value.tag, value.simple_value) for step, value in values]
    assert scalars == [(10, "losses/critic", 1.0), (20, "losses/critic", 2.0)]
    write_rows(tmp_path, [20], [TensorBoard(tmp_path, 10)], resume=10)
    (second,) = set((tmp_path / "tensorboard").iterdir()) - {first}
    assert [e.step for e in events(second) if e.session_log.status == SessionLog.START] == [11]


def records(path):
    """Records of a file of W&B: after 7 bytes, blocks of 32 KiB of parts, each behind crc u32, length u16, kind u8."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def in_wandb(run_dir):
    """(id, config, rows of history) of every file of a run, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        run_id, config, rows = None, {}, []
        for record in map(Record.FromString, records(path)):
            if record.HasField("run"):
                run_id = record.run.run_id
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update if item.key}
            if record.HasField("history"):
                items = record.history.item
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
        found.append((run_id, config, rows))
    return found


@WANDB
def test_wandb_gets_the_rows_and_a_resumed_run_goes_on_in_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_rows(tmp_path, [10, 20], open_sinks(["wandb"], tmp_path, None, {"task": "reacher_easy"}, "a run"))
    write_rows(tmp_path, [20, 30], open_sinks(["wandb"], tmp_path, 10, {"task": "reacher_easy"}, "a run"), resume=10)
    (first, config, rows), (second, _, more) = in_wandb(tmp_path)
    assert first == second == (tmp_path / "wandb_id").read_text().strip() and config["task"] == "reacher_easy"
    for some, steps in ((rows, [10, 20]), (more, [20, 30])):
        assert [(row["_step"], row["env_steps"], row["losses/critic"]) for row in some] == [
            (step, step, step / 10) for step in steps
        ]
        assert all("losses/actor" not in row for row in some)  # not finite
    assert [row["env_steps"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 30]


@WANDB
def test_training_goes_on_without_wandb_where_it_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    sink = WandB(tmp_path, {}, "a run")
    sink._run.finish()  # as if its process had died
    with pytest.warns(UserWarning, match="W&B has failed .*; the run goes on without it"):
        write_rows(tmp_path, [10, 20], [sink])
    assert [row["env_steps"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]


WITHOUT_A_KEY = """
import sys
from pathlib import Path
from covr_jax.config import ConfigError
from covr_jax.io.sinks import WandB
try:
    WandB(Path(sys.argv[1]), {}, "a run")
except ConfigError as error:
    print(error)
"""


@WANDB
def test_wandb_without_a_key_is_one_line(tmp_path):
    """In a process of its own: wandb reads its environment once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    nowhere = {"HOME": str(tmp_path), "WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_KEY, str(tmp_path)],
        env=kept | nowhere,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = done.stdout.splitlines()
    assert line.startswith("W&B does not take the run (") and line.endswith(
        "; set WANDB_MODE=offline, or leave wandb out"
    )


def test_a_package_that_is_missing_is_said_before_anything_is_done(monkeypatch):
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    check_sinks(["tensorboard"])
    with pytest.raises(ConfigError, match=r"^--log wandb needs the package wandb; pip install wandb, or leave it out$"):
        check_sinks(["tensorboard", "wandb"])
