"""Jobs of SLURM, by submitit: the text that sbatch gets, and what a job does with SLURM's signals, on this machine."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import submitit

from covr_jax.commands.launch.options import LaunchOptions
from covr_jax.commands.launch.process import last_words
from covr_jax.commands.launch.progress import read_state
from covr_jax.commands.launch.slurm_runs import SlurmRun, parameters, submit
from covr_jax.config import ConfigError
from tests.support.resumable_run import job_of, one_at_a_time

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """SLURM's commands, as far as a submission calls them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in (("sbatch", "echo Submitted batch job 77"), ("srun", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_runs_are_an_array_of_jobs(tmp_path, sbatch):
    jobs, folder = [job_of(tmp_path / name) for name in "ab"], tmp_path / "slurm"
    slurm = ("time=240", "partition=gpu", "mem=32GB", "signal_delay_s=300", "setup=module load cuda")
    ids = submit(jobs, LaunchOptions("slurm", jobs=1, cpus=8, gpus=1.0, slurm=slurm), folder)
    assert ids == ["77_0", "77_1"]
    for job, number in zip(jobs, ids, strict=True):
        submitted = submitit.helpers.DelayedSubmission.load(folder / f"{number}_submitted.pkl")
        assert submitted.function.job == job
    lines = (folder / "77_submission.sh").read_text().splitlines()
    assert [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")] == [
        "array=0-1%1",
        "cpus-per-task=8",
        f"error={folder}/%A_%a_0_log.err",
        "gpus-per-node=1",
        "job-name=covr",
        "mem=32GB",
        "nodes=1",
        "open-mode=append",
        f"output={folder}/%A_%a_0_log.out",
        "partition=gpu",
        "requeue",
        "signal=USR1@300",
        "time=240",
        "wckey=submitit",
    ]
    setup = lines[lines.index("# setup") + 1 :][:3]
    expected = ["export SUBMITIT_PREEMPT_SIGNAL=USR1", f"export PYTHONPATH={ROOT}:$PYTHONPATH", "module load cuda"]
    assert setup == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (LaunchOptions("slurm"), "--launcher slurm needs --slurm time=MINUTES"),
        (LaunchOptions("slurm", slurm=("time=4:00:00",)), "--launcher slurm needs --slurm time=MINUTES"),
        (LaunchOptions("slurm", slurm=("time",)), "--slurm takes KEY=VALUE, got 'time'"),
        (LaunchOptions("slurm", gpus=0.5, slurm=("time=5",)), "SLURM gives whole GPUs to a job; --gpus-per-run 0.5"),
    ],
)
def test_parameters_that_slurm_would_not_take_are_one_line(options, said):
    with pytest.raises(ConfigError, match=f"^{said}"):
        parameters(options)


def test_an_unknown_parameter_and_a_machine_without_slurm_are_one_line(tmp_path, sbatch, monkeypatch):
    with pytest.raises(ConfigError, match=r"SLURM does not take the runs: Unavailable parameter\(s\): \['colour'\]$"):
        submit([job_of(tmp_path)], LaunchOptions("slurm", slurm=("time=5", "colour=red")), tmp_path / "slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match='SLURM does not take the runs: Could not detect "srun"'):
        submit([job_of(tmp_path)], LaunchOptions("slurm", slurm=("time=5",)), tmp_path / "slurm")


@pytest.fixture
def local(tmp_path, monkeypatch):
    """submitit's executor on this machine; a job that is queued again starts at once."""
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return submitit.LocalExecutor(tmp_path / "submitit")


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_job_is_queued_again_only_after_its_checkpoint(tmp_path):
    """SLURM ends a job at once that is queued again."""
    job, before = job_of(tmp_path / "run", "--steps", "1000", "--stop-s", "0.5"), signal.getsignal(signal.SIGUSR1)
    run = SlurmRun(job, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # what submitit has a handler for
    try:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while not read_state(job.run_dir).env_steps:
            time.sleep(0.02)
        again = run.checkpoint().function
        log = (job.run_dir / "train.log").read_text()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert log.splitlines()[-1].startswith("stopped by its launcher at") and (again.job, again.retries) == (job, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: signal.Signals(number).name)
def test_a_job_that_is_to_end_checkpoints_and_is_queued_again(local, tmp_path, number):
    """SLURM sends its signals to all processes of a job."""
    job = job_of(tmp_path / "run", "--steps", "200")
    submitted, end = local.submit(SlurmRun(job, 0)), time.monotonic() + 60
    while not read_state(job.run_dir).env_steps:
        assert time.monotonic() < end, submitted.stderr()
        time.sleep(0.02)
    pid = json.loads((job.run_dir / "starts.jsonl").read_text())["pid"]
    for process in (parent_of(pid), pid):
        os.kill(process, number)
    assert submitted.result() == last_words(job.run_dir, 0)
    state, log = read_state(job.run_dir), (job.run_dir / "train.log").read_text()
    assert (state.starts, state.env_steps) == (2, 200) and "stopped by " in log
    assert one_at_a_time(job.run_dir)


@pytest.mark.slow
def test_a_run_that_a_signal_killed_is_started_again_within_its_job_and_one_that_fails_is_not(local, tmp_path):
    killed, failing = job_of(tmp_path / "killed", "--dies", "1"), job_of(tmp_path / "failing", "--ends", "3")
    first, second = (local.submit(SlurmRun(job, 2)) for job in (killed, failing))
    assert first.result().startswith("final return")
    while not second.done():
        time.sleep(0.1)
    assert [read_state(job.run_dir).starts for job in (killed, failing)] == [2, 1]
    assert f"{failing.run_dir}: failed with exit code 3: error: ends with 3\n" in second.stdout()
