"""What the paper leaves open, and its ablations, on one task of the suite at a size that a CPU trains.

    python experiments/paper/readings.py --scale demo --seeds 1 2 3 --jobs 2

M1 to M11 are the ablations of Table 5, which the paper makes in CARLA. The other rows take the other reading of a
sentence that can be read in two ways; docs/equations.md says which one is the default and why.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.report.table import AREA
from experiments.paper import table5
from experiments.paper.tables import Column, Row, Table, guided, main, unpublished

COVR = guided("covr", "rad")
READINGS = {
    "truncation bootstrap": ("--covr.truncation", "bootstrap"),
    "weight norm maxabs": ("--covr.weight-norm", "maxabs"),
    "weight norm rank": ("--covr.weight-norm", "rank"),
    "exploration literal": ("--covr.exploration", "literal"),
    "exploration normalised": ("--covr.exploration", "normalised"),
    "frames 3": ("--vlm.frames", "3"),
    # Apart from the mean, the first is what the preset demo does, the second what all others do.
    "no hold, guidance mean valid": ("--vlm.no-hold", "--covr.guidance-mean", "valid"),
    "hold, guidance mean valid": ("--vlm.hold", "--covr.guidance-mean", "valid"),
}
_ON_RAD = {"covr": COVR, "sac": ("--method", "rad")}


def _on_rad(row: Row) -> Row:
    """An ablation of Table 5 with RAD in place of SAC."""
    method = row.options[1]
    rest = row.options[4:] if method == "covr" else row.options[2:]
    run = str(row.run).replace("covr_sac", "covr").replace("sac_", "rad_")
    return Row(row.label, run, (*_ON_RAD[method], *rest), unpublished())


TABLE = Table(
    "Ablations and open readings",
    columns=(Column("Cartpole", "cartpole_swingup"), Column("Cartpole area", "cartpole_swingup", AREA)),
    rows=(
        Row("RAD", "rad", ("--method", "rad"), unpublished()),
        *(_on_rad(row) for row in table5.TABLE.rows),
        *(
            Row(label, f"covr_{label.replace(',', '').replace(' ', '_')}", (*COVR, *options), unpublished())
            for label, options in READINGS.items()
        ),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
