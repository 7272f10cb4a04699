"""Several runs in one image, and the script that draws it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from covr_jax.commands import plot as plot_script
from covr_jax.report import ReportError
from covr_jax.report.compare import COLORS, DASHES, Curve, method_styles, over_seeds, read_curve, write_comparison
from covr_jax.report.data import method_name
from tests.support.synthetic_run import make_run

SCRIPT = Path(__file__).parents[2] / "experiments" / "plot.py"


def curve(x, y, method="covr"):
    return Curve("task", method, np.array(x, float), np.array(y, float), None)


def plot(*arguments, cwd):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_seeds_by_hand():
    x, mean, low, high = over_seeds([curve([0, 10, 20], [0, 10, 20]), curve([0, 20], [40, 0])])
    np.testing.assert_array_equal(x, [0, 10, 20])  # the second is 20 at 10, halfway
    np.testing.assert_array_equal(mean, [20, 15, 10])
    np.testing.assert_array_equal(low, [0, 10, 0])
    np.testing.assert_array_equal(high, [40, 20, 20])
    _, mean, low, high = over_seeds([curve([5], [1.0]), curve([5], [5.0])], band="std")
    assert (mean[0], low[0], high[0]) == (3, 1, 5)


def test_only_the_steps_that_all_seeds_reached():
    x, *_ = over_seeds([curve([0, 10, 20, 30], [0, 0, 0, 0]), curve([10, 20], [1, 1])])
    np.testing.assert_array_equal(x, [10, 20])
    with pytest.raises(ReportError, match="share no env step"):
        over_seeds([curve([0, 10], [0, 0]), curve([20, 30], [1, 1])])
    with pytest.raises(ReportError, match="unknown band"):
        over_seeds([curve([0], [0])], band="iqr")


def test_covr_has_the_same_colour_beside_any_methods():
    styles = method_styles({"rad", "apl", "covr"})
    assert [(name, style.color) for name, style in styles.items()] == list(
        zip(("covr", "apl", "rad"), COLORS, strict=False)
    )
    assert list(method_styles({"rad", "apl"})) == ["apl", "rad"]
    many = method_styles({f"method {i}" for i in range(2 * len(COLORS))})
    assert len(set(many.values())) == len(many) and {style.dash for style in many.values()} == set(DASHES[:2])


def test_read_curve(tmp_path):
    folder = make_run(tmp_path, rounds=0, method="rad", task="walker_walk")
    got = read_curve(folder)
    assert (got.task, got.method, got.random) == ("walker_walk", "rad", 27.4)
    np.testing.assert_array_equal(got.x, np.arange(10_000, 100_001, 10_000))


def test_runs_of_another_renderer_are_another_method(tmp_path):
    for renderer in ("jax", "gl"):
        folder = make_run(tmp_path / renderer, rounds=0, method="rad")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"renderer": renderer}))
    assert [read_curve(tmp_path / renderer).method for renderer in ("jax", "gl")] == ["rad", "rad (gl)"]


def test_another_base_is_another_method():
    names = [method_name({"method": "covr", "base": base, "renderer": "jax"}) for base in ("rad", "sac")]
    assert names == ["covr", "covr on sac"]
    assert method_name({"method": "drq", "base": "sac", "renderer": "jax"}) == "drq"  # no base is used
    loopback = {"method": "apl", "base": "sac", "task": "carla_highway", "carla": {"endpoint": "loopback"}}
    assert method_name(loopback) == "apl on sac (loopback)"


def test_many_methods_have_their_legend_beside_the_axes_best_first(tmp_path):
    runs = [make_run(tmp_path / str(i), rounds=0, method=f"m{i}", seed=i) for i in range(8)]
    svg = write_comparison(runs, tmp_path / "compare.svg").read_text()
    last = {f"m{i}": read_curve(run).y[-1] for i, run in enumerate(runs)}
    shown = re.findall(r"<!-- (m\d) \(1 seed\) -->", svg)
    assert shown == sorted(last, key=lambda name: -last[name])


def test_image_groups_methods_and_tasks(tmp_path):
    runs = [
        make_run(tmp_path / f"{task}_{method}_{seed}", rounds=0, method=method, seed=seed, task=task)
        for task in ("walker_walk", "cheetah_run")
        for method in ("rad", "covr")
        for seed in (1, 2)
    ]
    svg = write_comparison(runs[:-1], tmp_path / "deep" / "compare.svg").read_text()
    for text in ("cheetah_run", "walker_walk", "covr (2 seeds)", "covr (1 seed)", "rad (2 seeds)", "random policy"):
        assert f"<!-- {text} -->" in svg
    assert write_comparison(runs, tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_a_common_step_keep_their_own_message(tmp_path):
    runs = [make_run(tmp_path / str(seed), rounds=0, seed=seed) for seed in (1, 2)]
    for run, step in zip(runs, (10, 20), strict=True):
        (run / "metrics.jsonl").write_text(json.dumps({"env_steps": step, "eval/episode_return": 1.0}) + "\n")
    with pytest.raises(ReportError, match=r"^the runs of covr on cartpole_swingup share no env step"):
        write_comparison(runs, tmp_path / "compare.png")


def test_a_run_without_an_evaluation_or_an_unknown_image_format_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"env_steps": 5, "losses/critic": 1.0}) + "\n")
    with pytest.raises(ReportError, match="no evaluation to compare yet"):
        write_comparison([tmp_path], tmp_path / "compare.png")
    with pytest.raises(ReportError, match=r"compare\.nonsense: cannot be written"):
        write_comparison([make_run(tmp_path / "run", rounds=0)], tmp_path / "compare.nonsense")


def test_script_rebuilds_reports_and_compares_several(tmp_path):
    runs = [make_run(tmp_path / str(seed), rounds=0, seed=seed) for seed in (1, 2)]
    for run in runs:  # evaluations alone, so that few charts are drawn
        rows = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "eval/episode_return" in line]
        names = ("env_steps", "eval/episode_return")
        rows = [json.dumps({name: json.loads(row)[name] for name in names}) for row in rows]
        (run / "metrics.jsonl").write_text("\n".join(rows))
    done = plot(*runs, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"{runs[0]}/report.html", f"{runs[1]}/report.html", "compare.png"]
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    one = plot(runs[0], cwd=runs[0])
    assert one.stdout.split() == [f"{runs[0]}/report.html"] and not (runs[0] / "compare.png").exists()


@pytest.mark.field
def test_runs_that_cannot_be_written_to_are_compared(tmp_path, monkeypatch, capsys):
    def refuse(run_dir):
        raise PermissionError(13, "Permission denied")

    runs = [make_run(tmp_path / str(seed), rounds=0, seed=seed) for seed in (1, 2)]
    monkeypatch.setattr(plot_script, "write_report", refuse)
    assert plot_script.main([*map(str, runs), "--output", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").stat().st_size > 10_000
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "stays as it is: [Errno 13] Permission denied" in said[0]
    assert plot_script.main([str(runs[0])]) == 2


@pytest.mark.field
@pytest.mark.parametrize("arguments", [["missing"], ["."], [], ["--band", "iqr", "."]])
def test_script_explains_in_one_line_and_exits_with_2(tmp_path, arguments):
    done = plot(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("plot.py: ")
