"""The scripts of the paper's tables: what they would run, and how results are shown beside the published ones."""

import importlib
import json
import sys
from functools import cache
from pathlib import Path

import pytest

from covr_jax.commands import cli
from covr_jax.config.validate import validate
from covr_jax.report.table import Cell
from covr_jax.training.resolve import resolve
from experiments.paper import bases, tables
from tests.support.synthetic_run import make_run

NAMES = (
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "hard",
    "vlms",
    "sensitivity",
    "car_racing",
    "iterations",
    "generalisation",
    "bases",
    "control",
    "readings",
)


def table(name):
    return importlib.import_module(f"experiments.paper.{name}").TABLE


def published(name, label):
    return next(row.published for row in table(name).rows if row.label == label)


@cache
def config_of(arguments):
    """The config of a run's arguments but for the directory; tables share runs."""
    return cli.parse_config([*arguments], "train.py", "")


CASES = [pytest.param(name, marks=pytest.mark.slow if name in ("table3", "table4") else []) for name in NAMES]


@pytest.mark.parametrize("name", CASES)
def test_every_run_has_options_that_train_takes_and_a_directory_of_its_own(name):
    jobs = tables.jobs_of(table(name), [1, 2], Path("runs"), [])
    configs = []
    for job in jobs:
        _, arguments = cli.split_option(job.arguments, "run-dir")
        configs.append(config_of((*arguments,)))
        validate(configs[-1])
    assert len(set(configs)) == len({job.run_dir for job in jobs}) == len(jobs)
    rows, columns = table(name).rows, table(name).columns
    tasks = {column.task for column in columns}
    assert len(jobs) == 2 * len(tasks) * sum(row.run is not None for row in rows)
    assert {config.task for config in configs} == tasks
    assert all(len(row.published) == len(columns) for row in rows)


@pytest.mark.slow
def test_tables_that_share_a_run_share_its_directory():
    runs = {}
    for name in NAMES:
        for job in tables.jobs_of(table(name), [1], Path("runs"), []):
            _, arguments = cli.split_option(job.arguments, "run-dir")
            runs.setdefault(job.run_dir, set()).add(config_of((*arguments,)))
    assert all(len(configs) == 1 for configs in runs.values())
    assert Path("runs/cartpole_swingup/covr/seed1") in runs and Path("runs/carla_highway/covr_sac/seed1") in runs


def parsed(name, options, clip=None):
    """Configs of a table's runs by directory."""
    configs = {}
    for job in tables.jobs_of(table(name), [1], Path("runs"), options, clip):
        _, arguments = cli.split_option(job.arguments, "run-dir")
        configs[job.run_dir.parent.name] = config_of((*arguments,))
    return configs


@pytest.mark.slow
@pytest.mark.parametrize("given", [["--vlm", "/models/qwen"], ["--vlm=/models/qwen"], ["--vlm.name", "/models/qwen"]])
def test_a_model_for_all_rows_is_not_for_those_that_name_one_or_need_a_clip(given):
    for clip, expected in ((None, parsed("table1", [])["dgc_like"].vlm.name), ("/models/clip", "/models/clip")):
        configs = parsed("table1", given, clip)
        assert configs["covr_sac"].vlm.name == "/models/qwen"
        assert configs["dgc_like"].vlm.name == expected != "/models/qwen"
    names = [config.vlm.name for config in parsed("vlms", given).values()]
    assert names == [config.vlm.name for config in parsed("vlms", []).values()] and len(set(names)) == 3


def test_a_row_keeps_what_it_sets():
    options = ["--covr.filter", "none", "--total-steps", "7000"]
    m5, hard = parsed("table5", options), parsed("hard", options)
    assert {config.total_steps for config in m5.values()} == {7000}
    assert {config.total_steps for config in hard.values()} == {500_000}
    top = [config.covr.filter for name, config in m5.items() if "top" in config.covr.filter]
    assert len(top) == 3


@pytest.mark.parametrize("option", [["--seed", "5"], ["--task=walker_walk"], ["--method", "rad"]])
def test_options_that_distinguish_the_runs_cannot_be_given_to_all(option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table3.py", "--root", str(tmp_path), *option])
    with pytest.raises(SystemExit) as stopped:
        tables.main(table("table3"), "")
    assert stopped.value.code == 2 and "tells the runs apart" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_paper_says_the_same_wherever_it_repeats_itself():
    assert [mean for mean, _ in published("table3", "RAD + COVR")] == [mean for mean, _ in published("table4", "COVR")]
    highway = [mean for mean, _ in published("table1", "COVR")]
    assert highway == [mean for mean, _ in published("table5", "COVR")]
    assert highway == [mean for mean, _ in published("vlms", "Qwen2.5-VL-3B")]


def test_ablations_differ_from_covr_in_what_their_row_says():
    table5 = {row.label: row for row in table("table5").rows}
    configs = {}
    for label, row in table5.items():
        configs[label] = cli.parse_config(["--task", "carla_highway", *row.options], "train.py", "")
    covr = configs["COVR"]
    assert (covr.method, covr.base) == ("covr", "sac")
    assert (resolve(covr).covr.guidance_weight, resolve(covr).covr.cold_start_rounds) == (2.0, 2)
    assert configs["M5 no z-score"].covr.z_score is False and covr.covr.z_score is True
    for number, share in enumerate((80, 90, 95), 2):
        assert configs[f"M{number} top {share}%"].covr.top_percentile == share
    assert configs["M11 50% of high return, no VLM"].replay.elite_share == 0.5


def test_results_are_shown_beside_the_published_ones(tmp_path):
    small = tables.Table(
        "T",
        (tables.Column("Walker", "walker_walk"),),
        (
            tables.Row("RAD", "rad", ("--method", "rad"), ((552, 87),)),
            tables.Row("COVR", "covr", tables.guided("covr", "rad"), tables.means(802)),
            tables.Row("Dreamer", None, (), tables.means(277)),
        ),
    )
    values = []
    for seed in (1, 2):
        folder = tmp_path / "walker_walk" / "rad" / f"seed{seed}"
        run = make_run(folder, rounds=0, method="rad", task="walker_walk", seed=seed)
        (run / "result.json").write_text('{"random_return": 1.0}')
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        values.append([row["eval/episode_return"] for row in rows if "eval/episode_return" in row][-1])
    cells = tables.cells_of(small, [1, 2, 3], tmp_path)
    (mean, spread) = sum(values) / 2, abs(values[0] - values[1]) / 2
    found = {place: cell[:5] for place, cell in cells.items()}
    assert found == {("RAD", "Walker"): ("walker_walk", "rad", pytest.approx(mean), pytest.approx(spread), 2)}
    assert tables.render(small, cells).splitlines()[2:] == [
        "|  | Walker, paper | Walker, ours |",
        "| --- | --- | --- |",
        f"| RAD | 552 ± 87 | {mean:.0f} ± {spread:.0f} (2) |",
        "| COVR | 802 |  |",
        "| Dreamer | 277 | not built |",
    ]


def test_results_of_the_loopback_server_are_marked():
    column = tables.Column("ER", "carla_highway")
    small = tables.Table("T", (column,), (tables.Row("SAC", "sac", (), ((69, 46),)),))
    text = tables.render(small, {("SAC", "ER"): Cell("carla_highway", "sac (loopback)", 12.4, 3.0, 1)})
    assert text.splitlines()[-1] == "| SAC | 69 ± 46 | 12 ± 3 (1) loopback |"


def test_the_script_lists_its_commands_and_runs_nothing(tmp_path, monkeypatch, capsys):
    options = ["--list", "--seeds", "4", "--root", str(tmp_path), "--scale", "cpu"]
    monkeypatch.setattr(sys, "argv", ["table3.py", *options])
    with pytest.raises(SystemExit) as stopped:
        tables.main(table("table3"), "")
    lines = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0 and len(lines) == 36 and list(tmp_path.iterdir()) == []
    command = "--task cartpole_swingup --preset cpu --method covr --base sac --seed 4 --run-dir "
    assert lines[1].endswith(f"{command}{tmp_path}/cartpole_swingup/covr_sac/seed4")


@pytest.mark.parametrize(("scale", "steps"), [("paper", 500_000), ("throughput", 500_000), ("demo", 340_000)])
def test_a_scale_is_a_preset_and_a_reduced_one_has_its_own_length(scale, steps):
    jobs = tables.jobs_of(table("hard"), [1], Path("runs"), [], scale=scale)
    configs = [config_of((*cli.split_option(job.arguments, "run-dir")[1],)) for job in jobs]
    assert {(config.preset, config.total_steps) for config in configs} == {(scale, steps)}


def test_a_reduced_scale_is_named_in_the_output(tmp_path, monkeypatch, capsys):
    def shown(*options):
        monkeypatch.setattr(sys, "argv", ["table3.py", "--show", "--root", str(tmp_path), *options])
        with pytest.raises(SystemExit) as stopped:
            tables.main(table("table3"), "")
        return stopped.value.code, capsys.readouterr()

    budget = "340,000 env steps (paper: 100,000), 40 pixels (paper: 100), 256 units (paper: 1,024)"
    assert f"Scale `demo`, a reduced budget: {budget}." in shown("--scale", "demo")[1].out
    assert "reduced" not in shown()[1].out
    code, refused = shown("--preset", "cpu")
    assert code == 2 and "--scale paper or throughput or cpu or demo instead of --preset" in refused.err


def test_some_rows_and_columns_are_run_alone():
    some = tables.part_of(table("table3"), ["SAC", "SAC + COVR"], ["Reacher"])
    assert [row.published for row in some.rows] == [((239, 183),), ((246, 345),)]
    assert {job.run_dir.parts[1:3] for job in tables.jobs_of(some, [1], Path("runs"), [])} == {
        ("reacher_easy", "sac"),
        ("reacher_easy", "covr_sac"),
    }
    with pytest.raises(tables.ConfigError, match=r"no row 'PPO'; it has SAC, SAC [+] COVR, DeepMDP"):
        tables.part_of(table("table3"), ["PPO"], None)


def test_finished_cells_have_intervals_and_are_warned_of(tmp_path):
    folder = tmp_path / "walker_walk" / "rad" / "seed1"
    run = make_run(folder, rounds=0, method="rad", task="walker_walk", seed=1)
    (run / "result.json").write_text('{"random_return": 1.0, "env_steps": 5000, "commit": "abc"}')
    small = tables.Table(
        "T", (tables.Column("Walker", "walker_walk"),), (tables.Row("RAD", "rad", (), tables.means(5)),)
    )
    text = tables.finals(small, [1, 2], tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| Walker | RAD |"))
    assert row.split(" | ")[3:5] == ["1", "5,000"] and "abc" in row
    assert text.endswith("* RAD on Walker has 1 seed")


def test_returns_of_the_vlm_alone_are_shown_by_round(tmp_path):
    iterations = importlib.import_module("experiments.paper.iterations")
    for seed, returns in ((1, [-10.0, 4.0]), (2, [-20.0])):
        for number, value in enumerate(returns):
            folder = tmp_path / "carla_highway" / "covr_sac_iterations" / f"seed{seed}" / "vlm" / f"round_{number}"
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(json.dumps({"round": number, "vlm_return": value}))
    lines = iterations.by_round(iterations.TABLE, [1, 2, 3], tmp_path).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[2:] == [["0", "-13", "-15 ± 5 (2)"], ["1", "–", "4 ± 0 (1)"], ["5", "97", ""]]


def test_agents_are_compared_with_themselves_and_covr(tmp_path):
    """Every COVR run ends higher than every RAD run; SAC has no run with COVR and is not compared."""
    finals = {"rad": (10.0, 20.0), "covr": (30.0, 40.0), "sac": (5.0, 7.0)}
    for run_name, values in finals.items():
        for seed, value in enumerate(values, 1):
            folder = tmp_path / "cartpole_swingup" / run_name / f"seed{seed}"
            run = make_run(folder, rounds=0, method=run_name, task="cartpole_swingup", seed=seed)
            rows = [{"env_steps": step, "eval/episode_return": value} for step in (0, 100)]
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (run / "result.json").write_text('{"random_return": 1.0}')
    text = bases.compared(bases.TABLE, [1, 2], tmp_path)
    assert "| Cartpole | RAD+COVR | 1.00 [1.00, 1.00] |" in text
    assert "| Cartpole area | RAD+COVR | 1.00 [1.00, 1.00] |" in text
    assert "| SAC | – | 6 ± 1 (2) |" in text and "| SAC+COVR | – |  | – |  |" in text
    assert text.count("[1.00, 1.00]") == 2
