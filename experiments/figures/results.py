"""Draws docs/images/results.png from the committed results under experiments/results.

    python experiments/figures/results.py
    python experiments/figures/results.py --output results.png

Left: ``make demo``, five seeds: its policy, the VLM alone, and the base alone. Middle: every method at the size of
``--preset cpu``, three seeds. Right: RAD, one seed, at the paper's length and learner, beside the published number.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
OUTPUT = ROOT / "docs" / "images" / "results.png"

POLICY, VLM, REFERENCE, INK, SOFT = "#2f55d4", "#c26a0a", "#7a8394", "#161b26", "#5b6475"  # as in the reports
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef3",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
DEMO, DEMO_SEEDS = RESULTS / "demo" / "cartpole_swingup", (1, 2, 3, 4, 5)
BASE = RESULTS / "demo_paired" / "cartpole_swingup"  # the base has not been run since convolutions round differently
PUBLISHED_RAD = (694.0, 28.0)  # Table 3, cartpole_swingup at 100K environment steps: mean, std


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_curve(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one metric of a metrics.jsonl.

    Returns:
      env steps f64[T] and values f64[T] of the rows that hold the metric.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get(name) is not None]
    return np.array([row["env_steps"] for row in rows], float), np.array([row[name] for row in rows], float)


def final_returns(directory: Path) -> dict[str, list[float]]:
    """Final returns of the runs ``<method>/seed<n>`` under a directory, by method; "random" holds every run's own."""
    found: dict[str, list[float]] = {"random": []}
    for path in sorted(directory.glob("*/seed*/result.json")):
        result = read_json(path)
        found.setdefault(path.parts[-3], []).append(result["final_return"])
        found["random"].append(result["random_return"])
    return found


def draw_demo(axes: Any) -> None:
    """The demo runs and their base alone: returns of the policies, and of the VLM alone, by env steps."""
    for runs, name, color, label in (
        (BASE / "rad", "eval/episode_return", REFERENCE, "policy of RAD alone"),
        (DEMO / "covr", "eval/episode_return", POLICY, "policy of COVR on RAD"),
        (DEMO / "covr", "vlm/prior_return", VLM, "VLM alone, after each round"),
    ):
        curves = [read_curve(runs / f"seed{seed}" / "metrics.jsonl", name) for seed in DEMO_SEEDS]
        marker: dict[str, Any] = {"marker": "o", "ms": 3} if color == VLM else {}
        for x, y in curves:
            axes.plot(x / 1e3, y, color=color, lw=0.7, alpha=0.5, **marker)
        if color != VLM:
            axes.plot(curves[0][0] / 1e3, np.mean([y for _, y in curves], axis=0), color=color, lw=2.2, label=label)
        else:
            axes.plot([], [], color=color, lw=0.7, **marker, label=label)
    random = np.mean([read_json(DEMO / f"covr/seed{seed}/result.json")["random_return"] for seed in DEMO_SEEDS])
    axes.axhline(random, color=REFERENCE, ls="--", lw=1, label="random policy")
    axes.set(
        title="make demo: 5 seeds, thick: their mean",
        xlabel="thousand env steps",
        ylabel="episode return",
        ylim=(0, 900),
    )
    axes.legend(loc="upper left")


def draw_methods(axes: Any) -> None:
    """Mean and std over the seeds of the final returns of every method."""
    finals = final_returns(RESULTS / "methods" / "cartpole_swingup")
    random = finals.pop("random")
    names = sorted(finals, key=lambda name: float(np.mean(finals[name])))
    for i, name in enumerate(names):
        color = VLM if name in ("covr", "dpl", "apl", "dgc_like") else POLICY
        axes.barh(i, np.mean(finals[name]), color=color, alpha=0.3, height=0.7)
        axes.plot(finals[name], [i] * len(finals[name]), "o", color=color, ms=3.5)
    axes.axvline(float(np.mean(random)), color=REFERENCE, ls="--", lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set(title="--preset cpu: 60K env steps, dots are 3 seeds", xlabel="final episode return")
    axes.grid(axis="y", visible=False)


def draw_paper_size(axes: Any) -> None:
    """RAD at the paper's length, one seed, beside the published mean and std."""
    path = RESULTS / "learning" / "cartpole_swingup" / "rad" / "seed1"
    x, y = read_curve(path / "metrics.jsonl", "eval/episode_return")
    axes.plot(x / 1e3, y, color=POLICY, lw=1.6, marker="o", ms=3.5, label="RAD here, 1 seed, 78 pixels")
    mean, std = PUBLISHED_RAD
    axes.axhspan(mean - std, mean + std, color=REFERENCE, alpha=0.2, lw=0)
    axes.axhline(mean, color=REFERENCE, lw=1, ls="--", label="RAD as published at 100K, 3 seeds")
    axes.set(title="--preset paper: RAD, 100K env steps", xlabel="thousand env steps", ylim=(0, 860))
    axes.legend(loc="lower right")


def draw(output: Path) -> None:
    """Draws all panels into one file."""
    title = "cartpole_swingup from pixels"
    draw_panels((draw_demo, draw_methods, draw_paper_size), output, title=title, figsize=(12, 3.9))


def draw_panels(
    panels: Sequence[Callable[[Any], None]], output: Path, *, title: str | None = None, **sizes: Any
) -> None:
    """Draws panels side by side into one file.

    Args:
      panels: each draws on the axes that it is given.
      output: PNG file to write.
      title: above all of them.
      **sizes: arguments of ``pyplot.subplots``.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(LOOK):
        figure, axes = plt.subplots(1, len(panels), layout="constrained", **sizes)
        for panel, one in zip(panels, axes, strict=True):
            panel(one)
        if title:
            figure.suptitle(title, x=0.01, ha="left", color=INK, fontweight="bold")
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=130, metadata={"Software": None})
        plt.close(figure)


def run(draw_into: Callable[[Path], None], default: Path, description: str | None) -> int:
    """Command line of a figure: ``--output``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=default, help=f"default: {default.relative_to(ROOT)}")
    options = parser.parse_args()
    draw_into(options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(draw, OUTPUT, __doc__))
