"""Sweeps: their runs, and what is refused; how runs are launched is in test_launch, test_ray_sweep and test_slurm."""

import json
import sys
from pathlib import Path

import pytest

from covr_jax.commands import cli, sweep
from covr_jax.config import ConfigError, to_dict
from covr_jax.io.run_dir import Result


def test_each_run_has_its_own_directory_and_options():
    jobs = sweep.make_jobs(["walker_walk"], ["rad", "covr:sac"], [1, 2], Path("runs"), ["--preset", "cpu"])
    assert [str(job.run_dir) for job in jobs] == [
        "runs/walker_walk/rad/seed1",
        "runs/walker_walk/covr_sac/seed1",
        "runs/walker_walk/rad/seed2",
        "runs/walker_walk/covr_sac/seed2",
    ]
    config = cli.parse_config(cli.split_option(jobs[3].arguments, "run-dir")[1], "train.py", "")
    assert (config.task, config.method, config.base, config.seed) == ("walker_walk", "covr", "sac", 2)
    assert config.preset == "cpu"


def test_finished_runs_are_left_and_other_options_are_refused(tmp_path):
    jobs = sweep.make_jobs(["cartpole_swingup"], ["rad"], [1, 2], tmp_path, ["--preset", "cpu"])
    done = jobs[0].run_dir
    done.mkdir(parents=True)
    config = cli.parse_config(cli.split_option(jobs[0].arguments, "run-dir")[1], "train.py", "")
    (done / "config.json").write_text(json.dumps(to_dict(config)))
    assert sweep.unfinished(jobs) == jobs
    (done / "result.json").write_text("{}")  # damaged: it is evaluated again
    assert sweep.unfinished(jobs) == jobs
    (done / "result.json").write_text(json.dumps(Result(1.0, 0.0, 0.5, 100_000, 9.0)._asdict()))
    assert sweep.unfinished(jobs) == jobs[1:]
    other = sweep.make_jobs(["cartpole_swingup"], ["rad"], [1], tmp_path, ["--preset", "demo"])
    with pytest.raises(ConfigError, match=r"holds a run with other options: .* choose another --run-dir"):
        sweep.unfinished(other)


def test_wrong_options_are_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--root", str(tmp_path), "--sac.batchsize", "3"])
    with pytest.raises(SystemExit) as stopped:
        sweep.main()
    assert stopped.value.code == 2 and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith("error: Unrecognized options: --sac.batchsize")
