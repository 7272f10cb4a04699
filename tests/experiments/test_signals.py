"""Real processes that are asked to stop: by a scheduler, by Ctrl-C, once and twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from covr_jax.commands.signals import silence_lost_terminals, stop_on_signals
from covr_jax.io.checkpoint import Checkpointer
from covr_jax.runtime.signals import STOPPING

ROOT = Path(__file__).parents[2]
OPTIONS = (
    *("--method", "sac", "--env.image-size", "20", "--env.samples", "1"),
    *("--env.action-repeat", "40", "--sac.hidden-dim", "16", "--sac.feature-dim", "8", "--sac.num-filters", "4"),
    *("--sac.conv-kernels", "3", "3", "--sac.conv-strides", "2", "2", "--sac.batch-size", "4"),
    *("--sac.init-steps", "40", "--replay.capacity", "200", "--run.log-every", "400", "--run.no-video"),
    *("--eval.episodes", "1", "--eval.every", "1000000", "--run.checkpoint-every", "1000000"),
)
PATIENCE_S = 120.0


def start(directory, steps):
    command = [sys.executable, str(ROOT / "experiments" / "train.py"), *OPTIONS, "--total-steps", str(steps)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, "--run-dir", str(directory)], stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def wait_until(process, holds):
    """Waits until a condition holds; a process that has ended, or takes too long, fails the test."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > end:
            process.kill()
            pytest.fail(str(process.communicate()))
        time.sleep(0.1)


def learns(directory):
    """Whether a run has learned for a while."""
    metrics = directory / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count("losses/critic") > 1


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path):
    process = start(tmp_path / "run", 10_000_000)
    wait_until(process, lambda: learns(tmp_path / "run"))
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, error
    (step,) = Checkpointer(tmp_path / "run").steps()
    assert error == f"stopped by SIGTERM at {step:,} env steps; the same command goes on from there\n"
    assert "SIGTERM: stopping after this chunk" in output
    again = start(tmp_path / "run", step + 2000)
    assert again.wait(PATIENCE_S) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["env_steps"] >= step + 2000


def test_a_terminal_that_has_gone_is_written_to_without_an_error():
    terminal, process_end = os.openpty()
    os.close(terminal)
    with pytest.raises(OSError):
        os.write(process_end, b"x")
    silence_lost_terminals(process_end)
    assert os.write(process_end, b"x") == 1
    os.close(process_end)


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: signal.Signals(number).name)
def test_the_second_signal_does_what_it_does_by_default(number):
    before = {number: signal.getsignal(number) for number in STOPPING}
    with stop_on_signals() as stop:
        assert stop() is None
        os.kill(os.getpid(), number)
        assert stop() == signal.Signals(number).name
        after = [signal.getsignal(number) for number in STOPPING]
        assert after == [signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    assert {number: signal.getsignal(number) for number in STOPPING} == before


@pytest.mark.slow
def test_a_signal_does_not_wait_for_the_compiler(tmp_path, monkeypatch):
    """Nor does it where the compiler has been faster than the rest: it came before the first program was needed."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "empty"))
    directory = tmp_path / "run"
    process = start(directory, 10_000_000)
    wait_until(process, directory.exists)  # made before the first program; config.json comes after the last one
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, error
    assert error == "stopped by SIGTERM before anything was trained; the same command goes on from there\n"
    assert not (directory / "checkpoints").exists()
