"""Does the VLM help? Agents alone and with COVR, equal budgets: final return and area under the learning curve.

    python experiments/paper/bases.py --scale demo --seeds 1 2 3 4 5 --jobs 2
    python experiments/paper/bases.py --scale demo --rows RAD RAD+COVR --columns Cartpole --show

The paper compares them on #HW (Table 2) and on the suite (Table 3); here each pair has a probability of improvement.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.report.table import AREA, improvements, markdown
from experiments.paper.tables import Column, Row, Table, cells_of, finals, guided, main, unpublished

BASES = ("sac", "rad", "drq")
TASKS = {"Cartpole": "cartpole_swingup", "Reacher": "reacher_easy"}
NAMES = {"sac": "SAC", "rad": "RAD", "drq": "DrQ"}
TABLE = Table(
    "Agents alone and with COVR",
    columns=tuple(
        Column(f"{name}{label}", task, metric)
        for name, task in TASKS.items()
        for label, metric in (("", "eval/episode_return"), (" area", AREA))
    ),
    rows=tuple(
        row
        for base in BASES
        for row in (
            Row(NAMES[base], base, ("--method", base), unpublished(2 * len(TASKS))),
            Row(
                f"{NAMES[base]}+COVR",
                "covr" if base == "rad" else f"covr_{base}",  # as other tables have it
                guided("covr", base),
                unpublished(2 * len(TASKS)),
            ),
        )
    ),
)


def compared(table: Table, seeds: list[int], root: Path) -> str:
    """Formats the results, and how likely a run with COVR is better than one of its base alone."""
    found, parts = cells_of(table, seeds, root), [finals(table, seeds, root)]
    named = [cell._replace(task=column, method=row) for (row, column), cell in found.items()]
    rows: list[list[str]] = []
    for base in NAMES.values():
        pair = [cell for cell in named if cell.method in (base, f"{base}+COVR")]
        if {cell.method for cell in pair} == {base, f"{base}+COVR"}:
            _, *body = improvements(pair, base)
            rows += body
    if rows:
        parts.append(markdown([["column", "method", "better than its base: probability, 95% interval"], *rows]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main(TABLE, __doc__ or "", compared)
