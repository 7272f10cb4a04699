"""Headline, tables, gallery and the page around them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from covr_jax.config import VLM_POLICY_METHODS
from covr_jax.report import figures
from covr_jax.report.data import Round, Run, number, numbers, read_run, shown_method, simulator
from covr_jax.report.style import CSS
from covr_jax.report.svg import escape, show, steps

FILE_NAME = "report.html"
# The browser enforces what the page promises: no scripts, no requests.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def duration(seconds: float | None) -> str:
    """45 s, 12 min, 3 h 05 min."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _spread(mean: float | None, std: float | None) -> str:
    return show(mean) if std is None else f"{show(mean)} <small>± {show(std)}</small>"


def _tile(name: str, value: str, more: str = "", css: str = "") -> str:
    return (
        f'<div class="tile {css}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
    )


def _headline(run: Run) -> str:
    config, result = run.config, run.result
    final = number(result.get("final_return"))
    std = number(result.get("final_return_std"))
    if final is None:
        final, std = run.last("eval/episode_return"), run.last("eval/episode_return_std")
    random = figures.baseline(run)
    gain = None if final is None or random is None else final - random
    seconds = number(result.get("seconds"))
    if seconds is None:
        seconds = max((number(row.get("wall_s")) or 0.0 for row in run.rows), default=None)
    method = shown_method(config.get("method", "unknown method"))
    names = [("method", f"{method} on {config['base']}" if method == "covr" and "base" in config else method)]
    names += [(key, str(config[key])) for key in ("seed", "preset") if key in config]
    drawn = result.get("renderer") or config.get("renderer")  # the simulator on the host, where there is one
    names += [("simulator", world)] if (world := simulator(config)) else [("renderer", str(drawn))] if drawn else []
    facts = " · ".join(f"{escape(key)} <b>{escape(value)}</b>" for key, value in names)
    total = number(config.get("total_steps"))
    of = "" if total is None else f"of {steps(total)}"
    gained = f"{'+' if gain is not None and gain > 0 else ''}{show(gain)}"
    kept = sum(int(r.value("kept") or 0) for r in run.rounds)
    tiles = [
        _tile("Final return", show(final), "" if std is None else f"± {show(std)} (std)", "main"),
        _tile("Random policy", show(random), "mean return"),
        _tile("Gain", gained, "over random"),
        _tile("Environment steps", steps(run.end), of),
        _tile("Fine-tuning rounds", str(len(run.rounds)), f"{kept:,} samples kept" if run.rounds else ""),
        _tile("Wall time", duration(seconds)),
    ]
    command = result.get("command")
    shown = f"<pre>{escape(command)}</pre>" if isinstance(command, str) and command else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
    task = escape(config.get("task", run.folder.resolve().name))
    return (
        f'<header><p class="eyebrow">covr_jax training run</p><h1>{task}</h1>'
        f'<p class="facts">{facts}</p><div class="tiles">{"".join(tiles)}</div>{shown}'
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}</header>"
    )


def _iteration_row(run: Run, r: Round) -> str:
    def whole(name: str) -> str:
        value = r.value(name)
        return "–" if value is None else f"{value:,.0f}"

    share = r.value("kept_fraction")
    kept = whole("kept") + ("" if share is None else f" <small>{100 * share:.0f} %</small>")
    after = r.record.get("guidance")
    cells = [
        str(r.number),
        whole("env_steps"),
        whole("interval"),
        whole("samples"),
        kept,
        show(r.value("tau")),
        show(r.value("weight_mean")),
        _spread(r.value("vlm_return"), r.value("vlm_return_std")),
        show(r.value("action_error")),
        show(figures.policy_return_at(run, r.value("env_steps"))),
        duration(r.value("finetune_seconds")),
        "–" if after is None else ("on" if after else "off"),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _iteration_table(run: Run) -> str | None:
    rounds = [r for r in (run.before, *run.rounds) if r is not None]
    if not rounds:
        return None
    names = (
        "Round",
        "Env steps",
        "Interval ψ",
        "Samples",
        "Kept",
        "Threshold τ",
        "Mean weight",
        "VLM alone, return",
        "Action error",
        "Policy, return",
        "Tuning time",
        "Guidance after",
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(_iteration_row(run, r) for r in rounds)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _action(values: Any) -> str:
    """As the VLM writes its own: [+0.43, −0.10]."""
    found = numbers(values)
    return "[" + ", ".join(f"{v:+.2f}" for v in found) + "]" if found else "–"


def _card(sample: dict[str, Any], prompt: str) -> str:
    frame, weight = sample["frame"], number(sample.get("weight"))
    picture = f'<img src="{escape(frame)}" alt="frame">' if frame else '<div class="hole">no frame</div>'
    share = 100 * min(max(weight or 0.0, 0.0), 1.0)
    bar = f'<div class="weight"><i style="width:{share:.0f}%"></i></div>'
    answer, action = escape(sample.get("answer", "–")), escape(_action(sample.get("agent_action")))
    said = (
        f'<div class="said"><span class="by-vlm">VLM</span><div class="mono">{answer}</div>'
        f'<span class="by-policy">Policy</span><div class="mono">{action}</div></div>'
    )
    worth = f"<small>weight {show(weight)} · return {show(number(sample.get('return')))}</small>"
    asked = f'<div class="prompt">{escape(prompt)}</div>' if prompt else ""
    return f'<div class="card">{picture}<div class="body">{said}{bar}{worth}{asked}</div></div>'


def _gallery(run: Run) -> str | None:
    rounds = [r for r in run.rounds if r.samples]
    if not rounds:
        return None
    prompts = {str(sample.get("prompt", "")) for r in rounds for sample in r.samples}
    shared = prompts.pop() if len(prompts) == 1 else None
    parts = [f'<p class="prompt shared">{escape(shared)}</p>'] if shared else []
    for r in rounds:
        cards = "".join(_card(s, "" if shared is not None else str(s.get("prompt", ""))) for s in r.samples)
        at = r.value("env_steps")
        when = "" if at is None else f"<small>{steps(at)} env steps</small>"
        shown = " open" if r in (rounds[0], rounds[-1]) else ""  # the first and the last tell how far it came
        parts.append(f"<details{shown}><summary>Round {r.number} {when}</summary>")
        parts.append(f'<div class="cards">{cards}</div></details>')
    return "".join(parts)


def _rows(options: Iterable[tuple[str, Any]]) -> str:
    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    body = "".join(f"<tr><td>{escape(k)}</td><td class=mono>{escape(text(v))}</td></tr>" for k, v in options)
    return f'<table class="options"><tbody>{body}</tbody></table>'


def _configuration(run: Run) -> str | None:
    if not run.config:
        return None
    top = [(k, v) for k, v in run.config.items() if not isinstance(v, dict)]
    groups = [("run", top)] if top else []
    groups += [(k, list(v.items())) for k, v in run.config.items() if isinstance(v, dict)]
    return "".join(
        f"<details><summary>{escape(name)} <small>{len(options)} options</small></summary>{_rows(options)}</details>"
        for name, options in groups
    )


def _section(title: str, lead: str, body: str | None, missing: str) -> str:
    content = body or f'<p class="empty">{escape(missing)}</p>'
    return f'<section><h2>{escape(title)}</h2><p class="lead">{escape(lead)}</p>{content}</section>'


def _sections(run: Run) -> list[str]:
    none = "No data: this run has no VLM fine-tuning rounds"
    method = run.config.get("method")
    none += f" (method {shown_method(method)})." if isinstance(method, str) and not run.rounds else "."
    iterations = [part for part in (figures.iterations(run), _iteration_table(run)) if part]
    video = f'<video controls loop muted playsinline src="{run.video}"></video>' if run.video else None
    acts = "Evaluation acts with the policy's mean; the VLM never acts."
    if method in VLM_POLICY_METHODS:
        acts = "The VLM's answers act."
    return [
        _section(
            "Learning curve",
            f"Sum of the rewards of an episode. {acts}",
            figures.learning_curve(run),
            "No data: neither an evaluation nor a finished training episode is in metrics.jsonl.",
        ),
        _section(
            "Dynamic data filter (EDDF)",
            "Eq. 5: the VLM learns from the samples whose z-scored return exceeds τ = median + sigmoid(ε) · IQR.",
            figures.eddf(run),
            none,
        ),
        _section(
            "Return-aware loss weights (RALW)",
            "Eq. 6: each kept sample counts by its return, normalised to [−1, 1] and cut at 0.",
            figures.ralw(run),
            none,
        ),
        _section(
            "VLM fine-tuning",
            "Loss of the LoRA adapter on the policy's actions, written as text.",
            figures.finetune_loss(run),
            none,
        ),
        _section(
            "Iterations",
            "Round 0 is the VLM before any tuning. VLM alone: its answers act, without the policy.",
            "".join(iterations) or None,
            none,
        ),
        _section(
            "Losses and exploration",
            "Dotted lines are fine-tuning rounds; the shaded stretch is guided by the VLM." if run.rounds else "",
            figures.panels(run, figures.LOSSES),
            "No data: metrics.jsonl has no losses.",
        ),
        _section(
            "Throughput and VLM traffic",
            "",
            figures.panels(run, figures.SYSTEM),
            "No data: metrics.jsonl has no such metrics.",
        ),
        _section(
            "Memory and latency",
            "All weights of the agent and of the VLM, and the time from a frame to an action.",
            figures.budget(run),
            "No data: the run has not ended.",
        ),
        _section(
            "What the VLM says",
            "Frames of kept samples, the VLM's answer after the round beside the policy's action.",
            _gallery(run),
            none,
        ),
        _section("Final policy", "One episode.", video, "No data: this run recorded no video."),
        _section("Configuration", "", _configuration(run), "No data: this run has no config.json."),
    ]


def write_report(run_dir: str | Path) -> Path:
    """Builds ``run_dir/report.html`` from what the directory holds now; the same directory gives the same bytes.

    Args:
      run_dir: a run directory; only ``metrics.jsonl`` must be there.

    Returns:
      The path of the page.

    Raises:
      ReportError: no such directory, no ``metrics.jsonl``, or a page that cannot be written.
    """
    run = read_run(run_dir)
    named = [shown_method(run.config[key]) for key in ("task", "method", "seed") if key in run.config]
    title = " · ".join(named) or run.folder.name
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>"
        f"<body><main>{_headline(run)}{''.join(_sections(run))}"
        "<footer>covr_jax, from the files of this run directory.</footer></main></body></html>\n"
    )
    path = run.folder / FILE_NAME
    temporary = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8", errors="replace")
    temporary.replace(path)
    return path
