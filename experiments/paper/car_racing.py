"""The appendix's CarRacing study, 100K environment steps, which the paper shows without numbers that we know of.

python experiments/paper/car_racing.py --vlm /models/Qwen2.5-VL-3B-Instruct --gpus 0
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main, unpublished

TABLE = Table(
    "CarRacing",
    columns=(Column("Return", "car_racing"),),
    rows=(
        *(
            Row(label, label.lower(), ("--method", label.lower()), unpublished(1))
            for label in ("SAC", "RAD", "DrQ", "CURL")
        ),
        *(
            Row(f"{label} + COVR", f"covr_{label.lower()}", guided("covr", label.lower()), unpublished(1))
            for label in ("SAC", "RAD")
        ),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
