"""The appendix's parameter analysis in CARLA, #HW highway: guidance weight and first fine-tuning interval.

    python experiments/paper/sensitivity.py --endpoint localhost:2000 --vlm /models/Qwen2.5-VL-3B-Instruct

The paper names its defaults (lambda 2, psi_0 5,000 env steps) and shows the rest in a figure: the values are ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main, means, unpublished

COVR = guided("covr", "sac")
WEIGHTS = ("0.5", "1", "4")
INTERVALS = ("2500", "10000", "20000")
TABLE = Table(
    "Parameter analysis",
    columns=(Column("ER", "carla_highway"), Column("DD", "carla_highway", "eval/DD")),
    rows=(
        *(
            Row(
                f"lambda {weight}", f"covr_sac_lambda{weight}", (*COVR, "--covr.guidance-weight", weight), unpublished()
            )
            for weight in WEIGHTS
        ),
        *(
            Row(f"psi_0 {steps}", f"covr_sac_psi{steps}", (*COVR, "--covr.psi-0", steps), unpublished())
            for steps in INTERVALS
        ),
        Row("lambda 2, psi_0 5000", "covr_sac", COVR, means(248, 259)),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
