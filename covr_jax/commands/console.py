"""Progress of a run on a terminal: a bar with return, speed and VLM round; plain lines where output is no terminal."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from covr_jax.types import Preempted


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Where nobody reads any more, as behind ``| head``, the run goes on in silence."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ConsoleReporter:
    """Implements ``covr_jax.io.reporter.Reporter``; use it as a context manager.

    Args:
      total_steps: length of the run, env steps.
      stop: why the run shall stop, or None. A round of fine-tuning, which may take long, ends at once with
        ``Preempted``, and is made again by the process that goes on.
    """

    def __init__(self, total_steps: int, stop: Callable[[], str | None] = lambda: None):
        self._stop = stop
        self._console = _Console()
        self._live = self._console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            console=self._console,
            disable=not self._live,
        )
        self._run = self._progress.add_task("env steps", total=total_steps, shown="")
        self._finetuning = self._progress.add_task("VLM round", total=None, visible=False, shown="")
        self._next_line = 0.0
        self._total = total_steps

    def __enter__(self) -> ConsoleReporter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def message(self, text: str) -> None:
        """See ``Reporter``."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def update(self, env_steps: int, shown: dict[str, float]) -> None:
        """See ``Reporter``; prints a line per fortieth of the run where output is no terminal."""
        value = shown.get("train/episode_return", math.nan)
        text = (
            f"return {value:6.1f}  {shown['train/env_steps_per_second']:,.0f} env steps/s"
            f"  {shown['train/updates_per_second']:.1f} updates/s  round {shown['covr/round']:.0f}"
        )
        self._progress.update(self._run, completed=env_steps, shown=text)
        if not self._live and env_steps >= self._next_line:
            self.message(f"{env_steps:>9,} / {self._total:,} env steps  {text}")
            self._next_line = env_steps + self._total / 40

    def finetune(self, step: int, steps: int, loss: float) -> None:
        """See ``Reporter``."""
        if reason := self._stop():
            raise Preempted(reason)
        done = step >= steps
        self._progress.update(self._finetuning, completed=step, total=steps, visible=not done, shown=f"loss {loss:.3f}")
