"""Final returns of several runs: hand-worked means, and the script."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from covr_jax.report import ReportError
from covr_jax.report.table import Cell, Final, markdown, read_final, render, summarise
from tests.support.synthetic_run import make_run

SCRIPT = Path(__file__).parents[2] / "experiments" / "table.py"
FINALS = [
    Final("walker", "rad", 100.0, 20.0),
    Final("walker", "rad", 300.0, 40.0),
    Final("walker", "sac", 7.5, 30.0),
    Final("cheetah", "sac", 1.0, None),
]


def table(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_means_and_deviations_by_hand():
    rad, sac, cheetah, random = summarise(FINALS)
    assert rad == Cell("walker", "rad", 200.0, 100.0, 2)
    assert sac == Cell("walker", "sac", 7.5, 0.0, 1) and cheetah == Cell("cheetah", "sac", 1.0, 0.0, 1)
    assert (random.method, random.mean, random.seeds) == ("random policy", 30.0, 3)
    assert random.std == pytest.approx((200 / 3) ** 0.5)


def test_markdown_of_any_rows():
    assert markdown([["a", "b"], ["1", ""]]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 |  |"]


def test_a_cell_without_runs_is_empty():
    assert render(summarise(FINALS), ".md").splitlines() == [
        "|  | walker | cheetah |",
        "| --- | --- | --- |",
        "| rad | 200.0 ± 100.0 (2) |  |",
        "| sac | 7.5 ± 0.0 (1) | 1.0 ± 0.0 (1) |",
        "| random policy | 30.0 ± 8.2 (3) |  |",
    ]


def test_other_kinds_say_the_same():
    cells = summarise(FINALS)
    assert [Cell(**row) for row in json.loads(render(cells, ".json"))] == cells
    rows = list(csv.DictReader(render(cells, ".csv").splitlines()))
    assert [(row["method"], float(row["mean"])) for row in rows] == [(cell.method, cell.mean) for cell in cells]
    with pytest.raises(ReportError, match=r"unknown kind of table '.xls', expected one of .md, .csv, .json"):
        render(cells, ".xls")


def finished(folder, **options):
    run = make_run(folder, rounds=0, **options)
    (run / "result.json").write_text(json.dumps({"random_return": 27.4}))
    return run


def test_what_a_run_ended_with(tmp_path):
    run = finished(tmp_path, method="rad", task="walker_walk")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [row["eval/episode_return"] for row in rows if "eval/episode_return" in row][-1]
    assert read_final(run) == Final("walker_walk", "rad", last, 27.4)
    with pytest.raises(ReportError, match=r"no metric eval/distance; it has eval/episode_return"):
        read_final(run, "eval/distance")
    (run / "result.json").unlink()
    assert read_final(run) is None


def test_the_script_leaves_out_what_has_not_finished(tmp_path):
    runs = [finished(tmp_path / str(seed), method="rad", task="walker_walk", seed=seed) for seed in (1, 2)]
    (runs[1] / "result.json").unlink()
    done = table(*runs, "--output", tmp_path / "new" / "table.csv")
    assert done.returncode == 0 and done.stderr == f"table.py: {runs[1]} has not finished and is left out\n"
    assert done.stdout.splitlines()[2].startswith("| rad | ") and done.stdout.splitlines()[2].endswith("± 0.0 (1) |")
    assert (tmp_path / "new" / "table.csv").read_text().startswith("task,method,mean,std,seeds\nwalker_walk,rad,")
    none = table(runs[1])
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.splitlines()[-1] == "table.py: no finished runs to tabulate"
