"""Final returns of several runs: hand-worked means, and the script."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from covr_jax.report import ReportError
from covr_jax.report.intervals import Improvement, Interval, improvement, interquartile
from covr_jax.report.table import (
    AREA,
    Final,
    Origin,
    improvements,
    markdown,
    read_final,
    render,
    summarise,
    warnings,
)
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
    assert rad[:5] == ("walker", "rad", 200.0, 100.0, 2)
    assert rad.interval == Interval(200.0, 100.0, 300.0)  # of two values a resample is one, the other or both
    assert sac[:5] == ("walker", "sac", 7.5, 0.0, 1) and cheetah[:5] == ("cheetah", "sac", 1.0, 0.0, 1)
    assert sac.interval == Interval(7.5, None, None)
    assert (random.method, random.mean, random.seeds) == ("random policy", 30.0, 3)
    assert random.std == pytest.approx((200 / 3) ** 0.5)


def test_markdown_of_any_rows():
    assert markdown([["a", "b"], ["1", ""]]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 |  |"]


def test_a_cell_without_runs_is_empty():
    assert render(summarise(FINALS), ".md").splitlines()[:5] == [
        "|  | walker | cheetah |",
        "| --- | --- | --- |",
        "| rad | 200.0 ± 100.0 (2) |  |",
        "| sac | 7.5 ± 0.0 (1) | 1.0 ± 0.0 (1) |",
        "| random policy | 30.0 ± 8.2 (3) |  |",
    ]


def test_a_second_table_says_how_the_numbers_were_made():
    here = Origin("100,000", "jax", "mujoco", "abc", "cpu", "0.10.2")
    there = here._replace(commit="", device="NVIDIA H200")
    finals = [Final("walker", "rad", float(value), None, here) for value in (1, 2, 3, 100)]
    cells = summarise([*finals, Final("walker", "sac", 1.0, None, here), Final("walker", "sac", 2.0, None, there)])
    *_, rad, sac = render(cells, ".md").splitlines()
    assert rad.startswith("| walker | rad | 2.5 [1.")  # of four values the middle two
    assert rad.endswith(" | 4 | 100,000 | jax | mujoco | abc | cpu | 0.10.2 |")
    assert sac.startswith("| walker | sac | 1.5 [1.0, 2.0] | 2 | 100,000 | jax | mujoco | abc and unknown | ")
    assert sac.endswith(" | cpu and NVIDIA H200 | 0.10.2 |")
    assert warnings(cells) == [
        "rad on walker has 4 seeds",
        "sac on walker mixes runs of commit abc and unknown, device cpu and NVIDIA H200",
        "sac on walker has 2 seeds",
    ]
    assert warnings(summarise([*finals, finals[0]])) == []


def test_the_interval_is_that_of_all_resamples():
    """Four values have 256 resamples, whose 2.5% and 97.5% points the bootstrap approaches."""
    values = [3.0, 10.0, 18.0, 31.0]
    means = np.sort([np.mean(sorted(resample)[1:3]) for resample in itertools.product(values, repeat=4)])
    found = interquartile(values)
    assert found.iqm == 14.0
    for point, share in ((found.low, 0.025), (found.high, 0.975)):
        assert means[int(255 * (share - 0.01))] <= point <= means[int(np.ceil(255 * min(share + 0.01, 1.0)))]
    assert interquartile(values) == found  # the same resamples each time


def test_the_probability_of_improvement_counts_pairs():
    assert improvement([1.0, 5.0], [1.0]) == Improvement(0.75, None, None)  # a tie is half a win
    values, others = [3.0, 10.0, 18.0], [4.0, 10.0]
    found = improvement(values, others)
    assert found.probability == (0 + 0 + 1 + 0.5 + 1 + 1) / 6
    shares = np.sort(
        [
            np.mean([(x > y) + 0.5 * (x == y) for x in some for y in rest])
            for some in itertools.product(values, repeat=3)
            for rest in itertools.product(others, repeat=2)
        ]
    )
    for point, share in ((found.low, 0.025), (found.high, 0.975)):
        assert shares[int(107 * (share - 0.015))] <= point <= shares[int(np.ceil(107 * min(share + 0.015, 1.0)))]


def test_methods_are_compared_with_one_of_them():
    cells = summarise([*FINALS, Final("walker", "sac", 200.0, None)])
    rows = improvements(cells, "rad")
    assert rows[0][-1] == "better than rad: probability, 95% interval"
    assert [row[:2] for row in rows[1:]] == [["walker", "sac"]] and rows[1][2].startswith("0.25 [0.00, ")
    with pytest.raises(ReportError, match="no runs of 'drq' to compare with; there are rad, sac"):
        improvements(cells, "drq")


def test_latex_is_escaped():
    first, _ = render(summarise([Final("walker_walk", "a & b", 1.5, None)]), ".tex").split("\n\n")
    assert first.splitlines() == [
        r"\begin{tabular}{ll}",
        r" & walker\_walk \\",
        r"\hline",
        r"a \& b & 1.5 $\pm$ 0.0 (1) \\",
        r"\end{tabular}",
    ]


def test_other_kinds_say_the_same():
    cells = summarise(FINALS)
    found = json.loads(render(cells, ".json"))
    assert [(row["method"], row["mean"], row["iqm"]) for row in found] == [
        (cell.method, cell.mean, cell.interval.iqm) for cell in cells
    ]
    rows = list(csv.DictReader(render(cells, ".csv").splitlines()))
    assert [(row["method"], float(row["mean"])) for row in rows] == [(cell.method, cell.mean) for cell in cells]
    with pytest.raises(ReportError, match=r"unknown kind of table '.xls', expected one of .md, .csv, .json, .tex"):
        render(cells, ".xls")


def finished(folder, **options):
    run = make_run(folder, rounds=0, **options)
    (run / "result.json").write_text(json.dumps({"random_return": 27.4}))
    return run


def test_what_a_run_ended_with(tmp_path):
    run = finished(tmp_path, method="rad", task="walker_walk")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [row["eval/episode_return"] for row in rows if "eval/episode_return" in row][-1]
    assert read_final(run)[:4] == ("walker_walk", "rad", last, 27.4)
    with pytest.raises(ReportError, match=r"no metric eval/distance; it has eval/episode_return"):
        read_final(run, "eval/distance")
    (run / "result.json").unlink()
    assert read_final(run) is None


def test_the_area_under_a_curve_per_env_step(tmp_path):
    """From 10 to 30 over 100 env steps, then 30 over 200: (20 * 100 + 30 * 200) / 300."""
    run = make_run(tmp_path / "run", rounds=0)
    evaluations = [(100, 10.0), (200, 30.0), (400, 30.0)]
    rows = [{"env_steps": step, "eval/episode_return": value} for step, value in evaluations]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "result.json").write_text('{"random_return": 1.0}')
    assert read_final(run, AREA).value == pytest.approx(80 / 3)
    assert read_final(run, AREA).random == read_final(run).random is not None
    (run / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ReportError, match="no metric area; it has eval/episode_return"):
        read_final(run, AREA)


def test_the_script_leaves_out_what_has_not_finished(tmp_path):
    runs = [finished(tmp_path / str(seed), method="rad", task="walker_walk", seed=seed) for seed in (1, 2)]
    (runs[1] / "result.json").unlink()
    done = table(*runs, "--output", tmp_path / "new" / "table.csv")
    assert done.returncode == 0 and done.stderr.splitlines() == [
        f"table.py: {runs[1]} has not finished and is left out",
        "table.py: rad on walker_walk has 1 seed",
    ]
    assert done.stdout.splitlines()[2].startswith("| rad | ") and done.stdout.splitlines()[2].endswith("± 0.0 (1) |")
    written = (tmp_path / "new" / "table.csv").read_text()
    assert written.startswith(
        "task,method,mean,std,seeds,iqm,low,high,env_steps,renderer,physics,commit,device,jax\nwalker_walk,"
    )
    none = table(runs[1])
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.splitlines()[-1] == "table.py: no finished runs to tabulate"
