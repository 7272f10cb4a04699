"""Draws what EDDF kept and dropped in one round of a COVR run, after the paper's visualisation of the filter.

    python experiments/figures/eddf.py runs/demo/seed1 --round 2
    python experiments/figures/eddf.py runs/demo/seed1 --round 2 --output eddf.png

The samples and their frames are those of the run's newest checkpoint, on which the round's selection is repeated. Where
that cannot be (no checkpoint is left, or its replay has overwritten the round's samples), the picture shows what the
round recorded: histograms, and the few kept samples of its gallery.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from covr_jax.config import ConfigError
from covr_jax.io.checkpoint import CheckpointError
from covr_jax.report import ReportError
from covr_jax.report.charts import PALETTE, matplotlib_style
from covr_jax.report.data import Round, Run, numbers, read_run
from covr_jax.report.formatting import show, tick, whole

FRAMES = 8  # of the kept samples, and of the dropped ones
BINS = 40  # of the histogram of the scores
KEPT, DROPPED = PALETTE["vlm"], PALETTE["reference"]


class Picked(NamedTuple):
    """Sample frames of one row of the picture."""

    title: str
    frames: list[np.ndarray]  # u8[H,W,3]
    captions: list[str]


class Filtered(NamedTuple):
    """The samples of a round's D_f. N samples."""

    step: np.ndarray  # i64[N], agent steps since the episode began
    score: np.ndarray  # f32[N], what is compared with the threshold
    keep: np.ndarray  # bool[N]
    rows: list[Picked]
    score_name: str = "z-score of the return-to-go"


def spread(score: np.ndarray, which: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` of the samples ``which`` (bool[N]), from the lowest score to the highest at equal ranks."""
    order = np.nonzero(which)[0]
    order = order[np.argsort(score[order], kind="stable")]
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


def read_samples(run: Run, number: int) -> Filtered:
    """Repeats the selection of a round on the run's newest checkpoint.

    Raises:
      ConfigError, CheckpointError: that cannot be done.
    """
    from covr_jax.training.past_rounds import repeat_round
    from covr_jax.training.restore import load_experience
    from covr_jax.training.selection import frames_of

    parts, state, own_start = load_experience(run.folder)
    config = parts.config
    found = repeat_round(config, state, [r.record for r in run.rounds if r.number <= number], own_start)
    samples, rows = found.samples, []
    for title, which in (("kept", found.keep), ("dropped", ~found.keep)):
        chosen = spread(found.compared, which, FRAMES)
        some = samples.take(chosen)
        frames = list(np.asarray(frames_of(state, some))) if len(chosen) else []
        captions = [f"{found.compared[i]:.2f}, step {samples.step[i]}".replace("-", "−") for i in chosen]
        rows.append(Picked(title, frames, captions))
    name = "reward" if config.covr.score == "reward" else "return-to-go"
    name = f"z-score of the {name}" if config.covr.z_score else name.capitalize()
    return Filtered(samples.step, found.compared, found.keep, rows, name)


def gallery(r: Round) -> Picked:
    """The kept samples whose frames the round itself stored."""
    from PIL import Image

    shown = [sample for sample in r.samples if sample.get("frame")][:FRAMES]
    images = [io.BytesIO(base64.b64decode(sample["frame"].split(",", 1)[1])) for sample in shown]
    frames = [np.asarray(Image.open(image).convert("RGB")) for image in images]
    captions = [f"return {show(sample.get('return'))}" for sample in shown]
    return Picked("kept", frames, captions)


def title_of(run: Run, r: Round) -> str:
    """One line with the round's numbers."""
    record, (tau, exploration) = r.record, (r.value("tau"), r.value("exploration"))
    options = run.config.get("covr")
    kind = options.get("filter", "eddf") if isinstance(options, dict) else "eddf"
    by = "" if kind == "eddf" else f" by filter {kind}"
    return (
        f"{run.config.get('task', 'unknown')}, round {r.number} at {whole(r.value('env_steps'))} env steps:"
        f" {whole(record.get('kept'))} of {whole(record.get('samples'))} samples kept{by}"
        f" ({100 * (r.value('kept_fraction') or 0.0):.0f}%), τ = {show(tau)}, ε = {show(exploration)}"
    )


def _style(axes: Any, x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: tick(value))


def draw_scores(axes: Any, beside: Any, samples: Filtered, tau: float) -> None:
    """Draws scores over the step of the episode, and their histogram beside it, with the threshold across both."""
    for keep, color, label in ((False, DROPPED, "dropped"), (True, KEPT, "kept")):
        some = samples.keep == keep
        look = {"s": 7, "alpha": 0.45, "linewidths": 0, "rasterized": True}
        axes.scatter(samples.step[some], samples.score[some], color=color, label=label, **look)
    low, high = float(samples.score.min()), float(samples.score.max())
    width = max(high - low, 1e-6) / BINS
    edges = tau + width * np.arange(np.floor((low - tau) / width), np.ceil((high - tau) / width) + 1)  # one is tau
    counts = [np.histogram(samples.score[samples.keep == keep], edges)[0] for keep in (False, True)]
    beside.barh(edges[:-1], counts[0], width, align="edge", color=DROPPED, alpha=0.85)
    beside.barh(edges[:-1], counts[1], width, left=counts[0], align="edge", color=KEPT, alpha=0.85)
    for each, label in ((axes, f"threshold τ = {show(tau)}"), (beside, None)):
        each.axhline(tau, color=PALETTE["ink"], linewidth=1.4, linestyle=(0, (4, 3)), label=label)
    median = float(np.median(samples.score))
    axes.axhline(
        median, color=PALETTE["ink"], linewidth=1, linestyle=(0, (1, 2)), label=f"median {median:.2f}".replace("-", "−")
    )
    _style(axes, "", samples.score_name)
    axes.tick_params(labelbottom=False)
    _style(beside, "Samples", "")
    beside.xaxis.set_label_position("top")
    beside.tick_params(labelleft=False, bottom=False, labelbottom=False, labeltop=True)
    legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9, borderpad=0.2)
    for handle in legend.legend_handles[:2]:  # dots of the size of the data cannot be told apart
        handle.set(sizes=[30], alpha=1)


def draw_kept_steps(axes: Any, r: Round) -> None:
    """Draws which part of the samples was kept, by the step of their episode."""
    histogram = r.record.get("kept_steps")
    histogram = histogram if isinstance(histogram, dict) else {}
    edges, kept, everyone = (np.array(numbers(histogram.get(name))) for name in ("edges", "counts", "all"))
    if not 0 < len(kept) == len(everyone) == len(edges) - 1:
        raise ReportError(f"round {r.number} has no record of where in their episodes its samples lie")
    share = 100 * kept / np.maximum(everyone, 1)
    axes.bar(edges[:-1], share, np.diff(edges), align="edge", color=KEPT, alpha=0.85, edgecolor=PALETTE["card"])
    axes.axhline(100 * kept.sum() / max(everyone.sum(), 1), color=PALETTE["ink"], linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlim(edges[0], edges[-1])
    _style(axes, "Agent step of the episode", "Kept (%)")


def draw_weights(axes: Any, r: Round) -> None:
    """Draws the weights (RALW) of the kept samples; leaves the axes out where they were not recorded."""
    histogram = r.record.get("weight_histogram")
    histogram = histogram if isinstance(histogram, dict) else {}
    edges, counts = (np.array(numbers(histogram.get(name))) for name in ("edges", "counts"))
    if not 0 < len(counts) == len(edges) - 1:
        axes.set_visible(False)
        return
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=KEPT, alpha=0.85, edgecolor=PALETTE["card"])
    _style(axes, "Weight w of Eq. 6", "Kept samples")


def draw_frames(figure: Any, rows: list[Picked]) -> None:
    """Draws rows of sample frames with their captions."""
    grid = figure.subplots(len(rows), FRAMES, squeeze=False)
    for row, line in zip(rows, grid, strict=True):
        for axes in line:
            axes.set_axis_off()
        color = KEPT if row.title == "kept" else DROPPED
        line[0].text(-0.12, 0.5, row.title, rotation=90, va="center", ha="right", transform=line[0].transAxes,
                     color=color, weight="bold", fontsize=11)  # fmt: skip
        for axes, frame, caption in zip(line, row.frames, row.captions, strict=False):
            axes.imshow(frame, interpolation="nearest")
            axes.set_title(caption, fontsize=8, color=PALETTE["soft"], pad=3)


def draw(run: Run, r: Round, samples: Filtered | None, output: Path) -> None:
    """Draws one round into one file.

    Args:
      run: of the round.
      r: the round.
      samples: of its D_f; None: what the round recorded is drawn.
      output: image file.

    Raises:
      ReportError: the round has no record to draw, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    with matplotlib_style():
        rows = samples.rows if samples else [gallery(r)]
        rows = [row for row in rows if row.frames]
        height = 5.2 if samples else 3.2
        figure = Figure(figsize=(10.4, height + 1.5 * len(rows)), layout="constrained")
        ratios = [height, 1.5 * len(rows)] if rows else [height]
        top, *bottom = figure.subfigures(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
        top.suptitle(title_of(run, r), x=0.01, ha="left", color=PALETTE["ink"], fontsize=11, weight="bold")
        if samples:
            axes = top.subplot_mosaic([["scores", "beside"], ["steps", "."]], width_ratios=[4, 1], height_ratios=[3, 1])
            axes["beside"].sharey(axes["scores"])
            draw_scores(axes["scores"], axes["beside"], samples, r.value("tau") or 0.0)
            draw_kept_steps(axes["steps"], r)
            axes["scores"].sharex(axes["steps"])
        else:
            left, right = top.subplots(1, 2)
            draw_kept_steps(left, r)
            draw_weights(right, r)
        for part in bottom:
            draw_frames(part, rows)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(output, dpi=130, facecolor="white", metadata={"Software": None})
        except (OSError, ValueError) as error:
            raise ReportError(f"{output}: cannot be written: {error}") from None


def main(arguments: list[str] | None = None) -> int:
    """Draws one round, and says where from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="directory that train.py wrote")
    parser.add_argument("--round", type=int, default=None, help="which; default: the last one")
    parser.add_argument("--output", type=Path, default=Path("eddf.png"), help="default: eddf.png")
    options = parser.parse_args(arguments)
    run = read_run(options.run_dir)
    known = {r.number: r for r in run.rounds if r.value("kept")}
    number = max(known, default=0) if options.round is None else options.round
    if number not in known:
        rounds = f"those of {', '.join(map(str, known))} are" if known else "there are none"
        raise ReportError(f"{options.run_dir} has no round {number} that kept samples; {rounds}")
    samples = None
    try:
        samples = read_samples(run, number)
    except (ConfigError, CheckpointError) as error:
        print(f"drawn from the round's record: {error}")
    draw(run, known[number], samples, options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main, ReportError)
