"""Watches memory, threads and open files of a run that goes on for a long time."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covr_jax.commands import cli
from experiments.benchmark.damage import row_of

OPTIONS = (
    "--method covr --base sac --vlm fake --vlm.every 5 --vlm.held-out 4 --covr.psi-0 8000 --covr.cold-start-rounds 1"
    " --covr.min-keep 4 --run.checkpoint-every 8000 --total-steps 1000000000"
)  # rounds, evaluations and checkpoints for as long as the run lasts
_WARM_UP_S = 60.0  # compiles, first checkpoints and rounds
_GROWTH = 0.02  # of the memory, from the second fifth of the time to the last


def sample(pid: int) -> tuple[int, int, int]:
    """Resident bytes, threads and open files of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd"))


def verdict(samples: list[tuple[int, int, int]]) -> str:
    """What became of the three numbers, from the second fifth of the samples to the last."""
    fifth = len(samples) // 5
    before, after = samples[fifth : 2 * fifth], samples[-fifth:]
    memory = [statistics.median(row[0] for row in part) for part in (before, after)]
    others = [tuple(max(row[i] for row in part) for i in (1, 2)) for part in (before, after)]
    flat = memory[1] <= (1 + _GROWTH) * memory[0] and all(b <= a for a, b in zip(*others, strict=True))
    shown = f"{memory[0] / 1e6:.0f} to {memory[1] / 1e6:.0f} MB, {others[1][0]} threads, {others[1][1]} files"
    return f"flat ({shown})" if flat else f"GREW ({shown}, before {others[0][0]} threads, {others[0][1]} files)"


def watch(start: Callable[[Path, str], Any], directory: Path, minutes: float) -> dict[str, Any]:
    """Runs for some minutes and stops by SIGTERM.

    Args:
      start: starts a run in a directory with these options, as ``small_runs.train``.
      directory: of the run.
      minutes: after a minute of warming up.

    Returns:
      A row of the table.
    """
    started, samples = time.monotonic(), []
    child = start(directory, OPTIONS)
    time.sleep(_WARM_UP_S)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        samples.append(sample(child.pid))
        time.sleep(2.0)
    os.kill(child.pid, signal.SIGTERM)
    code = child.wait()
    found = verdict(samples) if code == cli.PREEMPTED else f"code {code}"
    row = row_of(f"{minutes:g} minutes of training", 1, "flat", Counter({found: 1}), time.monotonic() - started)
    return row | {"held": found.startswith("flat")}
