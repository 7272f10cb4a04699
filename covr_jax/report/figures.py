"""The charts of a run. Blue is the policy, amber the VLM, grey the reference, on every one of them."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from covr_jax.report.charts import Chart, ChartFigure
from covr_jax.report.data import Round, Run, numbers
from covr_jax.report.formatting import show, steps


class Panel(NamedTuple):
    """A metric over env steps, one small chart."""

    name: str
    title: str  # of the y axis, with unit
    color: str = "policy"


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


def _over_env_steps(run: Run, labels: bool = False, **size: Any) -> Chart:
    """A chart over env steps with the rounds as rules and the guided stretches shaded."""
    chart = Chart("Environment steps", (0, max(run.end, 1)), x_format=steps, **size)
    for start, end in run.guided():
        chart.span(start, end)
    for r in run.rounds:
        at = r.value("env_steps")
        if at is not None:
            chart.rule(at, str(r.number) if labels else "")
    return chart


def learning_curve(run: Run) -> list[ChartFigure]:
    """Draws evaluations over env steps, the random policy's level, the rounds, and where the VLM guides."""
    x, y = run.curve("eval/episode_return")
    train_x, train_y = run.curve("train/episode_return")
    if not x and not train_x:
        return []
    spread = dict(zip(*run.curve("eval/episode_return_std"), strict=True))
    legend = []
    chart = _over_env_steps(run, labels=True, width=1000, height=380)
    if len(train_x) > 1:
        chart.line(train_x, train_y, "policy", faint=True)
        legend.append(("policy faint", "training episodes"))
    if (random := run.random_return) is not None:
        chart.level(random)
        legend.append(("reference", f"random policy {show(random)}"))
    if len(x) > 1 and spread:
        low, high = ([v + sign * spread.get(at, 0.0) for at, v in zip(x, y, strict=True)] for sign in (-1, 1))
        chart.band(x, low, high, "policy")
    if x:
        hints = [f"{steps(a)} steps: {show(b)} ± {show(spread.get(a))}" for a, b in zip(x, y, strict=True)]
        chart.line(x, y, "policy", dots=True, hints=hints)
        legend.insert(0, ("policy", "evaluation, mean ± std over episodes" if spread else "evaluation, mean"))
    elif len(train_x) == 1:
        chart.line(train_x, train_y, "policy")
    if run.rounds:
        legend.append(("rule", "fine-tuning round"))
    if run.guided():
        legend.append(("span", "VLM guides the policy"))
    return [chart.render("Episode return", *legend)]


def _over_rounds(rounds: list[Round], **size: Any) -> Chart:
    return Chart("Fine-tuning round", (rounds[0].number - 0.3, rounds[-1].number + 0.3), integers=True, **size)


def _values(rounds: list[Round], name: str) -> tuple[list[float], list[float]]:
    """Round numbers and values of a record's number, without the rounds that lack it."""
    points = [(float(r.number), r.value(name)) for r in rounds]
    return [x for x, y in points if y is not None], [y for _, y in points if y is not None]


def eddf(run: Run) -> list[ChartFigure]:
    """Draws threshold, exploration degree and kept fraction, round by round."""
    found = []
    for name, title in (
        ("tau", "Threshold τ (std of the return)"),
        ("exploration", "Exploration degree ε"),
        ("kept_fraction", "Kept samples (% of the buffer)"),
    ):
        x, y = _values(run.rounds, name)
        if not x:
            continue
        chart = _over_rounds(run.rounds, width=330, height=210)
        if name == "kept_fraction":
            y = [100 * value for value in y]
        chart.line(x, y, "vlm", dots=True)
        found.append(chart.render(title, zero=name == "kept_fraction"))
    return found


def _shares(r: Round, name: str) -> tuple[list[float], list[float]] | None:
    """Edges and percentages of a histogram in a round's record."""
    histogram = r.record.get(name)
    histogram = histogram if isinstance(histogram, dict) else {}
    edges, counts = numbers(histogram.get("edges")), numbers(histogram.get("counts"))
    total = sum(counts)
    if len(edges) != len(counts) + 1 or not 0 < total < math.inf or min(counts) < 0:
        return None
    return edges, [100 * count / total for count in counts]


def kept_steps(run: Run) -> list[ChartFigure]:
    """Draws at which steps of their episodes the samples that each round kept lie."""
    found = []
    for r in run.rounds:
        shares = _shares(r, "kept_steps")
        if shares is not None:
            edges, percents = shares
            chart = Chart("Agent step of the episode", (edges[0], edges[-1]), width=190, height=180)
            chart.bars(edges, percents, "vlm")
            found.append(chart.render("Kept samples (%)", caption=f"Round {r.number}"))
    return found


def ralw(run: Run) -> list[ChartFigure]:
    """Draws the weights that each round gave its kept samples, on common axes."""
    rounds = [(r, shares) for r in run.rounds if (shares := _shares(r, "weight_histogram")) is not None]
    top = max((percent for _, (_, percents) in rounds for percent in percents), default=0.0)
    found = []
    for r, (edges, percents) in rounds:
        chart = Chart("Weight w", (min(0.0, edges[0]), max(1.0, edges[-1])), width=190, height=180)
        chart.bars(edges, percents, "vlm")
        chart.axes.set_ylim(0, 1.06 * top)
        mean = r.value("weight_mean")
        legend = [("none", f"mean {show(mean)}")] if mean is not None else []
        found.append(chart.render("Kept samples (%)", *legend, caption=f"Round {r.number}"))
    return found


def _moving_mean(values: list[float], width: int) -> list[float]:
    total = [0.0, *itertools.accumulate(values)]
    starts = [max(0, i + 1 - width) for i in range(len(values))]
    return [(total[i + 1] - total[start]) / (i + 1 - start) for i, start in enumerate(starts)]


def finetune_loss(run: Run) -> list[ChartFigure]:
    """Draws the VLM's loss over optimiser steps, the rounds one after the other."""
    curves = [(r.number, numbers(r.record.get("finetune_loss")), r.value("finetune_loss_floor")) for r in run.rounds]
    curves = [(number, losses, floor) for number, losses, floor in curves if losses]
    if not curves:
        return []
    total = sum(len(losses) for _, losses, _ in curves)
    label = "Optimiser steps, all rounds one after the other"
    chart = Chart(label, (0, total), width=1000, height=280)
    start = 0
    width = max(1, total // (12 * len(curves)))
    for number, losses, floor in curves:
        x = [start + i + 0.5 for i in range(len(losses))]
        chart.rule(start, f"round {number}", start + len(losses) / 2)
        chart.line(x, losses, "vlm", faint=width > 2)
        if width > 2:
            chart.line(x, _moving_mean(losses, width), "vlm")
        if floor:
            chart.line([start, start + len(losses)], [floor, floor], "reference")
        start += len(losses)
    legend = [("vlm faint", "each step"), ("vlm", f"mean of the last {width} steps")] if width > 2 else []
    if any(floor for _, _, floor in curves):
        legend.append(("reference", "least that label smoothing leaves"))
    return [chart.render("Weighted token loss", *legend, ("rule", "start of a round"))]


def iterations(run: Run) -> list[ChartFigure]:
    """Draws how the VLM alone improves from round to round, beside the policy that it learns from."""
    rounds, found = run.all_rounds, []
    x, y = _values(rounds, "vlm_return")
    if x:
        chart = _over_rounds(rounds, height=240)
        legend = [("vlm", "VLM alone"), ("policy", "policy, last evaluation")]
        if (random := run.random_return) is not None:
            chart.level(random)
            legend.append(("reference", "random"))
        policy = [(float(r.number), run.policy_return_at(r.value("env_steps"))) for r in rounds]
        policy = [(number, value) for number, value in policy if value is not None]
        chart.line([number for number, _ in policy], [value for _, value in policy], "policy", dots=True)
        chart.line(x, y, "vlm", dots=True)
        found.append(chart.render("Episode return", *legend))
    x, y = _values(rounds, "action_error")
    if x:
        chart = _over_rounds(rounds, height=240)
        chart.line(x, y, "vlm", dots=True)
        legend = [("vlm", "the policy's, held-out samples of the round")]
        x, y = _values(rounds, "expert_error")
        if x:
            chart.line(x, y, "policy", dots=True)
            legend.append(("policy", "the expert's, the same states after every round"))
        found.append(chart.render("Mean |VLM action − action|", *legend, zero=True))
    return found


def panels(run: Run, which: tuple[Panel, ...]) -> list[ChartFigure]:
    """Draws metrics over env steps, with the rounds as rules."""
    found = []
    for panel in which:
        x, y = run.curve(panel.name)
        if x:
            chart = _over_env_steps(run, width=330, height=200)
            chart.line(x, y, panel.color)
            found.append(chart.render(panel.title))
    return found
