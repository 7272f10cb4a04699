"""Draws docs/images/control.png: what a VLM can learn of an expert, and what guidance by it does.

    python experiments/figures/control.py

Left: error of the embedded VLM's actions on an expert's states, asked about one frame and about three
(``experiments/benchmark/expert_vlm.py``). Then RAD alone, and guided with weight 10 of Eq. 4 by that VLM and by the
untuned one (``experiments/paper/control.py``); thick lines are means over seeds, thin ones the seeds.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.figures.results import (
    INK,
    POLICY,
    REFERENCE,
    RESULTS,
    ROOT,
    VLM,
    draw_panels,
    read_curve,
    read_json,
    run,
)

OUTPUT = ROOT / "docs" / "images" / "control.png"
RUNS, EXPERT = RESULTS / "control" / "cartpole_swingup", RESULTS / "vlm" / "expert.json"


def draw_expert(axes: Any) -> None:
    """Bars of the errors, and lines at those of constant answers."""
    rows = read_json(EXPERT)["rows"]
    for k, row in enumerate(rows):
        axes.bar(2 * k, row["untuned"], color=REFERENCE, label="untuned" if k == 0 else None)
        axes.bar(2 * k + 0.8, row["error"], color=VLM, label="tuned on the expert" if k == 0 else None)
    axes.axhline(rows[0]["constant"], color=INK, lw=1, ls="--", label="best constant answer")
    names = [f"{row['frames']} frame{'s' if row['frames'] > 1 else ''}" for row in rows]
    axes.set_xticks([2 * k + 0.4 for k in range(len(rows))], names)
    axes.set(title="What the VLM knows of an expert", ylabel="mean |answer - expert's action|", ylim=(0, 0.64))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")


def draw_guided(axes: Any, title: str, rows: dict[str, tuple[str, str]]) -> None:
    """Learning curves of rows of the table, by their run directories' names; each has a label and a colour."""
    for name, (label, colour) in rows.items():
        paths = sorted((RUNS / name).glob("seed*/metrics.jsonl"))
        curves = [read_curve(path, "eval/episode_return") for path in paths]
        for x, y in curves:
            axes.plot(x / 1e3, y, color=colour, lw=0.6, alpha=0.5)
        x, y = curves[0][0], np.mean([y for _, y in curves], axis=0)
        axes.plot(x / 1e3, y, color=colour, lw=2, label=f"{label} ({len(curves)})")
    axes.set(title=title, xlabel="thousand env steps", ylabel="episode return", ylim=(0, 500))
    axes.legend(loc="upper left", fontsize=8)


ALONE = {"rad": ("RAD alone", REFERENCE)}
BY_EXPERT = ALONE | {
    "dpl_expert_10": ("always", POLICY),
    "dpl_expert_gated_10": ("gated by the critics", "#9fb2f2"),
    "apl_expert_annealed_10": ("until 70,000", "#12246b"),
}
BY_UNTUNED = ALONE | {"dpl_untuned_10": ("always", VLM), "dpl_untuned_gated_10": ("gated by the critics", POLICY)}


def draw(output: Path) -> None:
    """Draws the panels into one file."""
    by_expert = partial(draw_guided, title="Guided by a VLM that knows an expert", rows=BY_EXPERT)
    by_untuned = partial(draw_guided, title="Guided by a VLM that knows nothing", rows=BY_UNTUNED)
    draw_panels((draw_expert, by_expert, by_untuned), output, figsize=(13, 3.9), width_ratios=(2, 3, 3))


if __name__ == "__main__":
    raise SystemExit(run(draw, OUTPUT, __doc__))
