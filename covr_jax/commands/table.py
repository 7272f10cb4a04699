"""Final returns of finished runs as a table: a row per method, a column per task, mean ± std over the seeds.

    python experiments/table.py runs/*/*/seed*
    python experiments/table.py runs/*/*/seed* --output table.md          # or .csv, .json, .tex
    python experiments/table.py runs/*/*/seed* --against rad

The std is the population's, as in the report; the number of seeds is in brackets. A second table has the interquartile
means with their bootstrap intervals, and how the runs were made; cells of fewer than five seeds, and cells of runs that
were made differently, are warned of. Runs that have not finished are named and left out. `--metric` is any evaluation
metric, for example eval/DD, or `area`, the area under the curve of returns. `--against` prints how likely a run of each
method is better than one of the method named.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from covr_jax.commands import program
from covr_jax.report import ReportError
from covr_jax.report.names import disambiguate
from covr_jax.report.table import AREA, KINDS, improvements, markdown, read_final, render, summarise, warnings


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="+", help="run directories")
    shown = f"default: eval/episode_return; {AREA}: the area under its curve per env step"
    parser.add_argument("--metric", default="eval/episode_return", help=shown)
    parser.add_argument("--against", metavar="METHOD", help="a row of the table to compare the others with")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"file to write, {', '.join(KINDS)}")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; returns its exit status."""
    options = parse(arguments)
    try:
        finals = [read_final(run_dir, options.metric) for run_dir in options.run_dir]
        for run_dir, final in zip(options.run_dir, finals, strict=True):
            if final is None:
                state = "has diverged" if (run_dir / "diverged.json").exists() else "has not finished"
                print(f"{program()}: {run_dir} {state} and is left out", file=sys.stderr)
        finished = [(run_dir, final) for run_dir, final in zip(options.run_dir, finals, strict=True) if final]
        cells = summarise(disambiguate(*zip(*finished, strict=True)) if finished else [])
        for line in warnings(cells):
            print(f"{program()}: {line}", file=sys.stderr)
        print(render(cells, ".md"))
        if options.against:
            print("\n" + markdown(improvements(cells, options.against)))
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(render(cells, options.output.suffix) + "\n")
    except (ReportError, OSError) as error:
        print(f"{program()}: {error}", file=sys.stderr)
        return 2
    return 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    sys.exit(main())
