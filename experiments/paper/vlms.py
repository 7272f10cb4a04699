"""The appendix's comparison of VLMs in CARLA, #HW highway; means as published, without stds.

    python experiments/paper/vlms.py --endpoint localhost:2000

The names below are hub ids: local copies are found where HF_HOME has them. A --vlm for all rows is not taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.paper.tables import Column, Row, Table, guided, main, means

COVR = guided("covr", "sac")
TABLE = Table(
    "VLMs",
    columns=(Column("ER", "carla_highway"), Column("DD", "carla_highway", "eval/DD")),
    rows=(
        Row("Qwen2-VL-2B", "covr_sac_qwen2_2b", (*COVR, "--vlm.name", "Qwen/Qwen2-VL-2B-Instruct"), means(236, 246)),
        Row("Qwen2.5-VL-3B", "covr_sac_qwen_3b", (*COVR, "--vlm.name", "Qwen/Qwen2.5-VL-3B-Instruct"), means(248, 259)),
        Row("LLaVA-1.5-7B", "covr_sac_llava_7b", (*COVR, "--vlm.name", "llava-hf/llava-1.5-7b-hf"), means(228, 244)),
    ),
)


if __name__ == "__main__":
    main(TABLE, __doc__ or "")
