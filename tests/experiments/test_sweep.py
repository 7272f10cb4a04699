"""Sweeps: their runs, shares of the machine, and runs that fail."""

import json
import os
import signal
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


def test_slots_share_the_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5, 7, 11})
    assert [sorted(slot.processors) for slot in sweep.make_slots(2, [])] == [[2, 3], [5, 7, 11]]
    gpus = sweep.make_slots(1, ["3", "1"])  # one run for each, however many jobs
    assert [slot.environment for slot in gpus] == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    for jobs in (0, 6):
        with pytest.raises(ConfigError, match=f"--jobs must be between 1 and 5, the processors here, got {jobs}"):
            sweep.make_slots(jobs, [])


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


def test_a_run_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\n"
        "print('cores', len(os.sched_getaffinity(0)), os.environ.get('CUDA_VISIBLE_DEVICES'))\n"
        "if 'bad' in sys.argv: sys.exit('error: no such thing')\n"
        "print('final return 5.0'); print('report: here')\n"
    )
    monkeypatch.setattr(sweep, "TRAIN", (str(script),))
    jobs = [sweep.Job(tmp_path / name, [name]) for name in ("good", "bad", "better")]
    slot = sweep.Slot(frozenset(sorted(os.sched_getaffinity(0))[:1]), {"CUDA_VISIBLE_DEVICES": "7"})
    assert sweep.run_all(jobs, [slot]) == [jobs[1]]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1::2] == [
        f"{tmp_path / 'good'}: final return 5.0",
        f"{tmp_path / 'bad'}: failed with exit code 1: error: no such thing",
        f"{tmp_path / 'better'}: final return 5.0",
    ]
    log = (tmp_path / "better" / "train.log").read_text().splitlines()
    assert log[:2] == [f"$ python {script} better", "cores 1 7"]


def test_a_sweep_that_is_terminated_terminates_its_runs(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text("import os, signal, time\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(600)\n")
    monkeypatch.setattr(sweep, "TRAIN", (str(script),))
    before, started, start = signal.getsignal(signal.SIGTERM), [], sweep._start
    monkeypatch.setattr(sweep, "_start", lambda job, slot: started.append(start(job, slot)) or started[-1])
    with pytest.raises(SystemExit) as ended:
        sweep.run_all([sweep.Job(tmp_path / "one", [])], sweep.make_slots(1, []))
    assert ended.value.code == 128 + signal.SIGTERM
    assert [process.returncode for process in started] == [-signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def test_wrong_options_are_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--root", str(tmp_path), "--sac.batchsize", "3"])
    with pytest.raises(SystemExit) as stopped:
        sweep.main()
    assert stopped.value.code == 2 and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith("error: Unrecognized options: --sac.batchsize")
