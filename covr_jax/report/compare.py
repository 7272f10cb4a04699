"""Learning curves of several runs in one image: one panel per task, one curve per method, its seeds as a band."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from covr_jax.report.charts import PALETTE, matplotlib_style
from covr_jax.report.data import ReportError, method_name, read_run
from covr_jax.report.formatting import steps
from covr_jax.report.names import disambiguate

BANDS = ("minmax", "std")
# Blue is COVR's, as in the report. The others differ from it and from each other, in grey print too.
COLORS = ("#2f55d4", "#c26a0a", "#2a8f5b", "#8b3fb0", "#c43b52", "#4c5a70", "#0f8ea8", "#9a7d0a")
DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.5)))  # the next one each time the colours repeat
CROWD = 6  # with more curves than this in a panel, bands are faint and the legend stands beside it


class Curve(NamedTuple):
    """The evaluations of one run."""

    task: str
    method: str
    x: Num[np.ndarray, " T"]  # env steps
    y: Num[np.ndarray, " T"]  # mean episode return
    random: float | None  # mean return of the random policy


def read_curve(run_dir: str | Path) -> Curve:
    """Reads the evaluations of a run directory.

    Raises:
      ReportError: the run cannot be read or has no evaluation.
    """
    run = read_run(run_dir)
    x, y = run.curve("eval/episode_return")
    if not x:
        raise ReportError(f"{run.folder}: no evaluation to compare yet")
    task, method = str(run.config.get("task", "unknown")), method_name(run.config)
    return Curve(task, method, np.array(x), np.array(y), run.random_return)


def over_seeds(
    curves: list[Curve], band: str = "minmax"
) -> tuple[Num[np.ndarray, " T"], Float[np.ndarray, " T"], Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Computes mean and band of the runs of one method, over the range of env steps that all of them reached.

    Args:
      curves: runs of one method and task.
      band: ``minmax``, or ``std`` (population) around the mean.

    Returns:
      Env steps at which any run was evaluated, then mean, low and high; runs not evaluated there are interpolated.

    Raises:
      ReportError: the runs share no step, or the band is unknown.
    """
    if band not in BANDS:
        raise ReportError(f"unknown band {band!r}, expected one of {', '.join(BANDS)}")
    first, last = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    x = np.unique(np.concatenate([c.x for c in curves]))
    x = x[(x >= first) & (x <= last)]
    if x.size == 0:
        raise ReportError(f"the runs of {curves[0].method} on {curves[0].task} share no env step")
    y = np.stack([np.interp(x, c.x, c.y) for c in curves])
    mean = y.mean(axis=0)
    if band == "std":
        return x, mean, mean - y.std(axis=0), mean + y.std(axis=0)
    return x, mean, y.min(axis=0), y.max(axis=0)


class Style(NamedTuple):
    """Colour and dash of one method's curve in all panels."""

    color: str
    dash: Any


def method_styles(methods: set[str]) -> dict[str, Style]:
    """Assigns a colour and a dash to each method, COVR first and the others by name."""
    ordered = sorted(methods, key=lambda name: (not name.startswith("covr"), name))
    return {
        method: Style(COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)])
        for i, method in enumerate(ordered)
    }


def _panel(axes, curves: list[Curve], styles: dict[str, Style], band: str) -> None:
    crowded = len({c.method for c in curves}) > CROWD
    for method, style in reversed(styles.items()):  # the first method is drawn last, on top
        mine = [c for c in curves if c.method == method]
        if not mine:
            continue
        x, mean, low, high = over_seeds(mine, band)
        axes.fill_between(x, low, high, color=style.color, alpha=0.04 if crowded else 0.16, linewidth=0)
        seeds = f"{len(mine)} seed" + ("s" if len(mine) > 1 else "")
        marker = "o" if x.size < 30 else None
        axes.plot(x, mean, color=style.color, linestyle=style.dash, linewidth=2, marker=marker, markersize=3.5)
        axes.lines[-1].set_label(f"{method} ({seeds})")
    random = [c.random for c in curves if c.random is not None]
    if random:
        level = float(np.mean(random))
        axes.axhline(level, color=PALETTE["reference"], linestyle=(0, (5, 4)), linewidth=1.4, label="random policy")
    axes.set_title(curves[0].task, loc="left", fontsize=12, fontweight="bold", color=PALETTE["ink"])
    axes.set_xlabel("Environment steps")
    axes.xaxis.set_major_formatter(lambda value, _: steps(value))
    axes.set_xlim(left=0)
    handles, labels = axes.get_legend_handles_labels()
    best = sorted(zip(handles, labels, strict=True), key=lambda pair: -float(pair[0].get_ydata()[-1]))
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "handlelength": 4.0} if crowded else {}
    axes.legend(*zip(*best, strict=True), frameon=False, fontsize=9, labelcolor=PALETTE["ink"], **beside)


def write_comparison(run_dirs: list[str | Path], path: str | Path, band: str = "minmax") -> Path:
    """Draws the learning curves of several runs, grouped by task and method.

    Args:
      run_dirs: run directories; those of one task, method and setting are seeds of each other.
      path: the image to write; its ending names the format (png, svg, pdf).
      band: as in ``over_seeds``.

    Returns:
      ``path``.

    Raises:
      ReportError: a run cannot be read or compared, or the image cannot be written.
    """
    curves = disambiguate(run_dirs, [read_curve(run_dir) for run_dir in run_dirs])
    if not curves:
        raise ReportError("no runs to compare")
    path = Path(path)
    with matplotlib_style():
        figure = _draw(curves, band)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=160, facecolor="white")
        except (OSError, ValueError) as error:
            raise ReportError(f"{path}: cannot be written: {error}") from None
    return path


def _draw(curves: list[Curve], band: str) -> Any:
    from matplotlib.figure import Figure  # slow to load

    tasks = sorted({c.task for c in curves})
    styles = method_styles({c.method for c in curves})
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    width, height = (8.8, 4.8) if len(styles) > CROWD else (4.6, 3.8)
    figure = Figure(figsize=(max(6.4, width * columns), height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    for task, axes in zip(tasks, grid.flat, strict=False):
        _panel(axes, [c for c in curves if c.task == task], styles, band)
    for axes in grid[:, 0]:
        axes.set_ylabel("Episode return")
    return figure
