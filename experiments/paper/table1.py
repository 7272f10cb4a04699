"""Table 1: episode reward (ER) and driving distance (DD, m) in CARLA, #HW highway, 100K steps.

    python experiments/paper/table1.py --endpoint localhost:2000 --vlm /models/Qwen2.5-VL-3B-Instruct

Without --endpoint the runs are on the loopback server: those numbers are no CARLA scores and do not belong beside the
published ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main

TABLE = Table(
    "Table 1: #HW highway",
    columns=(Column("ER", "carla_highway"), Column("DD", "carla_highway", "eval/DD")),
    rows=(
        Row("SAC", "sac", ("--method", "sac"), ((69, 46), (91, 56))),
        Row("DeepMDP", "deepmdp", ("--method", "deepmdp"), ((155, 84), (167, 89))),
        Row("CURL", "curl", ("--method", "curl"), ((135, 63), (152, 70))),
        Row("DrQ", "drq", ("--method", "drq"), ((115, 51), (127, 55))),
        Row("SPR", "spr", ("--method", "spr"), ((84, 53), (100, 61))),
        Row("MLR", "mlr", ("--method", "mlr"), ((106, 69), (130, 80))),
        Row("PER", "sac_per", ("--method", "sac", "--replay.sampling", "prioritised"), ((159, 68), (175, 73))),
        Row("ERE", "sac_ere", ("--method", "sac", "--replay.sampling", "recent"), ((117, 89), (132, 95))),
        Row("ResAct", "resact", ("--method", "resact"), ((227, 36), (236, 40))),
        Row("VBE", "vbe_sac", guided("vbe", "sac"), ((-11, 5), (11, 4))),
        Row("DPL", "dpl_sac", guided("dpl", "sac"), ((113, 63), (124, 67))),
        Row("APL", "apl_sac", guided("apl", "sac"), ((146, 74), (155, 76))),
        Row("VPF", "vpf_sac", guided("vpf", "sac"), ((91, 24), (99, 24))),
        Row("DGC-like (DGC)", "dgc_like", ("--method", "dgc_like"), ((208, 13), (234, 15))),
        Row("COVR", "covr_sac", guided("covr", "sac"), ((248, 81), (259, 85))),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
