"""Copies what a finished run found, without weights and images, to a place where it can be committed.

    python experiments/record.py --root runs/demo runs/demo/cartpole_swingup/rad/seed1 --to experiments/results/evidence

A copy is a small run directory at the same place below ``--to``: ``table.py`` and ``plot.py`` read it as any other. It
has the configuration, the result with its command, every tenth of the rows with losses and all others, and the records
of the rounds without their lists. The directory of the runs becomes ``runs``, also in names of adapters below it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from covr_jax.commands import cli
from covr_jax.io.files import to_json, write_json, write_text
from covr_jax.io.metrics import read_metrics
from covr_jax.report import ReportError
from experiments.benchmark import measure

EVERY = 10  # rows with losses of which one is kept


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns every tenth of the rows with losses, and all others: evaluations and rounds; in order."""
    of_training = [row for row in rows if any(name.startswith("losses/") for name in row)]
    left_out = {id(row) for k, row in enumerate(of_training) if k % EVERY}
    return [row for row in rows if id(row) not in left_out]


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the numbers and words of a round's record."""
    return {name: value for name, value in record.items() if not isinstance(value, (list, dict))}


def copy(run_dir: Path, root: Path, to: Path, hardware: str) -> Path:
    """Copies one run.

    Args:
      run_dir: of the run.
      root: directory of several runs, which holds it.
      to: where the copy goes, below the path of the run in ``root``.
      hardware: what the run was made on.

    Returns:
      The directory of the copy.

    Raises:
      ReportError: the run has not finished, has diverged, or is not below ``root``.
    """
    if not (run_dir / "result.json").exists() or (run_dir / "diverged.json").exists():
        raise ReportError(f"{run_dir}: not a finished run")
    if root not in run_dir.parents:
        raise ReportError(f"{run_dir}: not below {root}")
    place = run_dir.relative_to(root)
    target = to / place
    target.mkdir(parents=True, exist_ok=True)
    result, config = (
        json.loads((run_dir / name).read_text().replace(f"{root}/", "runs/")) for name in ("result.json", "config.json")
    )
    write_json(target / "result.json", result | {"hardware": hardware})
    write_json(target / "config.json", config)
    rows = thinned(read_metrics(run_dir / "metrics.jsonl"))
    write_text(target / "metrics.jsonl", "".join(to_json(row) + "\n" for row in rows))
    for path in sorted((run_dir / "vlm").glob("round_*/record.json")):
        folder = target / "vlm" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / path.name, plain(json.loads(path.read_text())))
    return target


def main() -> int:
    """Copies the runs of the command line."""
    parser = argparse.ArgumentParser(
        prog="record.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN", help="directory of a finished run")
    parser.add_argument("--root", type=Path, required=True, help="directory of the runs, which the copies leave out")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the copies go")
    parser.add_argument("--beside", default="", help="what else the machine did, e.g. 'other jobs beside'")
    own = parser.parse_args()
    found = measure.identity()["hardware"]
    hardware = f"{found['cores']} processors of {found['cpu']}{', ' + own.beside if own.beside else ''}"
    for run_dir in own.run_dirs:
        print(copy(run_dir, own.root, own.to, hardware))
    return 0


if __name__ == "__main__":
    cli.guarded(main, ReportError)
