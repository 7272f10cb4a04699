"""Final evaluations of several runs as a table of methods by tasks, and the Markdown of any table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covr_jax.io.files import to_json
from covr_jax.report.data import ReportError, method_name, read_run

KINDS = (".md", ".csv", ".json")
RANDOM = "random policy"


class Final(NamedTuple):
    """The last evaluation of one finished run."""

    task: str
    method: str
    value: float
    random: float | None  # mean return of the random policy


class Cell(NamedTuple):
    """The final evaluations of a method on a task, over its seeds."""

    task: str
    method: str
    mean: float
    std: float  # population
    seeds: int

    def text(self, decimals: int = 1) -> str:
        """Formats the cell as mean ± std (number of seeds)."""
        return f"{self.mean:.{decimals}f} ± {self.std:.{decimals}f} ({self.seeds})"


def read_final(run_dir: str | Path, metric: str = "eval/episode_return") -> Final | None:
    """Reads the last value of an evaluation metric; None for a run that has not finished, or has diverged.

    Raises:
      ReportError: the run cannot be read, or it has finished without the metric, or its last value is no number.
    """
    run = read_run(run_dir)
    if not run.result or run.diverged:
        return None
    value = run.last(metric)
    if value is None and any(metric in row for row in run.rows):
        raise ReportError(f"{run.folder}: the last {metric} is no number")
    if value is None:
        known = sorted({name for row in run.rows for name in row if name.startswith("eval/")})
        raise ReportError(f"{run.folder}: no metric {metric}; it has {', '.join(known)}")
    random = run.random_return if metric == "eval/episode_return" else None
    return Final(str(run.config.get("task", "unknown")), method_name(run.config), value, random)


def summarise(finals: list[Final]) -> list[Cell]:
    """Returns a cell per method and task in order of first appearance, then one of the random policy per task.

    Raises:
      ReportError: ``finals`` is empty.
    """
    if not finals:
        raise ReportError("no finished runs to tabulate")
    groups: dict[tuple[str, str], list[float]] = {}
    for final in finals:
        groups.setdefault((final.task, final.method), []).append(final.value)
    for final in finals:
        if final.random is not None:
            groups.setdefault((final.task, RANDOM), []).append(final.random)
    return [
        Cell(task, method, float(np.mean(values)), float(np.std(values)), len(values))
        for (task, method), values in groups.items()
    ]


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Formats rows of cells as a Markdown table; the first row is the header."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def render(cells: list[Cell], kind: str) -> str:
    """Formats cells as Markdown, CSV or JSON.

    Args:
      cells: as ``summarise`` returns them.
      kind: one of ``KINDS``.

    Raises:
      ReportError: another kind.
    """
    if kind == ".json":
        return to_json([cell._asdict() for cell in cells], indent=1)
    if kind == ".csv":
        return "\n".join([",".join(Cell._fields), *(",".join(map(str, cell)) for cell in cells)])
    if kind != ".md":
        raise ReportError(f"unknown kind of table {kind!r}, expected one of {', '.join(KINDS)}")
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    methods = sorted(dict.fromkeys(cell.method for cell in cells), key=lambda method: method == RANDOM)
    found = {(cell.method, cell.task): cell.text() for cell in cells}
    rows = [[method, *(found.get((method, task), "") for task in tasks)] for method in methods]
    return markdown([["", *tasks], *rows])
