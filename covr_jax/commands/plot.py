"""Rebuild the report of one or more runs; with several, also draw their learning curves into one image.

python experiments/plot.py runs/cartpole_swingup/covr/seed1
python experiments/plot.py runs/cartpole_swingup/*/seed* --output compare.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from covr_jax.commands import program
from covr_jax.report import ReportError, write_report
from covr_jax.report.compare import BANDS, write_comparison


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="+", help="run directories")
    output = "image of all runs: png, svg or pdf (default with several runs: compare.png)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=output)
    parser.add_argument("--band", choices=BANDS, default="minmax", help="shaded over the seeds (default: minmax)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; returns its exit status."""
    options = parse(arguments)
    compared = options.output or len(options.run_dir) > 1
    try:
        for run_dir in options.run_dir:
            try:
                print(write_report(run_dir))
            except OSError as error:
                if not compared:
                    raise
                print(f"{program()}: the report of {run_dir} stays as it is: {error}", file=sys.stderr)
        if compared:
            print(write_comparison(options.run_dir, options.output or Path("compare.png"), options.band))
    except (ReportError, OSError) as error:
        print(f"{program()}: {error}", file=sys.stderr)
        return 2
    return 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    sys.exit(main())
