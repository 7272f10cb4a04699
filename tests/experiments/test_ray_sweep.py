"""Sweeps by Ray on this machine: kills, errors, stopping and GPUs, with a stand-in for training."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from covr_jax.commands.launch import ray_runs
from covr_jax.commands.launch.options import LaunchOptions
from covr_jax.commands.launch.process import attempt
from covr_jax.commands.launch.progress import describe, read_state
from covr_jax.config import ConfigError
from covr_jax.types import Preempted
from tests.support.resumable_run import job_of, one_at_a_time

pytestmark = pytest.mark.slow
GPUS = ("3", "1")  # Ray assigns them without looking for them
AT_A_TIME = min(2, len(os.sched_getaffinity(0)))


# Ray's processes are forked, which Linux refuses a process that maps more than the machine's memory, as one that has
# run hundreds of tests does.
RAY = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a command that a script starts in the background
import ray
from covr_jax.commands.launch import ray_runs
from covr_jax.commands.launch.options import LaunchOptions
with ray_runs.connected(LaunchOptions(visible=tuple(sys.argv[1:]))):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    """Ray on this machine for all tests of this file: it takes ten seconds to start."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    settings = os.environ | {"RAY_AUTH_MODE": "disabled"}  # its token would have to be known before Ray is imported
    with subprocess.Popen([sys.executable, "-c", RAY, *GPUS], env=settings, **pipes) as process:
        with ray_runs.connected(LaunchOptions(address=process.stdout.readline().strip())):
            yield
        process.stdin.close()


def process_of(run_dir):
    """The run's process that started last, where it still runs, and its worker of Ray, where that still runs."""
    try:
        pid = json.loads((run_dir / "starts.jsonl").read_text().splitlines()[-1])["pid"]
        status, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        worker = Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"ray::")
        return None if status == "Z" else (pid, int(parent) if worker else None)
    except (OSError, ValueError, IndexError):
        return None


class Killer(threading.Thread):
    """Kills processes of runs, or their workers, at random moments, until there were enough kills."""

    def __init__(self, run_dirs, kills, pause_s):
        super().__init__(daemon=True)
        self.run_dirs, self.left, self.pause_s, self.killed = run_dirs, kills, pause_s, []
        self.random, self.over = random.Random(1), threading.Event()

    def run(self):
        while self.left and not self.over.wait(self.random.uniform(*self.pause_s)):
            kind = len(self.killed) % 2  # in turns
            found = [process[kind] for run_dir in self.run_dirs if (process := process_of(run_dir)) and all(process)]
            if found:
                os.kill(self.random.choice(found), signal.SIGKILL)
                self.killed.append(kind)
                self.left -= 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def table(jobs):
    return [describe(job).removeprefix(str(job.run_dir)) for job in jobs]


def test_a_sweep_whose_processes_are_killed_gives_the_table_of_one_that_nothing_happened_to(tmp_path):
    def jobs_in(folder):
        return [job_of(folder / f"seed{n}", "--seed", str(n), "--steps", "80", "--step-s", "0.05") for n in range(6)]

    whole, broken = jobs_in(tmp_path / "whole"), jobs_in(tmp_path / "broken")
    assert ray_runs.run_all(whole, LaunchOptions(jobs=AT_A_TIME, gpus=0.0)) == []
    with Killer([job.run_dir for job in broken], 6, (0.5, 2.0)) as killer:
        assert ray_runs.run_all(broken, LaunchOptions(jobs=AT_A_TIME, gpus=0.0, retries=20)) == []
    assert table(broken) == table(whole) and "done, final return" in table(whole)[0]
    assert len(killer.killed) == 6 and sum(read_state(job.run_dir).starts for job in broken) >= 6 + 5
    assert all(one_at_a_time(job.run_dir) for job in broken)


def test_killed_runs_are_started_again_as_often_as_asked_and_failing_ones_are_not(tmp_path, capfd):
    jobs = [
        job_of(tmp_path / "dies", "--dies", "100"),
        job_of(tmp_path / "fails", "--ends", "3"),
        job_of(tmp_path / "ends"),
    ]
    assert ray_runs.run_all(jobs, LaunchOptions(jobs=1, gpus=0.0, retries=1)) == jobs[:2]
    assert [read_state(job.run_dir).starts for job in jobs] == [2, 1, 1]
    lines = capfd.readouterr().out.splitlines()
    assert f"{tmp_path}/dies: failed: killed by signal 9, as often as it was started (2)" in lines
    assert f"{tmp_path}/fails: failed with exit code 3: error: ends with 3" in lines
    assert any(re.fullmatch(rf"{tmp_path}/dies: started on \S+, again after 1 kills", line) for line in lines)


def test_a_sweep_that_is_asked_to_stop_stops_its_runs(tmp_path, monkeypatch):
    """Also where the first request is lost."""
    cancel, asked = ray.cancel, []
    monkeypatch.setattr(ray_runs, "_ASK_AGAIN_S", 1.0)
    monkeypatch.setattr(ray, "cancel", lambda run: asked.append(run) or len(asked) == 1 or cancel(run))
    jobs = [job_of(tmp_path / name, "--steps", "100000") for name in ("one", "two", "three")][: AT_A_TIME + 1]
    before, running = signal.getsignal(signal.SIGTERM), jobs[:AT_A_TIME]

    def stop_when_running():
        while not all(read_state(job.run_dir).env_steps for job in running):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_running, daemon=True).start()
    number = len(jobs)
    with pytest.raises(Preempted, match=f"stopped by SIGTERM with {number} of {number} runs to go"):
        ray_runs.run_all(jobs, LaunchOptions(jobs=AT_A_TIME, gpus=0.0))
    assert signal.getsignal(signal.SIGTERM) == before and not jobs[-1].run_dir.exists()
    for job in running:
        assert process_of(job.run_dir) is None
        last = (job.run_dir / "train.log").read_text().splitlines()[-1]
        assert last == f"stopped by its launcher at {read_state(job.run_dir).env_steps} env steps"


@pytest.mark.parametrize(("gpus", "share"), [(None, "None"), (0.5, "0.450")])
def test_ray_assigns_the_gpus(tmp_path, gpus, share):
    jobs = [job_of(tmp_path / name, "--steps", "100", "--step-s", "0.05") for name in "ab"]
    assert ray_runs.run_all(jobs, LaunchOptions(gpus=gpus)) == []
    devices = [(job.run_dir / "train.log").read_text().splitlines()[1].split()[1:] for job in jobs]
    assert {device for device, _ in devices} <= set(GPUS) and {found for _, found in devices} == {share}
    if AT_A_TIME == 2 and gpus is None:
        assert {device for device, _ in devices} == set(GPUS)


def test_more_gpus_than_there_are_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="--gpus-per-run 3 is more than the 2 GPUs that Ray finds here"):
        ray_runs.run_all([job_of(tmp_path / "run")], LaunchOptions(gpus=3.0))


def test_a_worker_imports_no_jax():
    def modules(name):
        __import__(name)
        return [heavy for heavy in ("jax", "torch", "mujoco") if heavy in sys.modules]

    assert ray.get(ray.remote(modules).options(num_cpus=1).remote(attempt.__module__)) == []
