"""The appendix's hard DMControl tasks, 500K environment steps.

python experiments/paper/hard.py --vlm /models/Qwen2.5-VL-3B-Instruct --gpus 0
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main

TABLE = Table(
    "Hard tasks, 500K steps",
    columns=(
        Column("Hopper hop", "hopper_hop"),
        Column("Walker run", "walker_run"),
        Column("Pendulum", "pendulum_swingup"),
    ),
    rows=(
        Row("TACO", "taco_500k", ("--method", "taco"), ((112, 42), (355, None), (485, 167))),
        Row("ResAct", "resact_500k", ("--method", "resact"), ((99, 49), (467, None), (618, 380))),
        Row("COVR", "covr_500k", guided("covr", "rad"), ((188, 9), (485, 25), (792, 82))),
    ),
    options=("--total-steps", "500000"),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
