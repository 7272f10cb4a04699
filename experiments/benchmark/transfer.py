"""How much of a policy's return is left in dm_control's own version of its task: its starts, physics and pictures.

``python experiments/benchmark/transfer.py runs/cartpole_swingup/rad/seed1 --output transfer.json``

dm_control draws with OpenGL, which needs OSMesa or EGL. Per run, a row for our task and one for dm_control's, each with
the return of as many episodes; ``share`` is the return over that in our task.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from covr_jax.commands.evaluate import BACKENDS, measure
from covr_jax.config import ConfigError
from experiments.benchmark import measure as records


def rows_of(run_dir: Path, episodes: int) -> list[dict[str, Any]]:
    """Evaluates a run's newest policy in both versions of its task."""
    names = ("task", "method", "seed", "env_steps", "backend", "renderer", "episodes", "return", "return_std")
    found = [measure(run_dir, episodes, backend=backend) for backend in BACKENDS]
    return [{name: row[name] for name in names} | {"share": row["return"] / found[0]["return"]} for row in found]


def main() -> int:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="+", help="directories that train.py wrote")
    parser.add_argument("--episodes", type=int, default=10, help="of each evaluation")
    parser.add_argument("--output", type=Path, help="JSON file for the table")
    arguments = parser.parse_args()
    from covr_jax import runtime

    cli.import_quietly(warp=False)
    runtime.configure()
    rows = [row for run_dir in arguments.run_dir for row in rows_of(run_dir, arguments.episodes)]
    print(records.table(rows))
    if arguments.output:
        records.write(arguments.output, rows)
    return 0


if __name__ == "__main__":
    from covr_jax.io.checkpoint import CheckpointError

    cli.guarded(main, ConfigError, CheckpointError)
