"""The tables of the paper: their definition, the runs that fill them, and the results beside the published ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from covr_jax.commands import cli, sweep
from covr_jax.commands.launch.options import add_options, read_options
from covr_jax.commands.launch.process import command_of
from covr_jax.config import ConfigError
from covr_jax.presets import PRESETS
from covr_jax.report import ReportError
from covr_jax.report.table import Cell, details, markdown, read_final, summarise, warnings

OTHERS = """Options that are not listed here go to every train.py, for example --vlm PATH or --endpoint HOST:PORT.
What a row of the table sets stays as it is there, except for its length at a reduced scale. The same command goes on
where it was stopped."""
SCALES = ("paper", "throughput", "cpu", "demo")  # presets
_REDUCED = SCALES[2:]  # smaller than what the paper's numbers are of
Published = tuple[float, float | None]  # mean, std where there is one


class Row(NamedTuple):
    """A row of a table."""

    label: str  # as in the paper
    run: str | None  # directory of its runs below the task's; None for a method that this project does not have
    options: tuple[str, ...]  # options of train.py
    published: tuple[Published | None, ...]  # one per column; None: the paper names no number


class Column(NamedTuple):
    """A task and the metric that the column reports."""

    label: str
    task: str
    metric: str = "eval/episode_return"


class Table(NamedTuple):
    """A table of the paper."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    options: tuple[str, ...] = ()  # options of train.py for all rows


def part_of(table: Table, rows: list[str] | None, columns: list[str] | None) -> Table:
    """Returns a table of some of the rows and columns; None: all of them.

    Raises:
      ConfigError: an unknown label; the message lists the known ones.
    """

    def chosen(known: list[str], asked: list[str] | None, what: str) -> list[int]:
        if unknown := [label for label in asked or () if label not in known]:
            raise ConfigError(f"{table.title} has no {what} {unknown[0]!r}; it has {', '.join(known)}")
        return [k for k, label in enumerate(known) if asked is None or label in asked]

    kept = chosen([row.label for row in table.rows], rows, "row")
    shown = chosen([column.label for column in table.columns], columns, "column")
    return table._replace(
        columns=tuple(table.columns[k] for k in shown),
        rows=tuple(table.rows[k]._replace(published=tuple(table.rows[k].published[i] for i in shown)) for k in kept),
    )


def guided(method: str, base: str) -> tuple[str, ...]:
    """Returns the options of a guided method on a base agent."""
    return ("--method", method, "--base", base)


def unpublished(columns: int = 2) -> tuple[None, ...]:
    """Returns what the paper says of settings that it studies without naming numbers."""
    return (None,) * columns


def means(*values: float) -> tuple[Published, ...]:
    """Returns published means that have no std."""
    return tuple((value, None) for value in values)


def jobs_of(
    table: Table,
    seeds: list[int],
    root: Path,
    options: list[str],
    clip: str | None = None,
    scale: str = SCALES[0],
) -> list[sweep.Job]:
    """Lists the runs of a table, seeds outermost; tables that need the same run share its directory.

    Args:
      table: the table.
      seeds: seeds of each row.
      root: directory of all runs.
      options: options of train.py for all runs; those of the table and of its rows take precedence.
      clip: model of DGC-like, which cannot use the ``--vlm`` of the other rows.
      scale: one of ``SCALES``; a reduced one decides how long the runs are.
    """
    options = options if scale == SCALES[0] else ["--preset", scale, *options]
    _, without_vlm = cli.split_option(cli.split_option(options, "vlm")[1], "vlm.name")
    tasks = list(dict.fromkeys(column.task for column in table.columns))
    jobs = []
    for seed in seeds:
        for task in tasks:
            for row in table.rows:
                if row.run is None:
                    continue
                run_dir = root / task / row.run / f"seed{seed}"
                given = without_vlm if {"dgc_like", "--vlm.name"} & set(row.options) else options
                if "dgc_like" in row.options and clip:
                    given = [*given, "--vlm.name", clip]
                fixed = cli.without((*table.options, *row.options), ["--total-steps"] if scale in _REDUCED else [])
                given = cli.without(given, [cli.option_name(argument) for argument in fixed])
                arguments = ["--task", task, *given, *fixed, "--seed", str(seed)]
                jobs.append(sweep.Job(run_dir, [*arguments, "--run-dir", str(run_dir)]))
    return jobs


def cells_of(table: Table, seeds: list[int], root: Path) -> dict[tuple[str, str], Cell]:
    """Reads the results of the finished runs, by (row, column) label."""
    found = {}
    for row in table.rows:
        for column in table.columns if row.run else ():
            folders = [root / column.task / str(row.run) / f"seed{seed}" for seed in seeds]
            finals = [read_final(folder, column.metric) for folder in folders if (folder / "result.json").exists()]
            if finals := [final for final in finals if final]:
                found[row.label, column.label] = summarise(finals)[0]
    return found


def render(table: Table, cells: dict[tuple[str, str], Cell]) -> str:
    """Formats a table as Markdown, with two columns (``paper`` and ``ours``) per column of the paper."""
    lines = [["", *(f"{column.label}, {whose}" for column in table.columns for whose in ("paper", "ours"))]]
    for row in table.rows:
        line = [row.label]
        for column, published in zip(table.columns, row.published, strict=True):
            cell = cells.get((row.label, column.label))
            line.append(_published(published))
            line.append("not built" if row.run is None else "" if cell is None else shown(cell))
        lines.append(line)
    return f"**{table.title}**\n\n{markdown(lines)}"


def _published(value: Published | None) -> str:
    if value is None:
        return "–"
    mean, std = value
    return f"{mean:g}" if std is None else f"{mean:g} ± {std:g}"


def shown(cell: Cell) -> str:
    """Formats a cell; a number of the loopback server says so."""
    return cell.text(decimals=0) + (" loopback" if cell.method.endswith("(loopback)") else "")


def finals(table: Table, seeds: list[int], root: Path) -> str:
    """Formats the final evaluations of the finished runs: the table, intervals and origins, and what to beware of."""
    found = cells_of(table, seeds, root)
    named = [cell._replace(task=column, method=row) for (row, column), cell in found.items()]
    parts = [render(table, found)]
    if named:
        parts += [markdown(details(named)), "\n".join(f"* {line}" for line in warnings(named))]
    return "\n\n".join(part for part in parts if part)


def reduction(scale: str) -> str:
    """Says what a reduced scale reduces; empty for the paper's."""
    if scale not in _REDUCED:
        return ""
    small, full = PRESETS[scale](), PRESETS[SCALES[0]]()
    sizes = ", ".join(
        f"{of(small):,} {name} (paper: {of(full):,})"
        for name, of in (
            ("env steps", lambda config: config.total_steps),
            ("pixels", lambda config: config.env.image_size),
            ("units", lambda config: config.sac.hidden_dim),
        )
    )
    return f"Scale `{scale}`, a reduced budget: {sizes}. These are no results beside the published ones."


def _parser(description: str, parent: argparse.ArgumentParser | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"{description}\n\n{OTHERS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[parent] if parent else [],
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED")
    shown = "size of the runs, the preset of this name; reduced ones are named in the output"
    parser.add_argument("--scale", default=SCALES[0], choices=SCALES, help=shown)
    shown = "a run goes to ROOT/TASK/METHOD/seedSEED; default: runs/SCALE"
    parser.add_argument("--root", type=Path, default=None, help=shown)
    parser.add_argument("--rows", nargs="+", metavar="LABEL", help="only these rows")
    parser.add_argument("--columns", nargs="+", metavar="LABEL", help="only these columns")
    parser.add_argument("--clip", metavar="MODEL", help="of DGC-like, in the tables that have it; --vlm is the others'")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--show", action="store_true", help="print the table of what has finished and run nothing")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Markdown file to write")
    add_options(parser)
    return parser


def main(
    table: Table,
    description: str,
    show: Callable[[Table, list[int], Path], str] = finals,
    *,
    measure: Callable[[list[sweep.Job]], None] | None = None,
    parent: argparse.ArgumentParser | None = None,
) -> None:
    """Runs the command line of a table's script.

    Args:
      table: what is run.
      description: of the script.
      show: formats what the finished runs of some seeds below a root have found.
      measure: measures what the table shows besides the runs' own evaluations, after the runs.
      parent: options of the script's own, which it has read already.
    """
    own, options = _parser(description, parent).parse_known_args()
    root = own.root or Path("runs") / own.scale

    def run() -> int:
        sweep.refuse_own(options)
        if cli.split_option(options, "preset")[0]:
            raise ConfigError(f"give --scale {' or '.join(SCALES)} instead of --preset")
        some = part_of(table, own.rows, own.columns)
        jobs = jobs_of(some, own.seeds, root, options, own.clip, own.scale)
        if own.list:
            print("\n".join(command_of(job) for job in jobs))
            return 0
        failed = []
        if not own.show:
            failed = sweep.run_all(jobs, read_options(own), root)
            if measure:
                measure([job for job in jobs if job not in failed])
        text = "\n\n".join(part for part in (show(some, own.seeds, root), reduction(own.scale)) if part)
        print(text)
        if own.output:
            own.output.parent.mkdir(parents=True, exist_ok=True)
            own.output.write_text(text + "\n")
        for job in failed:
            print(f"failed: {job.run_dir}, see its train.log", file=sys.stderr)
        return 1 if failed else 0

    cli.guarded(run, ConfigError, ReportError)
