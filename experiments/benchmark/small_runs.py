"""Small runs in processes of their own, forked from one that has imported everything and woken no device."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covr_jax.commands import cli

OPTIONS = shlex.split(
    "--method sac --env.image-size 20 --env.samples 1 --env.action-repeat 40 --sac.hidden-dim 16 --sac.feature-dim 8"
    " --sac.num-filters 4 --sac.conv-kernels 3 3 --sac.conv-strides 2 2 --sac.batch-size 4 --sac.init-steps 40"
    " --replay.capacity 200 --run.log-every 400 --run.no-video --eval.episodes 1 --eval.every 1600"
    " --run.checkpoint-every 400 --total-steps 4000"
)
# In the names of what is not compared.
CLOCK = ("wall_s", "checkpoint/", "_per_second", "time/", "compile/", "mem/", "latency_s")


class Child:
    """A forked process that runs a function; what it prints goes to a file."""

    def __init__(self, work: Callable[[], Any], output: Path):
        self.output = output
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                work()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def wait(self, seconds: float = 300.0) -> int:
        """The exit code, or minus the signal that ended it.

        Raises:
          TimeoutError: it is still there after ``seconds``.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"a run is still there after {seconds:.0f} s; it said: {self.output.read_text()[-300:]}")


def train(directory: Path, more: str = "", prepare: Callable[[], None] = lambda: None) -> Child:
    """Starts, or goes on with, the run in a directory, as ``experiments/train.py`` does.

    Args:
      directory: of the run.
      more: options, which win over those of all trials.
      prepare: called first in the run's process.
    """
    from covr_jax.commands import train as script

    def work() -> None:
        prepare()
        sys.argv = ["train.py", *with_options(more), "--run-dir", str(directory)]
        script.run()

    return Child(work, directory.with_suffix(".txt"))


def with_options(more: str) -> list[str]:
    """The options of a trial, less those that are given in ``more``, and those."""
    given = shlex.split(more)
    names = [cli.option_name(argument) for argument in given if argument.startswith("--")]
    return [*cli.without(OPTIONS, names), *given]


def numbers(directory: Path) -> Any:
    """What a run came to, without what the clock decides."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not any(part in k for part in CLOCK)} for row in rows]
    result = json.loads((directory / "result.json").read_text())
    return rows, {name: result[name] for name in ("final_return", "random_return", "env_steps")}
