"""How far the runs of a sweep are: a table on a terminal, lines elsewhere; read from the run directories."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from covr_jax.commands.launch.process import STARTS, Ended, Job
from covr_jax.config import ConfigError
from covr_jax.io.metrics import FILE_NAME
from covr_jax.io.run_dir import read_options, read_result

_RETURNS = ("eval/episode_return", "train/episode_return")
_TAIL = 64 * 1024  # bytes that are read of the end of a file: some hundred rows
_LINE_EVERY_S = 60.0  # where there is no terminal


class RunState(NamedTuple):
    """What a run directory tells.

    Attributes:
      starts: how often a launcher has started the run.
      host: the machine that started it last.
      env_steps: of the last row of metrics; None without one.
      total_steps: env steps that the run will make; None before it has begun.
      episode_return: the last one, of training or evaluation; None without one.
    """

    starts: int = 0
    host: str = ""
    env_steps: int | None = None
    total_steps: int | None = None
    episode_return: float | None = None

    def words(self) -> str:
        """Env steps and return as text; empty before the first row."""
        if self.env_steps is None:
            return ""
        total = f" of {self.total_steps:,}" if self.total_steps else ""
        value = "" if self.episode_return is None else f", return {self.episode_return:.1f}"
        return f"{self.env_steps:,}{total} env steps{value}"


def read_state(run_dir: Path) -> RunState:
    """Reads how far a run is; what is missing, or is being written at this moment, is left out."""
    starts, steps, value, total = list(_rows_backwards(run_dir / STARTS)), None, None, None
    for row in _rows_backwards(run_dir / FILE_NAME):
        steps = row.get("env_steps") if steps is None else steps
        value = next((row[name] for name in _RETURNS if row.get(name) is not None), None)
        if value is not None:
            break
    with contextlib.suppress(ConfigError):
        total = read_options(run_dir).get("total_steps")
    return RunState(len(starts), str(starts[0].get("host", "")) if starts else "", steps, total, value)


def _rows_backwards(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file from the last one on: those that lie within ``_TAIL`` bytes and are whole."""
    try:
        with path.open("rb") as file:
            begin = max(file.seek(0, 2) - _TAIL, 0)
            file.seek(begin)
            lines = file.read().split(b"\n")
    except OSError:
        return
    for line in reversed(lines[1 if begin else 0 :]):
        with contextlib.suppress(ValueError):
            if isinstance(row := json.loads(line), dict):
                yield row


def describe(job: Job) -> str:
    """Returns a line about a run that is not watched."""
    state, result = read_state(job.run_dir), read_result(job.run_dir)
    if result:
        return f"{job.run_dir}: done, final return {result.final_return:.1f}"
    return f"{job.run_dir}: {state.words() or 'not begun'}"


class Progress:
    """Shows the runs of a sweep while it lasts; a context manager.

    Args:
      jobs: the runs that are to be made.
    """

    def __init__(self, jobs: Sequence[Job]):
        self._states = {job.run_dir: "waiting" for job in jobs}
        self._seen = {job.run_dir: read_state(job.run_dir) for job in jobs}
        self._before = {run_dir: seen.starts for run_dir, seen in self._seen.items()}
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._next_line = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line, above the table where there is one."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        sys.stdout.flush()

    def update(self) -> None:
        """Reads the run directories, says what has started, and shows how far the runs are."""
        for run_dir, state in self._states.items():
            if state not in ("waiting", "running"):
                continue
            seen, self._seen[run_dir] = self._seen[run_dir], read_state(run_dir)
            starts = self._seen[run_dir].starts
            if starts > seen.starts:
                again = starts - self._before[run_dir] - 1
                host = self._seen[run_dir].host
                self.say(f"{run_dir}: started on {host}{f', again after {again} kills' if again else ''}")
                self._states[run_dir] = "running"
        if self._live:
            self._live.update(self._table(), refresh=True)
        elif time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            self.say(self.summary())

    def end(self, job: Job, ended: Ended) -> None:
        """Notes and says how a run ended."""
        self._states[job.run_dir] = "failed" if ended.code else "done"
        self.say(f"{job.run_dir}: {ended.words}")

    def summary(self) -> str:
        """Numbers of runs by state, and how far those are that run, as a line."""
        counts = Counter(self._states.values())
        parts = [", ".join(f"{counts[state]} {state}" for state in ("done", "running", "waiting", "failed"))]
        for run_dir, state in self._states.items():
            if state == "running" and (words := self._seen[run_dir].words()):
                parts.append(f"{run_dir} {words}")
        return "; ".join(parts)

    def _table(self) -> Table:
        """The runs that run or have failed, and where there is room for them all others."""
        table = Table("run", "state", "env steps", "of", "return", "starts", caption=self.summary().split(";")[0])
        room = self._console.height - 6
        for run_dir, state in self._states.items():
            if len(self._states) > room and state in ("waiting", "done"):
                continue
            seen = self._seen[run_dir]
            numbers = ("" if n is None else f"{n:,}" for n in (seen.env_steps, seen.total_steps))
            value = "" if seen.episode_return is None else f"{seen.episode_return:.1f}"
            table.add_row(str(run_dir), state, *numbers, value, str(seen.starts - self._before[run_dir]))
        return table
