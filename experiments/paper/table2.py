"""Table 2: episode reward (ER) and driving distance (DD, m) in CARLA, #GP ghost pedestrian, 100K steps.

    python experiments/paper/table2.py --endpoint localhost:2000 --vlm /models/Qwen2.5-VL-3B-Instruct

Without --endpoint the runs are on the loopback server: those numbers are no CARLA scores and do not belong beside the
published ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main

TABLE = Table(
    "Table 2: #GP ghost pedestrian",
    columns=(Column("ER", "carla_ghost_pedestrian"), Column("DD", "carla_ghost_pedestrian", "eval/DD")),
    rows=(
        Row("SAC", "sac", ("--method", "sac"), ((38, 29), (40, 29))),
        Row("DeepMDP", "deepmdp", ("--method", "deepmdp"), ((82, 51), (85, 52))),
        Row("CURL", "curl", ("--method", "curl"), ((78, 52), (81, 53))),
        Row("DrQ", "drq", ("--method", "drq"), ((110, 68), (112, 69))),
        Row("SPR", "spr", ("--method", "spr"), ((62, 42), (66, 45))),
        Row("MLR", "mlr", ("--method", "mlr"), ((118, 50), (121, 51))),
        Row("PER", "sac_per", ("--method", "sac", "--replay.sampling", "prioritised"), ((51, 45), (54, 46))),
        Row("ERE", "sac_ere", ("--method", "sac", "--replay.sampling", "recent"), ((55, 50), (58, 53))),
        Row("ResAct", "resact", ("--method", "resact"), ((212, 54), (216, 55))),
        Row("VBE", "vbe_sac", guided("vbe", "sac"), ((9, 7), (18, 7))),
        Row("DPL", "dpl_sac", guided("dpl", "sac"), ((127, 51), (129, 52))),
        Row("APL", "apl_sac", guided("apl", "sac"), ((107, 54), (111, 55))),
        Row("VPF", "vpf_sac", guided("vpf", "sac"), ((81, 2), (82, 3))),
        Row("DGC-like (DGC)", "dgc_like", ("--method", "dgc_like"), ((146, 14), (169, 18))),
        Row("COVR", "covr_sac", guided("covr", "sac"), ((235, 89), (237, 89))),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
