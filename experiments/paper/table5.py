"""Table 5: ablations of COVR in CARLA, #HW highway, 100K steps; means as published, without stds.

    python experiments/paper/table5.py --endpoint localhost:2000 --vlm /models/Qwen2.5-VL-3B-Instruct

On the loopback server (without --endpoint) the numbers are no CARLA scores.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main, means

COVR = guided("covr", "sac")
TOP = (*COVR, "--covr.filter", "top", "--covr.top-percentile")
ELITE = ("--method", "sac", "--replay.sampling", "elite", "--replay.elite-share")
TABLE = Table(
    "Table 5: ablations",
    columns=(Column("ER", "carla_highway"), Column("DD", "carla_highway", "eval/DD")),
    rows=(
        Row("M1 random filter", "covr_sac_m1", (*COVR, "--covr.filter", "random"), means(144, 155)),
        Row("M2 top 80%", "covr_sac_m2", (*TOP, "80"), means(204, 214)),
        Row("M3 top 90%", "covr_sac_m3", (*TOP, "90"), means(217, 229)),
        Row("M4 top 95%", "covr_sac_m4", (*TOP, "95"), means(192, 203)),
        Row("M5 no z-score", "covr_sac_m5", (*COVR, "--covr.no-z-score"), means(210, 221)),
        Row("M6 reward for return", "covr_sac_m6", (*COVR, "--covr.score", "reward"), means(221, 231)),
        Row("M7 Q for return", "covr_sac_m7", (*COVR, "--covr.score", "q_value"), means(200, 212)),
        Row("M8 no RALW", "covr_sac_m8", (*COVR, "--covr.weights", "uniform"), means(204, 214)),
        Row("M9 random weights", "covr_sac_m9", (*COVR, "--covr.weights", "random"), means(184, 191)),
        Row("M10 80% of high return, no VLM", "sac_m10", (*ELITE, "0.8"), means(183, 195)),
        Row("M11 50% of high return, no VLM", "sac_m11", (*ELITE, "0.5"), means(175, 185)),
        Row("COVR", "covr_sac", COVR, means(248, 259)),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
