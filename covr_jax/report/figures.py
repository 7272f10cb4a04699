"""The charts of a run. Blue is the policy, amber the VLM, grey the reference, on every one of them."""

from __future__ import annotations

import bisect
import itertools
import math
from typing import Any, NamedTuple

from covr_jax.report.data import Round, Run, numbers
from covr_jax.report.svg import Plot, escape, extent, show, steps

ENV_STEPS = "Environment steps"
ROUND = "Fine-tuning round"


class Panel(NamedTuple):
    """A metric over env steps, one small chart."""

    name: str
    title: str  # y axis, with unit
    css: str = "policy"


LOSSES = (
    Panel("losses/critic", "Critic loss"),
    Panel("losses/actor", "Actor loss"),
    Panel("losses/guidance", "Guidance loss, mean ‖aᵥ − aᵣ‖²", "vlm"),
    Panel("losses/map", "Feature map to the VLM's map, mean squared error", "vlm"),
    Panel("losses/alpha", "Temperature loss"),
    Panel("sac/alpha", "Temperature α"),
    Panel("sac/entropy", "Policy entropy (nats)"),
    Panel("sac/q_mean", "Mean Q"),
)
SYSTEM = (
    Panel("train/env_steps_per_second", "Environment steps per second"),
    Panel("train/updates_per_second", "Updates per second"),
    Panel("replay/size", "Replay (transitions)"),
    Panel("vlm/queries", "VLM queries", "vlm"),
    Panel("vlm/latency_s", "VLM latency (s)", "vlm"),
    Panel("vlm/parse_fail_rate", "VLM answers not understood (fraction)", "vlm"),
    Panel("vlm/prior_l2", "Distance of VLM and policy action", "vlm"),
)


def figure(plot: Plot, *legend: tuple[str, str], caption: str = "") -> str:
    """A chart with its legend as (style class, text) outside the drawing, where it can cover nothing."""
    keys = "".join(f'<span class="key"><i class="{css}"></i>{escape(text)}</span>' for css, text in legend)
    title = f"<strong>{escape(caption)}</strong>" if caption else ""
    head = f"<figcaption>{title}{keys}</figcaption>" if title or keys else ""
    size = ' class="wide"' if plot.width > 600 else ""  # on a phone it scrolls, so that its text stays readable
    return f"<figure{size}>{head}{plot.svg()}</figure>"


def _mark_rounds(plot: Plot, run: Run, labels: bool) -> None:
    for a, b in run.guided():
        plot.span(a, b, "vlm")
    for r in run.rounds:
        at = r.value("env_steps")
        if at is not None:
            plot.rule(at, str(r.number) if labels else "")


def learning_curve(run: Run) -> str | None:
    """Evaluation over env steps, the random policy's level, the rounds, and where the VLM guides."""
    x, y = run.curve("eval/episode_return")
    train_x, train_y = run.curve("train/episode_return")
    if not x and not train_x:
        return None
    spread = dict(zip(*run.curve("eval/episode_return_std"), strict=True))
    low, high = ([v + sign * spread.get(at, 0.0) for at, v in zip(x, y, strict=True)] for sign in (-1, 1))
    random = baseline(run)
    plot = Plot(
        x=(0, run.end or 1),
        y=extent(low, high, train_y, [] if random is None else [random]),
        x_label=ENV_STEPS,
        y_label="Episode return",
        width=1000,
        height=380,
        strip=18 if run.rounds else 0,
        x_format=steps,
    )
    _mark_rounds(plot, run, labels=True)
    legend = []
    if len(train_x) > 1:
        plot.line(train_x, train_y, "policy faint")
        legend.append(("policy faint", "training episodes"))
    if random is not None:
        plot.level(random, "reference")
        legend.append(("reference", f"random policy {show(random)}"))
    if len(x) > 1 and spread:
        plot.band(x, low, high, "policy")
    if x:
        hints = [f"{steps(a)} steps: {show(b)} ± {show(spread.get(a))}" for a, b in zip(x, y, strict=True)]
        plot.line(x, y, "policy").points(x, y, "policy", hints)
        legend.insert(0, ("policy", "evaluation, mean ± std over episodes" if spread else "evaluation, mean"))
    if run.rounds:
        legend.append(("rule", "fine-tuning round"))
    if run.guided():
        legend.append(("span", "VLM guides the policy"))
    return figure(plot, *legend)


def baseline(run: Run) -> float | None:
    """Return of the random policy: the result's, or else the metrics'."""
    from_result = numbers([run.result.get("random_return")])
    return from_result[0] if from_result else run.last("eval/random_return")


def policy_return_at(run: Run, env_steps: float | None) -> float | None:
    """The last evaluation up to a time."""
    x, y = run.curve("eval/episode_return")
    i = bisect.bisect_right(x, env_steps) if env_steps is not None else 0
    return y[i - 1] if i else None


def _over_rounds(rounds: list[Round], name: str) -> tuple[list[float], list[float]]:
    points = [(float(r.number), r.value(name)) for r in rounds]
    return [x for x, y in points if y is not None], [y for _, y in points if y is not None]


def _round_plot(rounds: list[Round], y: tuple[float, float], title: str, **size: Any) -> Plot:
    first, last = rounds[0].number, rounds[-1].number
    stride = -(-(last - first + 1) // 12)
    return Plot(
        x=(first - 0.3, last + 0.3),
        y=y,
        x_label=ROUND,
        y_label=title,
        x_ticks=[float(i) for i in range(first, last + 1, stride)],
        **size,
    )


def eddf(run: Run) -> str | None:
    """Threshold, exploration degree and kept fraction, round by round."""
    found = []
    for name, title, zero in (
        ("tau", "Threshold τ (std of the return)", False),
        ("exploration", "Exploration degree ε", False),
        ("kept_fraction", "Kept samples (% of the buffer)", True),
    ):
        x, y = _over_rounds(run.rounds, name)
        y = [100 * v for v in y] if name == "kept_fraction" else y
        if x:
            plot = _round_plot(run.rounds, extent(y, zero=zero), title, width=330, height=210)
            found.append(figure(plot.line(x, y, "vlm").points(x, y, "vlm", [show(v) for v in y])))
    return f'<div class="grid three">{"".join(found)}</div>' if found else None


def _weight_shares(r: Round) -> tuple[list[float], list[float]] | None:
    """Edges and percentages of a round's histogram of weights."""
    histogram = r.record.get("weight_histogram")
    histogram = histogram if isinstance(histogram, dict) else {}
    edges, counts = numbers(histogram.get("edges")), numbers(histogram.get("counts"))
    total = sum(counts)
    if len(edges) != len(counts) + 1 or not 0 < total < math.inf or min(counts) < 0:
        return None
    return edges, [100 * count / total for count in counts]


def ralw(run: Run) -> str | None:
    """The weights that each round gave its kept samples, small multiples on common axes."""
    rounds = [(r, shares) for r in run.rounds if (shares := _weight_shares(r)) is not None]
    top = extent([0.0], *(percent for _, (_, percent) in rounds))
    found = []
    for r, (edges, percent) in rounds:
        plot = Plot(
            x=(min(0.0, edges[0]), max(1.0, edges[-1])),
            y=top,
            x_label="Weight w",
            y_label="Kept samples (%)",
            width=190,
            height=180,
        )
        mean = r.value("weight_mean")
        legend = [("none", f"mean {show(mean)}")] if mean is not None else []
        found.append(figure(plot.bars(edges, percent, "vlm"), *legend, caption=f"Round {r.number}"))
    return f'<div class="grid five">{"".join(found)}</div>' if found else None


def _moving_mean(values: list[float], width: int) -> list[float]:
    total = [0.0, *itertools.accumulate(values)]
    return [(total[i + 1] - total[max(0, i + 1 - width)]) / (i + 1 - max(0, i + 1 - width)) for i in range(len(values))]


def finetune_loss(run: Run) -> str | None:
    """The VLM's loss over optimiser steps, the rounds one after the other."""
    curves = [(r.number, numbers(r.record.get("finetune_loss"))) for r in run.rounds]
    curves = [(number, losses) for number, losses in curves if losses]
    if not curves:
        return None
    total = sum(len(losses) for _, losses in curves)
    plot = Plot(
        x=(0, total),
        y=extent(*(losses for _, losses in curves)),
        x_label="Optimiser steps, all rounds one after the other",
        y_label="Weighted token loss",
        width=1000,
        height=280,
        strip=18,
    )
    start = 0
    width = max(1, total // (12 * len(curves)))
    for number, losses in curves:
        x = [start + i + 0.5 for i in range(len(losses))]
        plot.rule(start, f"round {number}", at=start + len(losses) / 2)
        plot.line(x, losses, "vlm faint" if width > 2 else "vlm")
        if width > 2:
            plot.line(x, _moving_mean(losses, width), "vlm")
        start += len(losses)
    legend = [("vlm faint", "each step"), ("vlm", f"mean of the last {width} steps")] if width > 2 else []
    return figure(plot, *legend, ("rule", "start of a round"))


def iterations(run: Run) -> str | None:
    """How the VLM alone gets better from round to round, beside the policy it learns from."""
    rounds = [r for r in (run.before, *run.rounds) if r is not None]
    if not rounds:
        return None
    found = []
    x, y = _over_rounds(rounds, "vlm_return")
    if x:
        policy = [(float(r.number), policy_return_at(run, r.value("env_steps"))) for r in rounds]
        px, py = [a for a, b in policy if b is not None], [b for _, b in policy if b is not None]
        random = baseline(run)
        plot = _round_plot(rounds, extent(y, py, [] if random is None else [random]), "Episode return", height=240)
        if random is not None:
            plot.level(random, "reference")
        plot.line(px, py, "policy").points(px, py, "policy", [show(v) for v in py])
        plot.line(x, y, "vlm").points(x, y, "vlm", [show(v) for v in y])
        legend = [("vlm", "VLM alone"), ("policy", "policy, last evaluation"), ("reference", "random")]
        found.append(figure(plot, *legend[: 2 if random is None else 3]))
    x, y = _over_rounds(rounds, "action_error")
    if x:
        title = "Mean |VLM action − policy action|, held-out samples"
        plot = _round_plot(rounds, extent(y, zero=True), title, height=240)
        plot.line(x, y, "vlm").points(x, y, "vlm", [show(v) for v in y])
        found.append(figure(plot, ("vlm", "after the round")))
    return f'<div class="grid two">{"".join(found)}</div>' if found else None


def panels(run: Run, which: tuple[Panel, ...]) -> str | None:
    """Metrics over env steps, three to a row, with the rounds as hairlines."""
    found = []
    for panel in which:
        x, y = run.curve(panel.name)
        if not x:
            continue
        plot = Plot(
            x=(0, run.end or 1),
            y=extent(y),
            x_label=ENV_STEPS,
            y_label=panel.title,
            width=330,
            height=200,
            x_format=steps,
        )
        _mark_rounds(plot, run, labels=False)
        found.append(figure(plot.line(x, y, panel.css)))
    return f'<div class="grid three">{"".join(found)}</div>' if found else None


def budget(run: Run) -> str | None:
    """Memory and latency of policy and VLM beside the paper's."""
    rows = []
    for who, paper, memory, seconds in (
        ("Policy", "10 MB, 0.0012 s", "policy/memory_bytes", "policy/latency_s"),
        ("VLM", "8344 MB, 4.4 s", "vlm/memory_bytes", "vlm/mean_latency_s"),
    ):
        size, latency = run.last(memory), run.last(seconds)
        if size is None:
            continue
        frames = run.last("vlm/frames_per_query") if who == "VLM" else None
        asked = "" if frames is None else f" <small>{frames:,.0f} frames per query</small>"
        cells = (who, f"{size / 1e6:,.1f} MB", "–" if latency is None else f"{latency:.4f} s{asked}", paper)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    if not rows:
        return None
    head = "".join(f"<th>{name}</th>" for name in ("", "Weights", "One answer", "In the paper"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
