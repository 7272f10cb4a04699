"""The VLM alone after each round of fine-tuning, in CARLA, #HW highway: published -13 at round 0 and 97 at round 5.

    python experiments/paper/iterations.py --endpoint localhost:2000 --vlm /models/Qwen2.5-VL-3B-Instruct

After each round the VLM drives ``--vlm.return-episodes`` episodes by itself, which takes hours with a large model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from covr_jax.report.table import Cell, markdown
from experiments.paper.tables import Column, Row, Table, guided, main, unpublished

RUN = "covr_sac_iterations"
TABLE = Table(
    "The VLM alone, by round",
    columns=(Column("ER", "carla_highway"),),
    rows=(Row("COVR", RUN, (*guided("covr", "sac"), "--vlm.return-episodes", "10"), unpublished(1)),),
)
PUBLISHED = {0: -13.0, 5: 97.0}


def by_round(table: Table, seeds: list[int], root: Path) -> str:
    """Formats the VLM's own return after each round: mean and standard deviation over the seeds.

    Args:
      table: of the runs.
      seeds: of the runs; those that are missing or not as far yet are left out.
      root: directory of the runs.
    """
    task, found = table.columns[0].task, {}
    for seed in seeds:
        for path in (root / task / RUN / f"seed{seed}" / "vlm").glob("round_*/record.json"):
            record = json.loads(path.read_text())
            if record.get("vlm_return") is not None:
                found.setdefault(int(record["round"]), []).append(float(record["vlm_return"]))
    lines = [["round", "ER, paper", "ER, ours"]]
    for number in sorted(PUBLISHED.keys() | found.keys()):
        values, paper = found.get(number), PUBLISHED.get(number)
        cell = Cell(task, RUN, float(np.mean(values)), float(np.std(values)), len(values)) if values else None
        lines.append([str(number), "–" if paper is None else f"{paper:g}", cell.text(decimals=0) if cell else ""])
    return f"**{table.title}**\n\n{markdown(lines)}"


if __name__ == "__main__":
    main(TABLE, __doc__ or "", by_round)
