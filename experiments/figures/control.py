"""Draws docs/images/control.png: what a VLM can learn of an expert, and what guidance by it does.

    python experiments/figures/control.py

Left: error of the embedded VLM's actions on an expert's states, asked about one frame and about three
(``experiments/benchmark/expert_vlm.py``). Right: RAD alone, and guided from the start by that VLM, with several weights
of Eq. 4 (``experiments/paper/control.py``); thick lines are means over seeds.
"""

from __future__ import annotations

import sys
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


def draw_guided(axes: Any) -> None:
    """Learning curves by weight: RAD alone, guided by the tuned VLM, and by the untuned one."""
    for group, colours in (
        ("rad", (REFERENCE,)),
        ("dpl_expert", ("#9fb2f2", POLICY, "#12246b")),
        ("dpl_untuned", (VLM,)),
    ):
        folders = sorted((path for path in RUNS.glob(f"{group}*") if "gated" not in path.name), key=weight_of)
        for folder, colour in zip(folders, np.resize(np.array(colours), len(folders)), strict=True):
            curves = [read_curve(path, "eval/episode_return") for path in sorted(folder.glob("seed*/metrics.jsonl"))]
            label = "RAD alone" if group == "rad" else f"{group.removeprefix('dpl_')}, λ {weight_of(folder):g}"
            for x, y in curves if len(curves) > 1 else ():
                axes.plot(x / 1e3, y, color=colour, lw=0.6, alpha=0.5)
            x, y = curves[0][0], np.mean([y for _, y in curves], axis=0)
            axes.plot(x / 1e3, y, color=colour, lw=2, label=f"{label} ({len(curves)})")
    axes.set(
        title="RAD guided from the start (runs in brackets)",
        xlabel="thousand env steps",
        ylabel="episode return",
        ylim=(0, 400),
    )
    axes.legend(loc="lower right", fontsize=8)


def weight_of(folder: Path) -> float:
    """λ of a run directory's name, 0 without one."""
    last = folder.name.rpartition("_")[2]
    return float(last) if last.replace(".", "").isdigit() else 0.0


def draw(output: Path) -> None:
    """Draws both panels into one file."""
    draw_panels((draw_expert, draw_guided), output, figsize=(10, 3.9), width_ratios=(2, 3))


if __name__ == "__main__":
    raise SystemExit(run(draw, OUTPUT, __doc__))
