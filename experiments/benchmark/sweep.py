"""What Ray adds to a sweep on this machine: seconds before the first run, between runs and after kills, and memory.

``python experiments/benchmark/sweep.py --runs 10 --output experiments/results/sweep/ray_cpu.json``

The runs are processes that only note the time, so that all of it is Ray's and the sweep's.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands.launch.options import LaunchOptions
from covr_jax.commands.launch.process import Job
from covr_jax.commands.launch.ray_runs import connected, run_all
from experiments.benchmark import measure

# Notes when it starts; the first process then kills itself (0) or its worker of Ray (1).
NOTE = """
import os, signal, sys, time
with open(sys.argv[1], "a+") as file:
    print(time.time(), file=file)
    file.flush()
    file.seek(0)
    first = len(file.readlines()) == 1
if first and sys.argv[2:]:
    os.kill([os.getpid(), os.getppid()][int(sys.argv[2])], signal.SIGKILL)
    sys.stdin.read()
"""


def starts(folder: Path, runs: int, *arguments: str) -> list[float]:
    """Runs one after the other; returns when each of their processes started, seconds since the epoch."""
    folder.mkdir()
    jobs = [Job(folder / str(n), [str(folder / "times"), *arguments], ("-c", NOTE)) for n in range(runs)]
    if failed := run_all(jobs, LaunchOptions(jobs=1, gpus=0.0)):
        raise RuntimeError(f"{len(failed)} runs failed")
    return [float(line) for line in (folder / "times").read_text().split()]


def memory(pid: int) -> int:
    """Bytes of a process's descendants; what several of them share is counted once."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                size = re.search(r"^Pss:\s+(\d+) kB", (path / "smaps_rollup").read_text(), re.MULTILINE)
                total += (1024 * int(size[1]) if size else 0) + memory(int(path.name))
        except OSError:  # it has ended
            continue
    return total


def rows(runs: int, folder: Path) -> list[dict[str, Any]]:
    """Measures; one row per quantity."""
    began = time.time()
    with connected(LaunchOptions()):
        started = time.time() - began
        times = starts(folder / "runs", runs)
        held = memory(os.getpid())
        killed = [starts(folder / f"killed{kind}", 1, str(kind)) for kind in (0, 1)]
    between = statistics.median(after - before for before, after in pairwise(times))
    return [
        {"quantity": "Ray's start, s", "value": started},
        {"quantity": "the first run's process after it, s", "value": times[0] - began - started},
        {"quantity": "from one run that does nothing to the next, s (median)", "value": between},
        {"quantity": "from a killed process to the next, s", "value": killed[0][1] - killed[0][0]},
        {"quantity": "from a killed worker to the next process, s", "value": killed[1][1] - killed[1][0]},
        {"quantity": "memory of Ray's processes, MB", "value": held / 1e6},
    ]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--output", type=Path, metavar="FILE")
    own = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(own.runs, Path(folder))
    print(measure.table(found))
    if own.output:
        measure.write(own.output, found)


if __name__ == "__main__":
    main()
