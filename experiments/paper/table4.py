"""Table 4: DMControl, 100K environment steps, COVR (on RAD) beside other methods; means as published, without stds.

    python experiments/paper/table4.py --vlm /models/Qwen2.5-VL-3B-Instruct --gpus 0

PlayVirtual, MaDi, PSRL, Dreamer and PlaNet are shown as published: this project does not have them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.table3 import SUITE
from experiments.paper.tables import Row, Table, guided, main, means

TABLE = Table(
    "Table 4: COVR beside other methods",
    columns=SUITE,
    rows=(
        Row("CURL", "curl", ("--method", "curl"), means(582, 538, 299, 403, 767, 769)),
        Row("DrQ", "drq", ("--method", "drq"), means(759, 601, 344, 612, 901, 913)),
        Row("SVEA", "svea", ("--method", "svea"), means(727, 811, 375, 747, 859, 915)),
        Row("PlayVirtual", None, (), means(816, 785, 474, 460, 915, 929)),
        Row("TACO", "taco", ("--method", "taco"), means(782, 821, 402, 601, 876, 902)),
        Row("MLR", "mlr", ("--method", "mlr"), means(806, 866, 482, 643, 907, 933)),
        Row("MaDi", None, (), means(704, 766, 432, 574, 810, 884)),
        Row("PSRL", None, (), means(849, 621, 398, 595, 882, 922)),
        Row("ResAct", "resact", ("--method", "resact"), means(819, 917, 503, 772, 974, 948)),
        Row("Dreamer", None, (), means(326, 314, 235, 277, 341, 246)),
        Row("PlaNet", None, (), means(563, 82, 165, 224, 560, 0)),
        Row("VBE", "vbe", guided("vbe", "rad"), means(178, 94, 3, 26, 0, 49)),
        Row("DPL", "dpl", guided("dpl", "rad"), means(776, 224, 255, 209, 815, 751)),
        Row("APL", "apl", guided("apl", "rad"), means(820, 292, 367, 696, 839, 905)),
        Row("VPF", "vpf", guided("vpf", "rad"), means(749, 162, 127, 132, 0, 0)),
        Row("COVR", "covr", guided("covr", "rad"), means(872, 969, 504, 802, 976, 960)),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
