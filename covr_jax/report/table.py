"""Final evaluations of several runs as a table: methods down, tasks across, mean ± std over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covr_jax.report.data import ReportError, method_name, read_run
from covr_jax.report.figures import baseline

KINDS = (".md", ".csv", ".json")
RANDOM = "random policy"


class Final(NamedTuple):
    """The last evaluation of one finished run."""

    task: str
    method: str
    value: float
    random: float | None  # the random policy's return


class Cell(NamedTuple):
    """A method on a task, over its seeds."""

    task: str
    method: str
    mean: float
    std: float  # population
    seeds: int


def read_final(run_dir: str | Path, metric: str = "eval/episode_return") -> Final | None:
    """The last value of an evaluation metric; None for a run that has not finished.

    Raises:
      ReportError: as ``read_run``, or a finished run without the metric.
    """
    run = read_run(run_dir)
    if not run.result:
        return None
    value = run.last(metric)
    if value is None:
        known = sorted({name for row in run.rows for name in row if name.startswith("eval/")})
        raise ReportError(f"{run.folder}: no metric {metric}; it has {', '.join(known)}")
    random = baseline(run) if metric == "eval/episode_return" else None
    return Final(str(run.config.get("task", "unknown")), method_name(run.config), value, random)


def summarise(finals: list[Final]) -> list[Cell]:
    """One cell per method and task, in the order in which they first come, and one of the random policy per task.

    Raises:
      ReportError: no runs.
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


def render(cells: list[Cell], kind: str) -> str:
    """The table as Markdown, CSV or JSON.

    Raises:
      ReportError: another kind.
    """
    if kind == ".json":
        return json.dumps([cell._asdict() for cell in cells], indent=1)
    if kind == ".csv":
        return "\n".join([",".join(Cell._fields), *(",".join(map(str, cell)) for cell in cells)])
    if kind != ".md":
        raise ReportError(f"unknown kind of table {kind!r}, expected one of {', '.join(KINDS)}")
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    methods = list(dict.fromkeys(cell.method for cell in cells if cell.method != RANDOM))
    if any(cell.method == RANDOM for cell in cells):
        methods.append(RANDOM)
    found = {(cell.method, cell.task): cell for cell in cells}
    rows = [["", *tasks], ["---"] * (len(tasks) + 1)]
    rows += [[method, *(_shown(found.get((method, task))) for task in tasks)] for method in methods]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.mean:.1f} ± {cell.std:.1f} ({cell.seeds})"
