"""Runs as processes of a launcher: logs, processors, stopping, kills, locks; what is shown of them, and options."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from covr_jax.commands import sweep
from covr_jax.commands.launch import options as launching
from covr_jax.commands.launch.options import LaunchOptions, processor_shares, read_options
from covr_jax.commands.launch.process import Ended, Job, Killed, RunProcess, attempt
from covr_jax.commands.launch.progress import Progress, describe, read_state
from covr_jax.config import ConfigError
from covr_jax.io.run_dir import claim, wait_until_free
from tests.support import resumable_run
from tests.support.resumable_run import job_of, one_at_a_time

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


def wait_until(holds):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def log_of(job):
    return (job.run_dir / "train.log").read_text().splitlines()


def test_a_run_has_a_log_its_processors_and_its_variables(tmp_path):
    processor, job = min(os.sched_getaffinity(0)), job_of(tmp_path / "run", "--steps", "3")
    ended = attempt(job, os.getcwd(), [processor], {"CUDA_VISIBLE_DEVICES": "7"})
    assert ended.code == 0 and ended.words == log_of(job)[-1] and ended.words.startswith("final return ")
    command = f"$ python {resumable_run.__file__} --run-dir {job.run_dir} --steps 3"
    assert log_of(job)[:3] == [command, "devices 7 None", f"processors {processor}"]
    (start,) = map(json.loads, (job.run_dir / "starts.jsonl").read_text().splitlines())
    assert start["cuda_visible_devices"] == "7" and {"time", "host", "pid"} < set(start)


def test_an_error_of_its_own_is_told_in_the_last_line_of_the_log(tmp_path):
    job = job_of(tmp_path / "run", "--ends", "3")
    assert attempt(job, os.getcwd()) == Ended(3, "failed with exit code 3: error: ends with 3")


def test_a_folder_that_this_machine_does_not_have_is_told(tmp_path):
    ended = attempt(job_of(tmp_path / "run"), str(tmp_path / "elsewhere"))
    assert ended.code == 2 and "No such file or directory" in ended.words and not (tmp_path / "run").exists()


def test_a_killed_run_goes_on_when_it_is_started_again_and_comes_to_the_same(tmp_path):
    whole, broken = job_of(tmp_path / "whole"), job_of(tmp_path / "broken", "--dies", "1")
    attempt(whole, os.getcwd())
    with pytest.raises(Killed, match="killed by signal 9"):
        attempt(broken, os.getcwd())
    assert attempt(broken, os.getcwd()).code == 0
    assert log_of(broken)[-1] == log_of(whole)[-1]
    assert (broken.run_dir / "metrics.jsonl").read_text() == (whole.run_dir / "metrics.jsonl").read_text()


def test_a_run_that_is_asked_to_stop_keeps_its_state_and_no_signal_is_sent_to_it(tmp_path):
    """A second signal would end it at once, and schedulers send theirs to it as well."""
    job = job_of(tmp_path / "run", "--steps", "100000", "--stop-s", "0.5")
    with RunProcess(job) as process:
        wait_until(lambda: read_state(job.run_dir).env_steps)
        pid = json.loads((job.run_dir / "starts.jsonl").read_text())["pid"]
        assert os.getpgid(pid) == pid  # Ctrl-C in the launcher's terminal does not reach it
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: any("stopping after this chunk" in line for line in log_of(job)))
    assert process.wait() == 75
    words = log_of(job)[-1].split()
    assert words[:3] == ["stopped", "by", "SIGUSR1"] and int(words[4]) == read_state(job.run_dir).env_steps


KILLED = """
import os, signal, sys
from pathlib import Path
from covr_jax.commands.launch.process import RunProcess
from covr_jax.commands.launch.progress import read_state
from tests.support.resumable_run import job_of
process = RunProcess(job_of(Path(sys.argv[1]), "--steps", "100000", "--stop-s", "1"))
while not read_state(Path(sys.argv[1])).env_steps:
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_launcher_is_killed_stops_and_the_next_one_waits_for_it(tmp_path):
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(run_dir)]
    killed = subprocess.run(command, timeout=PATIENCE_S, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    job = job_of(run_dir, "--steps", "100000")
    with RunProcess(job) as again:
        wait_until(lambda: len((run_dir / "trace").read_text().split("\n")) > int(read_state(run_dir).env_steps or 0))
    assert again.wait() == 75
    assert next(line for line in log_of(job) if not line.startswith(("$", "d", "p"))).startswith(
        "stopped by its launcher"
    )
    assert one_at_a_time(run_dir)


def test_a_directory_that_is_in_use_is_waited_for(tmp_path):
    with claim(tmp_path):
        assert not wait_until_free(tmp_path, 0.0)
    held = claim(tmp_path)
    held.__enter__()
    timer = threading.Timer(0.3, lambda: held.__exit__(None, None, None))
    timer.start()
    assert wait_until_free(tmp_path, PATIENCE_S)
    assert not timer.is_alive()


def test_the_worker_of_a_run_imports_nothing_heavy():
    code = "import sys, covr_jax.commands.launch.process\nprint([n for n in {} if n in sys.modules])"
    heavy = ("jax", "numpy", "torch", "tyro", "rich", "ray", "submitit")
    command = [sys.executable, "-c", code.format(heavy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_sweep_wakes_no_device(tmp_path):
    """JAX would take most of the memory of a GPU that is for the runs."""
    code = (
        "from pathlib import Path\nfrom covr_jax.commands import sweep\nfrom jax._src import xla_bridge\n"
        "jobs = sweep.make_jobs(['cartpole_swingup'], ['rad'], [1], Path({!r}), [])\n"
        "print(len(sweep.unfinished(jobs)), xla_bridge.backends_are_initialized())"
    )
    command = [sys.executable, "-c", code.format(str(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=ROOT)
    assert done.stdout.split() == ["1", "False"], done.stderr


# -------------------------------------------------------------------------------------- progress


def test_the_state_of_a_run_is_read_from_its_files(tmp_path):
    assert read_state(tmp_path) == (0, "", None, None, None)
    (tmp_path / "config.json").write_text('{"total_steps": 5000}')
    rows = [{"env_steps": n, "train/episode_return": n / 10} for n in range(1, 3000)]
    rows += [{"env_steps": 3000, "eval/episode_return": 12.5}, {"env_steps": 3010, "train/episode_return": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"env_steps": 30')
    (tmp_path / "starts.jsonl").write_text('{"host": "one"}\n{"host": "two"}\n')
    state = read_state(tmp_path)
    assert state == (2, "two", 3010, 5000, 12.5)
    assert state.words() == "3,010 of 5,000 env steps, return 12.5"
    assert describe(Job(tmp_path, [])) == f"{tmp_path}: 3,010 of 5,000 env steps, return 12.5"


def test_runs_are_shown_as_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    jobs = [Job(tmp_path / name, []) for name in "abc"]
    jobs[0].run_dir.mkdir()
    (jobs[0].run_dir / "starts.jsonl").write_text('{"host": "old"}\n')  # of an earlier sweep
    with Progress(jobs) as progress:
        progress.update()
        with (jobs[0].run_dir / "starts.jsonl").open("a") as file:
            file.write('{"host": "new"}\n')
        (jobs[0].run_dir / "metrics.jsonl").write_text('{"env_steps": 40, "train/episode_return": 1}\n')
        progress.update()
        progress.end(jobs[1], Ended(0, "final return 5.0"))
        progress.end(jobs[2], Ended(2, "failed with exit code 2: error: no such thing"))
        monkeypatch.setattr(time, "monotonic", lambda: float("inf"))
        progress.update()
    assert capsys.readouterr().out.splitlines() == [
        f"{jobs[0].run_dir}: started on new",
        f"{jobs[1].run_dir}: final return 5.0",
        f"{jobs[2].run_dir}: failed with exit code 2: error: no such thing",
        f"1 done, 1 running, 0 waiting, 1 failed; {jobs[0].run_dir} 40 env steps, return 1.0",
    ]


def test_a_terminal_gets_a_table_with_a_row_per_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    jobs = [Job(tmp_path / name, []) for name in "ab"]
    with Progress(jobs) as progress:
        progress.end(jobs[0], Ended(1, "failed"))
        progress.update()
    shown = capsys.readouterr().out
    assert all(word in shown for word in (str(jobs[1].run_dir), "waiting", "failed", "0 done, 0 running, 1 waiting"))


def test_show_says_how_far_runs_are_and_runs_nothing(tmp_path, monkeypatch, capsys):
    argv = ["sweep.py", "--methods", "rad", "--seeds", "1", "2", "--root", str(tmp_path), "--show"]
    monkeypatch.setattr(sys, "argv", argv)
    run_dir = tmp_path / "cartpole_swingup" / "rad" / "seed2"
    attempt(job_of(run_dir, "--steps", "2"), os.getcwd())
    assert sweep.main() == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("seed1: not begun")
    assert second == f"{run_dir}: done, {log_of(job_of(run_dir))[-1]}"


# --------------------------------------------------------------------------------------- options


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    launching.add_options(parser)
    return read_options(parser.parse_args(arguments))


def test_processors_are_divided(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5, 7, 11})
    assert processor_shares(2, None) == [[2, 3], [5, 7, 11]]
    assert processor_shares(None, None) == [[2, 3, 5, 7, 11]]
    assert processor_shares(None, 2) == [[2, 3], [5, 7]]
    assert processor_shares(1, 2) == [[2, 3]]
    for arguments, most, got in (
        (("--jobs", "6"), "--jobs must be between 1 and 5, the processors here", 6),
        (("--jobs", "3", "--cpus-per-run", "2"), "--jobs must be between 1 and 2, the processors here with", 3),
        (("--cpus-per-run", "6"), "--cpus-per-run must be between 1 and 5, the processors here", 6),
    ):
        with pytest.raises(ConfigError, match=f"^{most}.*, got {got}$"):
            parsed(*arguments)
    assert parsed("--jobs", "6", "--address", "auto").jobs == 6  # another machine may have them


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--retries", "-1"], "--retries must be at least 0, got -1"),
        (["--gpus-per-run", "1.5"], "--gpus-per-run must be a share up to 1 or a whole number, got 1.5"),
        (["--gpus-per-run", "-1"], "--gpus-per-run must be a share up to 1 or a whole number, got -1"),
        (["--gpus-per-run", "nan"], "--gpus-per-run must be a share up to 1 or a whole number, got nan"),
        (["--gpus", "0", "--address", "auto"], "--gpus names those of this machine and --address is a cluster"),
        (["--gpus", "0", "--launcher", "slurm"], "--gpus is not for --launcher slurm"),
        (["--address", "auto", "--launcher", "slurm"], "--address is not for --launcher slurm"),
        (["--slurm", "time=5"], "--slurm is not for --launcher ray"),
    ],
)
def test_launch_options_that_cannot_be_used_are_one_line(arguments, said):
    with pytest.raises(ConfigError) as refused:
        parsed(*arguments)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_that_is_not_installed_is_one_line_before_anything_runs(tmp_path, monkeypatch, launcher, package):
    monkeypatch.setattr(launching.importlib.util, "find_spec", lambda name: None)
    jobs = sweep.make_jobs(["cartpole_swingup"], ["rad"], [1], tmp_path, [])
    with pytest.raises(ConfigError, match=rf"need the package {package}: pip install 'covr_jax\[scale\]'"):
        sweep.run_all(jobs, LaunchOptions(launcher), Path("."))
    assert list(tmp_path.iterdir()) == []
