"""The page of a run: the data of its tiles, tables and gallery, and the file written from the template."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from covr_jax.config import VLM_POLICY_METHODS
from covr_jax.io.files import to_json
from covr_jax.report import charts, figures
from covr_jax.report.data import Round, Run, number, numbers, read_run, shown_method, simulator
from covr_jax.report.formatting import action_text, duration, show, steps, whole

FILE_NAME = "report.html"
_MORE = Markup("{} <small>{}</small>")  # a cell with a second, smaller text


def _facts(run: Run) -> list[tuple[str, str]]:
    """The names below the headline."""
    config = run.config
    method = shown_method(config.get("method", "unknown method"))
    facts = [("method", f"{method} on {config['base']}" if method == "covr" and "base" in config else method)]
    facts += [(key, str(config[key])) for key in ("seed", "preset") if key in config]
    if name := simulator(config):
        return [*facts, ("simulator", name)]
    renderer = run.result.get("renderer") or config.get("renderer")  # the result's is the host simulator's, if any
    return [*facts, ("renderer", str(renderer))] if renderer else facts


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Name, value and remark of each number of the headline."""
    label, final, std = "Final return", *(number(run.result.get(f"final_return{part}")) for part in ("", "_std"))
    if not run.result:
        label, final, std = "Latest return", run.last("eval/episode_return"), run.last("eval/episode_return_std")
    remark = "" if std is None else f"± {show(std)} (std)"
    if run.diverged:
        label, final, remark = "Diverged", None, str(run.diverged.get("reason"))
    random, total = run.random_return, number(run.config.get("total_steps"))
    gain = None if final is None or random is None else final - random
    seconds = number(run.result.get("seconds"))
    if seconds is None:
        seconds = max((number(row.get("wall_s")) or 0.0 for row in run.rows), default=None)
    kept = sum(int(r.value("kept") or 0) for r in run.rounds)
    return [
        (label, show(final), remark),
        ("Random policy", show(random), "mean return"),
        ("Gain", f"{'+' if gain is not None and gain > 0 else ''}{show(gain)}", "over random"),
        ("Environment steps", steps(run.end), "" if total is None else f"of {steps(total)}"),
        ("Fine-tuning rounds", str(len(run.rounds)), f"{kept:,} samples kept" if run.rounds else ""),
        ("Wall time", duration(seconds), ""),
    ]


def _round_row(run: Run, r: Round) -> dict[str, str]:
    kept, share = whole(r.value("kept")), r.value("kept_fraction")
    mean, std = show(r.value("vlm_return")), r.value("vlm_return_std")
    guidance = r.record.get("guidance")
    return {
        "Round": str(r.number),
        "Env steps": whole(r.value("env_steps")),
        "Interval ψ": whole(r.value("interval")),
        "Samples": whole(r.value("samples")),
        "Kept": kept if share is None else _MORE.format(kept, f"{100 * share:.0f} %"),
        "Threshold τ": show(r.value("tau")),
        "Mean weight": show(r.value("weight_mean")),
        "VLM alone, return": mean if std is None else _MORE.format(mean, f"± {show(std)}"),
        "Action error": show(r.value("action_error")),
        **({"Error on the expert's states": show(r.value("expert_error"))} if _has_expert(run) else {}),
        "Policy, return": show(run.policy_return_at(r.value("env_steps"))),
        "Tuning time": duration(r.value("finetune_seconds")),
        "Tuned": "–" if (tuned := r.record.get("tuned")) is None else "yes" if tuned else _why_not(r),
        "Guidance after": "–" if guidance is None else "on" if guidance else "off",
    }


def _has_expert(run: Run) -> bool:
    return any(r.value("expert_error") is not None for r in run.all_rounds)


def _why_not(r: Round) -> str:
    """Why a round did not tune the VLM."""
    return "no: rolled back" if r.record.get("rolled_back") else "no: nothing to learn"


def _cost_rows(run: Run) -> list[dict[str, str]]:
    """Memory and latency of policy and VLM beside the paper's."""
    rows = []
    for name, paper, memory, seconds in (
        ("Policy", "10 MB, 0.0012 s", "policy/memory_bytes", "policy/latency_s"),
        ("VLM", "8344 MB, 4.4 s", "vlm/memory_bytes", "vlm/mean_latency_s"),
    ):
        size, latency = run.last(memory), run.last(seconds)
        if size is None:
            continue
        answer = "–" if latency is None else f"{latency:.4f} s"
        frames = run.last("vlm/frames_per_query") if name == "VLM" and latency is not None else None
        answer = answer if frames is None else _MORE.format(answer, f"{frames:,.0f} frames per query")
        rows.append({"": name, "Weights": f"{size / 1e6:,.1f} MB", "One answer": answer, "In the paper": paper})
    return rows


def _card(sample: dict[str, Any]) -> dict[str, Any]:
    weight = number(sample.get("weight"))
    return {
        "frame": sample["frame"],
        "answer": sample.get("answer", "–"),
        "action": action_text(numbers(sample.get("agent_action"))),
        "share": round(100 * min(max(weight or 0.0, 0.0), 1.0)),
        "weight": weight,
        "return": number(sample.get("return")),
        "prompt": str(sample.get("prompt", "")),
    }


def _render(run: Run) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("covr_jax.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(card=_card, json=partial(to_json, ensure_ascii=False), show=show, steps=steps)
    method = run.config.get("method")
    prompts = {str(sample.get("prompt", "")) for r in run.rounds for sample in r.samples}
    plain = {key: value for key, value in run.config.items() if not isinstance(value, dict)}
    groups = [(key, value) for key, value in run.config.items() if isinstance(value, dict)]
    named = [shown_method(run.config[key]) for key in ("task", "method", "seed") if key in run.config]
    with charts.matplotlib_style(**charts.INLINE_SVG):
        each = (figures.learning_curve, figures.eddf, figures.kept_steps, figures.ralw, figures.finetune_loss)
        drawn = {draw.__name__: draw(run) for draw in (*each, figures.iterations)}
        drawn |= {"losses": figures.panels(run, figures.LOSSES), "system": figures.panels(run, figures.SYSTEM)}
    return environment.get_template("report.html.j2").render(
        run=run,
        title=" · ".join(named) or run.folder.name,
        task=run.config.get("task", run.folder.resolve().name),
        method=shown_method(method) if isinstance(method, str) else None,
        vlm_acts=method in VLM_POLICY_METHODS,
        facts=_facts(run),
        tiles=_tiles(run),
        command=run.result.get("command"),
        charts=drawn,
        round_rows=[_round_row(run, r) for r in run.all_rounds],
        cost_rows=_cost_rows(run),
        option_groups=[("run", plain)] * bool(plain) + groups,
        prompt=prompts.pop() if len(prompts) == 1 else None,  # of all samples
    )


def render_report(run_dir: str | Path) -> str:
    """Returns the page of ``write_report`` as text, and writes nothing.

    Raises:
      ReportError: as ``write_report``.
    """
    return _render(read_run(run_dir))


def write_report(run_dir: str | Path) -> Path:
    """Builds ``run_dir/report.html`` from the files of the directory; the same files give the same bytes.

    Args:
      run_dir: a run directory; only ``metrics.jsonl`` is required.

    Returns:
      The path of the page.

    Raises:
      ReportError: the directory or its ``metrics.jsonl`` is missing, or a row of it cannot be read.
      OSError: the page cannot be written.
    """
    run = read_run(run_dir)
    path = run.folder / FILE_NAME
    temporary = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    temporary.write_text(_render(run), encoding="utf-8", errors="replace")
    temporary.replace(path)
    return path
