"""Final evaluations of several runs as a table of methods by tasks, and the Markdown of any table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covr_jax.config.convert import PROVENANCE
from covr_jax.io.files import to_json
from covr_jax.report.data import ReportError, Run, method_name, number, read_run
from covr_jax.report.intervals import Interval, improvement, interquartile

KINDS = (".md", ".csv", ".json", ".tex")
RANDOM = "random policy"
FEW = 5  # seeds below which a cell is warned of
AREA = "area"  # in place of a metric: the mean evaluation over all env steps, the area under the curve per env step


class Origin(NamedTuple):
    """How a number was made; of a cell, all answers of its runs."""

    env_steps: str = ""
    renderer: str = ""  # of the images
    physics: str = ""
    commit: str = ""
    device: str = ""  # that JAX computed on
    jax: str = ""  # version


class Final(NamedTuple):
    """The last evaluation of one finished run."""

    task: str
    method: str
    value: float
    random: float | None  # mean return of the random policy
    origin: Origin = Origin()


class Cell(NamedTuple):
    """The final evaluations of a method on a task, over its seeds."""

    task: str
    method: str
    mean: float
    std: float  # population
    seeds: int
    interval: Interval | None = None
    origin: Origin = Origin()
    values: tuple[float, ...] = ()  # one per seed

    def text(self, decimals: int = 1) -> str:
        """Formats the cell as mean ± std (number of seeds)."""
        return f"{self.mean:.{decimals}f} ± {self.std:.{decimals}f} ({self.seeds})"


def read_final(run_dir: str | Path, metric: str = "eval/episode_return") -> Final | None:
    """Reads the last value of an evaluation metric; None for a run that has not finished, or has diverged.

    Args:
      run_dir: of the run.
      metric: name in metrics.jsonl, or ``AREA``.

    Raises:
      ReportError: the run cannot be read, or it has finished without the metric, or its last value is no number.
    """
    run = read_run(run_dir)
    if not run.result or run.diverged:
        return None
    value = area(run) if metric == AREA else run.last(metric)
    if value is None and any(metric in row for row in run.rows):
        raise ReportError(f"{run.folder}: the last {metric} is no number")
    if value is None:
        known = sorted({name for row in run.rows for name in row if name.startswith("eval/")})
        raise ReportError(f"{run.folder}: no metric {metric}; it has {', '.join(known)}")
    random = run.random_return if metric in ("eval/episode_return", AREA) else None
    return Final(str(run.config.get("task", "unknown")), method_name(run.config), value, random, _origin(run))


def area(run: Run) -> float | None:
    """Returns the mean of the evaluations' returns over the env steps from the first to the last, by trapezia.

    None where the run has fewer than two evaluations.
    """
    x, y = run.curve("eval/episode_return")
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 and x[-1] > x[0] else None


def _origin(run: Run) -> Origin:
    env, steps = run.config.get("env"), number(run.result.get("env_steps"))
    made_by = run.config.get(PROVENANCE)
    made_by = made_by if isinstance(made_by, dict) else {}
    return Origin(
        "" if steps is None else f"{steps:,.0f}",
        str(run.result.get("renderer", "")),
        str(env.get("physics", "")) if isinstance(env, dict) else "",
        str(run.result.get("commit", "")),
        str(made_by.get("device", "")),
        str(made_by.get("jax", "")),
    )


def summarise(finals: list[Final]) -> list[Cell]:
    """Returns a cell per method and task in order of first appearance, then one of the random policy per task.

    Raises:
      ReportError: ``finals`` is empty.
    """
    if not finals:
        raise ReportError("no finished runs to tabulate")
    groups: dict[tuple[str, str], list[tuple[float, Origin]]] = {}
    for final in finals:
        groups.setdefault((final.task, final.method), []).append((final.value, final.origin))
    for final in finals:
        if final.random is not None:
            groups.setdefault((final.task, RANDOM), []).append((final.random, final.origin))
    return [_cell(task, method, *zip(*found, strict=True)) for (task, method), found in groups.items()]


def _cell(task: str, method: str, values: Sequence[float], origins: Sequence[Origin]) -> Cell:
    mean, std = float(np.mean(values)), float(np.std(values))
    origin = Origin(*(_joined(answers) for answers in zip(*origins, strict=True)))
    return Cell(task, method, mean, std, len(values), interquartile(values), origin, tuple(values))


def _joined(answers: Sequence[str]) -> str:
    """All different answers; runs of an earlier version lack some."""
    return " and ".join(dict.fromkeys(answer or "unknown" for answer in answers)) if any(answers) else ""


def warnings(cells: list[Cell]) -> list[str]:
    """Returns a line for each cell of runs that were made differently, or of fewer than ``FEW`` seeds."""
    lines = []
    for cell in cells:
        mixed = [f"{name} {value}" for name, value in cell.origin._asdict().items() if " and " in value]
        if cell.method != RANDOM and mixed:
            lines.append(f"{cell.method} on {cell.task} mixes runs of {', '.join(mixed)}")
        if cell.method != RANDOM and cell.seeds < FEW:
            lines.append(f"{cell.method} on {cell.task} has {cell.seeds} seed{'s' if cell.seeds > 1 else ''}")
    return lines


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Formats rows of cells as a Markdown table; the first row is the header."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def render(cells: list[Cell], kind: str) -> str:
    """Formats cells as Markdown or LaTeX, with a second table of intervals and origins, or as CSV or JSON.

    Args:
      cells: as ``summarise`` returns them.
      kind: one of ``KINDS``.

    Raises:
      ReportError: another kind.
    """
    if kind not in KINDS:
        raise ReportError(f"unknown kind of table {kind!r}, expected one of {', '.join(KINDS)}")
    if kind in (".json", ".csv"):
        flat = [_flat(cell) for cell in cells]
        return to_json(flat, indent=1) if kind == ".json" else _csv(flat)
    draw = markdown if kind == ".md" else latex
    return "\n\n".join(draw(rows) for rows in (_means(cells), details(cells)))


def _means(cells: list[Cell]) -> list[list[str]]:
    """A row per method, a column per task."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    methods = sorted(dict.fromkeys(cell.method for cell in cells), key=lambda method: method == RANDOM)
    found = {(cell.method, cell.task): cell.text() for cell in cells}
    return [["", *tasks], *([method, *(found.get((method, task), "") for task in tasks)] for method in methods)]


def details(cells: list[Cell]) -> list[list[str]]:
    """Returns the head of a table of intervals and origins, then a row per cell."""
    origin = [name.replace("_", " ") for name in Origin._fields]
    head = ["task", "method", "interquartile mean, 95% interval", "seeds", *origin]
    return [head, *([cell.task, cell.method, _shown(cell), str(cell.seeds), *cell.origin] for cell in cells)]


def improvements(cells: list[Cell], against: str) -> list[list[str]]:
    """Returns the head of a table of probabilities of improvement over a method, then a row per other method and task.

    Raises:
      ReportError: the method has no cell.
    """
    base = {cell.task: cell.values for cell in cells if cell.method == against}
    if not base:
        known = dict.fromkeys(cell.method for cell in cells if cell.method != RANDOM)
        raise ReportError(f"no runs of {against!r} to compare with; there are {', '.join(known)}")
    rows = [["task", "method", f"better than {against}: probability, 95% interval"]]
    for cell in cells:
        if cell.method not in (against, RANDOM) and cell.task in base:
            rows.append([cell.task, cell.method, _bounded(*improvement(cell.values, base[cell.task]), decimals=2)])
    return rows


def _shown(cell: Cell) -> str:
    return "" if cell.interval is None else _bounded(*cell.interval, decimals=1)


def _bounded(value: float, low: float | None, high: float | None, decimals: int) -> str:
    bounds = "" if low is None else f" [{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{value:.{decimals}f}{bounds}"


def _flat(cell: Cell) -> dict[str, Any]:
    """A cell as names and values without structure."""
    interval = cell.interval._asdict() if cell.interval else dict.fromkeys(Interval._fields)
    return {name: getattr(cell, name) for name in Cell._fields[:5]} | interval | cell.origin._asdict()


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def latex(rows: Iterable[Sequence[str]]) -> str:
    """Formats rows of cells as a LaTeX tabular; the first row is the header."""
    head, *body = ([_escaped(cell) for cell in row] for row in rows)
    lines = [f"{' & '.join(row)} \\\\" for row in (head, *body)]
    return "\n".join([f"\\begin{{tabular}}{{{'l' * len(head)}}}", lines[0], "\\hline", *lines[1:], "\\end{tabular}"])


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", "$\\pm$")
