"""The appendix's cross-scenario generalisation: every run is evaluated in its own scenario and in the others.

    python experiments/paper/generalisation.py --endpoint localhost:2000 --vlm /models/Qwen2.5-VL-3B-Instruct
    python experiments/paper/generalisation.py --tasks walker_walk walker_run --methods rad covr --scale cpu --vlm tiny

The paper shows this study without numbers that we know of, so none stand beside ours. A run is evaluated as by
evaluate.py --task, from the same start states in every run of its seed, and keeps the results in RUN/evaluations. Tasks
need the same number of actions. Where another table needs the same run, it is trained once.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from covr_jax.commands import cli, evaluate, sweep
from covr_jax.config import VLM_POLICY_METHODS, Config, ConfigError
from covr_jax.io.files import to_json, write_json
from covr_jax.report.table import RANDOM, Cell, markdown, read_final
from experiments.paper.tables import Column, Row, Table, main, shown, unpublished

TASKS = ("carla_highway", "carla_ghost_pedestrian")
METHODS = ("sac", "rad", "covr:sac")


def make_table(tasks: list[str], methods: list[str]) -> Table:
    """Returns the runs of the study.

    Args:
      tasks: in which a policy is trained, and in which every policy is evaluated.
      methods: as sweep.py names them, ``method`` or ``method:base``.

    Raises:
      ConfigError: fewer than two tasks, a task or a method twice, or a method that has no policy of its own.
    """
    if len(set(tasks)) < max(2, len(tasks)):
        raise ConfigError(f"--tasks needs two different tasks or more, got {' '.join(tasks)}")
    if len(set(methods)) < len(methods):
        raise ConfigError(f"--methods names one twice: {' '.join(methods)}")
    rows = []
    for method in methods:
        name, _, base = method.partition(":")
        if name in VLM_POLICY_METHODS:
            raise ConfigError(f"{name} has no policy but the VLM's, which evaluate.py does not run")
        options = ("--method", name, *(("--base", base) if base else ()))
        rows.append(Row(method, method.replace(":", "_"), options, unpublished(len(tasks))))
    columns = tuple(Column(task, task) for task in tasks)
    return Table("Cross-scenario generalisation (return, no published numbers)", columns, tuple(rows))


TABLE = make_table(list(TASKS), list(METHODS))


def check_tasks(tasks: list[str]) -> None:
    """Raises ConfigError for unknown tasks, or tasks of different numbers of actions, before anything is trained."""
    cli.import_quietly()
    from covr_jax.training.restore import in_task

    for task in tasks:
        in_task(Config(task=tasks[0]), task)


def measure(jobs: list[sweep.Job], tasks: list[str], episodes: int) -> None:
    """Evaluates finished runs in all tasks; what was evaluated before, at the run's present length, is kept.

    Args:
      jobs: the runs; those without a result are left out.
      tasks: to evaluate in.
      episodes: of each evaluation.
    """
    from covr_jax import runtime

    runtime.configure()
    for job in jobs:
        for task in tasks if (job.run_dir / "result.json").exists() else ():
            found = read_evaluation(job.run_dir, task)
            if found and found["episodes"] == episodes:
                continue
            row = evaluate.measure(job.run_dir, episodes, task=task)
            _forget_programs()
            path = _path(job.run_dir, task)
            path.parent.mkdir(exist_ok=True)
            write_json(path, row)
            print(evaluate.line(row), flush=True)


def _forget_programs() -> None:
    """Drops the compiled programs of a run: those of all runs would map more memory than Linux lets one process."""
    import jax

    jax.clear_caches()
    gc.collect()


def _path(run_dir: Path, task: str) -> Path:
    return run_dir / "evaluations" / f"{task}.json"


def read_evaluation(run_dir: Path, task: str) -> dict[str, Any] | None:
    """Returns what ``measure`` wrote; None without it, or where the run has gone on since."""
    path, result = _path(run_dir, task), run_dir / "result.json"
    if not (path.exists() and result.exists()):
        return None
    row = json.loads(path.read_text(encoding="utf-8"))
    return row if row["env_steps"] == json.loads(result.read_text(encoding="utf-8"))["env_steps"] else None


def evaluations(table: Table, seeds: list[int], root: Path) -> list[dict[str, Any]]:
    """Returns all evaluations of the runs, each with the ``label`` of the table's row."""
    tasks, rows = [column.task for column in table.columns], []
    for row in table.rows:
        for trained_on in tasks:
            for seed in seeds:
                folder = root / trained_on / str(row.run) / f"seed{seed}"
                found = (read_evaluation(folder, task) for task in tasks)
                rows += [{"label": row.label, **one} for one in found if one]
    return rows


def by_task(table: Table, seeds: list[int], root: Path, output: Path | None = None) -> str:
    """Formats the returns by the task of the training and that of the evaluation: mean and std over the seeds.

    Args:
      table: of the runs.
      seeds: of the runs; those that are missing are left out.
      root: directory of the runs.
      output: JSON file to write all evaluations to.
    """
    tasks, rows = [column.task for column in table.columns], evaluations(table, seeds, root)
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["trained_on"], row["task"]), []).append(row)
    lines = [["", "trained on", *(f"evaluated on {task}" for task in tasks)]]
    for row in table.rows:
        for trained_on in tasks:
            cells = [_cell(groups.get((row.label, trained_on, task), [])) for task in tasks]
            lines.append([row.label, trained_on, *cells])
    lines.append([RANDOM, "–", *(_random(table, seeds, root, task) for task in tasks)])
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(to_json({"title": table.title, "evaluations": rows}, indent=1) + "\n", encoding="utf-8")
    return f"**{table.title}**\n\n{markdown(lines)}"


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    values, source = [row["return"] for row in rows], rows[0]["renderer"]
    return shown(Cell(rows[0]["task"], f"({source})", float(np.mean(values)), float(np.std(values)), len(values)))


def _random(table: Table, seeds: list[int], root: Path, task: str) -> str:
    """Formats the random policy's return as the runs that were trained on the task measured it."""
    folders = [root / task / str(row.run) / f"seed{seed}" for row in table.rows for seed in seeds]
    found = [read_final(folder) for folder in folders if (folder / "result.json").exists()]
    values = [final.random for final in found if final and final.random is not None]
    if not values:
        return ""
    name = next(final.method for final in found if final)
    return shown(Cell(task, name, float(np.mean(values)), float(np.std(values)), len(values)))


def run() -> None:
    """Reads the options of this script and runs the command line of the tables."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help="two or more")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD[:BASE]")
    parser.add_argument("--episodes", type=int, default=10, help="of each evaluation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON file to write, with every evaluation")
    own, _ = parser.parse_known_args()
    try:
        table = make_table(own.tasks, own.methods)
        check_tasks(own.tasks)
        if own.episodes < 1:
            raise ConfigError(f"--episodes must be at least 1, got {own.episodes}")
    except ConfigError as error:
        cli.fail(error)
    evaluated = partial(measure, tasks=own.tasks, episodes=own.episodes)
    main(table, __doc__ or "", partial(by_task, output=own.json), measure=evaluated, parent=parser)


if __name__ == "__main__":
    run()
