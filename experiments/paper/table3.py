"""Table 3: DMControl, 100K environment steps, three base agents with and without COVR.

python experiments/paper/table3.py --vlm /models/Qwen2.5-VL-3B-Instruct --gpus 0
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main

SUITE = (
    Column("Cartpole", "cartpole_swingup"),
    Column("Reacher", "reacher_easy"),
    Column("Cheetah", "cheetah_run"),
    Column("Walker", "walker_walk"),
    Column("Finger", "finger_spin"),
    Column("Ball in cup", "ball_in_cup_catch"),
)
TABLE = Table(
    "Table 3: COVR on three base agents",
    columns=SUITE,
    rows=(
        Row(
            "SAC",
            "sac",
            ("--method", "sac"),
            ((237, 49), (239, 183), (118, 13), (95, 19), (230, 194), (85, 130)),
        ),
        Row(
            "SAC + COVR",
            "covr_sac",
            guided("covr", "sac"),
            ((740, 108), (246, 345), (156, 29), (194, 57), (247, 51), (185, 331)),
        ),
        Row(
            "DeepMDP",
            "deepmdp",
            ("--method", "deepmdp"),
            ((389, 44), (471, 173), (306, 25), (384, 197), (509, 72), (704, 24)),
        ),
        Row(
            "DeepMDP + COVR",
            "covr_deepmdp",
            guided("covr", "deepmdp"),
            ((793, 26), (461, 443), (352, 35), (397, 71), (653, 18), (757, 169)),
        ),
        Row(
            "RAD",
            "rad",
            ("--method", "rad"),
            ((694, 28), (734, 87), (364, 38), (552, 87), (813, 65), (825, 49)),
        ),
        Row(
            "RAD + COVR",
            "covr",
            guided("covr", "rad"),
            ((872, 2), (969, 18), (504, 13), (802, 25), (976, 9), (960, 23)),
        ),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
