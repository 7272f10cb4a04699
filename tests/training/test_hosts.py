"""Several processes train one run: as one process with as many devices, and on after one is stopped or killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from covr_jax import config as configuration
from covr_jax import runtime
from covr_jax.commands import train as script
from covr_jax.commands.hosts import split_hosts
from covr_jax.config import ConfigError
from covr_jax.io.metrics import read_metrics
from covr_jax.io.reporter import Silent
from covr_jax.runtime import hosts
from covr_jax.training.host_checks import check_hosts
from covr_jax.training.resolve import resolve
from covr_jax.training.restore import load_run
from covr_jax.training.run import train
from covr_jax.types import never
from tests.training.test_mesh import small

ROOT = Path(__file__).parents[2]
FAR = 400_000  # env steps that no test reaches


def alone(**run):
    """A run without a VLM that evaluates at the end only."""
    config = small("sac", updates=1)
    run = dataclasses.replace(config.run, checkpoint_every=1_600, log=(), **run)
    return dataclasses.replace(config, total_steps=FAR, eval=configuration.EvalConfig(every=FAR, episodes=8), run=run)


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--seed 3", (None, None, None)),
        ("--hosts auto --seed 3", ("auto", None, None)),
        ("--hosts a.b:12 --num-hosts 4 --host-index=3 --seed 3", ("a.b:12", 4, 3)),
    ],
)
def test_where_processes_meet(given, expected):
    assert split_hosts(given.split()) == (expected, ["--seed", "3"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--num-hosts 2", "--num-hosts and --host-index go with --hosts HOST:PORT, the address of the first process"),
        ("--hosts auto --host-index 0", "--num-hosts and --host-index go with --hosts HOST:PORT, the address of the"),
        ("--hosts a --num-hosts 2 --host-index 0", "--hosts must be auto or HOST:PORT, the address of the first"),
        ("--hosts a:1 --num-hosts 2", "--hosts a:1 needs --num-hosts N and --host-index I, from 0 to N - 1"),
        ("--hosts a:1 --num-hosts 2 --host-index 2", "--hosts a:1 needs --num-hosts N and --host-index I, from 0"),
        ("--hosts a:1 --num-hosts x --host-index 2", "--num-hosts must be a whole number, got x"),
        ("--hosts auto --num-seeds 2", "--hosts trains one run on several hosts, and --num-seeds several on one"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(given, said, capsys):
    with pytest.raises(SystemExit) as caught:
        script.parse(["--method", "rad", *given.split()])
    assert caught.value.code == 2 and capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": {"devices": 1}}, "--hosts: 2 processes have 8 devices; give --devices 8"),
        ({"method": "covr"}, "--hosts trains methods without a VLM, and covr has one; leave --hosts out"),
        ({"replay": {"sampling": "elite"}}, "--replay.sampling elite chooses samples on one host; leave --hosts out"),
        ({"replay": {"demonstrations": "a"}}, "--hosts takes no --demonstrations; leave --hosts out"),
    ],
)
def test_what_several_processes_cannot_train_is_one_line(changes, said, monkeypatch):
    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(runtime, "devices", lambda: list(range(8)))
    config = resolve(alone(devices=8))
    check_hosts(config)
    for name, values in changes.items():
        value = dataclasses.replace(getattr(config, name), **values) if isinstance(values, dict) else values
        config = dataclasses.replace(config, **{name: value})
    with pytest.raises(ConfigError) as caught:
        check_hosts(config)
    assert str(caught.value) == said


def test_one_process_is_the_first_and_asks_nobody():
    with hosts.joined(None, None, None):
        assert hosts.is_first() and not hosts.several() and hosts.count() == 1
        assert hosts.every("a") == ["a"] and hosts.as_first(True) and not hosts.as_first(False)
        assert hosts.agree_on(never) is never


# --------------------------------------------------------------------------------------------- processes


def start(directory, arguments, devices=1):
    """Starts ``train.py`` on the options of ``alone``."""
    file = directory.with_suffix(".json")
    file.write_text(json.dumps(configuration.to_dict(alone())))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    return subprocess.Popen(
        [sys.executable, ROOT / "experiments/train.py", "--config", file, "--run-dir", directory, *arguments],
        # XLA splits sums among as many threads as it has processors or devices: each process gets two, on any machine.
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "NPROC": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_together(directory, number=2):
    """Starts processes that train one run, each with one device."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = ["--devices", str(number), "--hosts", address, "--num-hosts", str(number)]
    return [start(directory, [*shared, "--host-index", str(index)]) for index in range(number)]


def ended(processes):
    """What each process said, and its exit code."""
    said = [process.communicate(timeout=900)[0] for process in processes]
    return said, [process.returncode for process in processes]


def checkpoints(directory):
    folder = directory / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def until(condition, processes):
    """Waits; a process that ends meanwhile is an error."""
    deadline = time.monotonic() + 900
    while not condition():
        assert all(process.poll() is None for process in processes), ended(processes)[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_after_a_signal_and_a_kill(tmp_path):
    # A signal to one process reaches both, and they end with a checkpoint of where they are.
    directory, reference = tmp_path / "hosts", tmp_path / "devices"
    pair = start_together(directory)
    until(lambda: checkpoints(directory)[-1:] >= [3_200], pair)
    pair[1].send_signal(signal.SIGTERM)
    said, codes = ended(pair)
    (*_, stopped) = checkpoints(directory)
    rows = read_metrics(directory / "metrics.jsonl")
    assert codes == [75, 75], said
    assert stopped == rows[-1]["env_steps"] and rows[-1]["updates"] > 0
    assert f"stopped by SIGTERM at {stopped:,} env steps" in said[0]
    assert "replay:" in said[0] and "replay:" not in said[1]  # the first process alone reports

    # One process with two devices computes the same.
    _, codes = ended([start(reference, ["--devices", "2", "--total-steps", str(stopped)], devices=2)])
    assert codes == [0]
    ours = load_run(directory, stopped)[2]
    theirs = load_run(reference, stopped)[2]
    assert int(ours.learner.updates) == int(theirs.learner.updates) > 0
    for one, other in zip(jax.tree.leaves(ours.learner.params), jax.tree.leaves(theirs.learner.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for row, other in zip(rows, read_metrics(reference / "metrics.jsonl"), strict=False):
        losses = {name: value for name, value in row.items() if name.startswith(("losses/", "train/episode"))}
        assert losses == pytest.approx({name: other[name] for name in losses}, abs=1e-5)

    # One is killed: the other ends by itself, and one process alone goes on from the last checkpoint.
    pair = start_together(directory)
    until(lambda: checkpoints(directory)[-1] > stopped, pair)
    (*_, last) = checkpoints(directory)
    pair[1].kill()
    said, codes = ended(pair)
    assert codes == [69, -signal.SIGKILL], said
    assert f"resuming from {directory / 'checkpoints' / str(stopped)}" in said[0]
    assert "error: another process of the run is gone" in said[0].splitlines()[-1]
    assert checkpoints(directory)[-1] >= last
    more = dataclasses.replace(alone(), total_steps=checkpoints(directory)[-1] + 1_600)
    assert train(more, directory, Silent()).env_steps >= more.total_steps
