"""What guidance can do at best: a VLM tuned on an expert guides from the start, with several weights of Eq. 4.

    python experiments/evaluate.py runs/expert --states train.npz
    python experiments/benchmark/expert_vlm.py train.npz --held-out held_out.npz --adapters adapters
    python experiments/paper/control.py --scale demo --adapter adapters/seed1/frames3 --vlm.frames 3 --seeds 1 2 3

``untuned`` rows have the embedded VLM without the expert's adapter, which answers with what it sees, not with actions:
what a VLM that knows nothing costs. ``gated`` rows let an answer guide only where the critics value it above the
policy's action; in the ``annealed`` row guidance ends after 70,000 env steps. Guidance counts the rows with an answer
only (``--covr.guidance-mean valid``), so that the weight is that of Eq. 4 however seldom the VLM is asked. The paper
has no such study.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.report.table import AREA
from experiments.paper.tables import Column, Row, Table, guided, main, unpublished

WEIGHTS = ("0.03", "0.1", "0.3", "1", "10", "100")
UNTUNED = ("0.1", "10")
GATED = ("--sac.prior-gate", "advantage")
ANNEALED = ("--covr.anneal-steps", "70000")  # about half of a run of 136,000


def _row(whose: str, weight: str, options: tuple[str, ...], method: str = "dpl") -> Row:
    name = f"{whose}, lambda {weight}"
    run = f"{method}_{whose}_{weight}".replace(" ", "_")
    given = (*guided(method, "rad"), "--covr.guidance-mean", "valid", "--covr.guidance-weight", weight, *options)
    return Row(name, run, given, unpublished())


def table_of(adapter: str | None) -> Table:
    """Returns the table; None: the expert's rows are missing."""
    expert = ("--vlm.adapter", adapter) if adapter else None
    rows = [Row("RAD", "rad", ("--method", "rad"), unpublished())]
    if expert:
        rows += [_row("expert", weight, expert) for weight in WEIGHTS]
        rows += [_row("expert gated", "10", (*expert, *GATED))]
        rows += [_row("expert annealed", "10", (*expert, *ANNEALED), "apl")]
    rows += [_row("untuned", weight, ()) for weight in UNTUNED]
    rows += [_row("untuned gated", "10", GATED)]
    return Table(
        "Positive control of Eq. 4",
        columns=(Column("Cartpole", "cartpole_swingup"), Column("Cartpole area", "cartpole_swingup", AREA)),
        rows=tuple(rows),
    )


TABLE = table_of("ADAPTER")  # as it is listed

if __name__ == "__main__":
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--adapter", metavar="DIR", help="of a VLM tuned on an expert; without it the rows are left out"
    )
    own, _ = parent.parse_known_args()
    main(table_of(own.adapter), __doc__ or "", parent=parent)
