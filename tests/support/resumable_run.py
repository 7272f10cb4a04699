"""A run that costs no time, in place of train.py: it counts, and keeps what a real one keeps.

    python resumable_run.py --run-dir D --seed 1 [--steps 20] [--step-s 0.02] [--ends CODE] [--dies N] [--stop-s 0]

Its returns follow from seed and step alone, so that a run that went on equals one that nothing happened to. Every step
leaves a line with the process that made it in ``trace``. ``--ends`` ends with an error of its own, ``--dies N`` kills
itself after each of its first N steps, ``--stop-s`` is how long it takes to stop.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from covr_jax.commands.launch.process import Job
from covr_jax.commands.signals import stop_on_signals
from covr_jax.config import ConfigError
from covr_jax.io.files import write_json
from covr_jax.io.run_dir import Result, claim


def job_of(run_dir, *arguments):
    """The run as a launcher takes it."""
    return Job(run_dir, ["--run-dir", str(run_dir), *arguments], (__file__,))


def one_at_a_time(run_dir):
    """Whether no two processes made steps of a run in turns."""
    made = [line.split()[0] for line in lines_of(run_dir / "trace")]
    changes = sum(before != after for before, after in itertools.pairwise(made))
    return changes == len(set(made)) - 1


def lines_of(path):
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def main(own):
    folder, metrics = own.run_dir, own.run_dir / "metrics.jsonl"
    state = folder / "state.json"
    write_json(folder / "config.json", {"total_steps": own.steps})
    step = json.loads(state.read_text())["step"] if state.exists() else 0
    metrics.write_text("".join(lines_of(metrics)[:step]))  # as a real run cuts the rows after its checkpoint
    print("devices", os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION"))
    print("processors", *sorted(os.sched_getaffinity(0)), flush=True)
    if own.ends:
        print(f"error: ends with {own.ends}")
        return own.ends
    with stop_on_signals() as stop:
        while step < own.steps:
            if reason := stop():
                time.sleep(own.stop_s)
                print(f"stopped by {reason} at {step} env steps", flush=True)
                return 75
            time.sleep(own.step_s)
            step += 1
            value = random.Random(f"{own.seed} {step}").uniform(0, 100)
            with metrics.open("a") as file:
                file.write(json.dumps({"env_steps": step, "train/episode_return": value}) + "\n")
            with (folder / "trace").open("a") as file:
                file.write(f"{os.getpid()} {step}\n")
            write_json(state, {"step": step})
            if step <= own.dies:
                os.kill(os.getpid(), signal.SIGKILL)
    final = sum(json.loads(line)["train/episode_return"] for line in lines_of(metrics)) / step
    write_json(folder / "result.json", Result(final, 0.0, 50.0, step, 1.0)._asdict())
    print(f"final return {final:.1f}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--ends", type=int, default=0)
    parser.add_argument("--dies", type=int, default=0)
    parser.add_argument("--stop-s", type=float, default=0.0)
    options = parser.parse_args()
    options.run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as held:
            held.enter_context(claim(options.run_dir))
            code = main(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
