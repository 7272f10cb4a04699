"""Named points of saving, rounds and finishing at which a run can be killed: just before and just after a function."""

from __future__ import annotations

import functools
import importlib
import os
import signal
from typing import Any, NamedTuple

# Two rounds, three evaluations and a dozen checkpoints.
OPTIONS = (
    "--method covr --base sac --vlm fake --vlm.every 5 --vlm.held-out 4 --covr.psi-0 1600 --covr.cold-start-rounds 1"
    " --covr.min-keep 4"
)


class Point(NamedTuple):
    """``owner`` is a module, or ``module:Class``; ``call`` counts from 1."""

    owner: str
    function: str
    call: int
    after: bool

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} call {self.call} of {self.owner}.{self.function}"


_CALLS = (
    # A checkpoint: from the second on there is an earlier one to fall back to.
    ("covr_jax.io.checkpoint:Checkpointer", "save", 2),
    ("covr_jax.io.checkpoint", "write_json", 2),
    ("covr_jax.io.arrays", "host_copy", 2),
    ("covr_jax.io.arrays", "save", 2),
    ("covr_jax.io.manifest", "write_manifest", 2),
    ("pathlib:Path", "rename", 3),
    ("covr_jax.io.checkpoint", "sync_directory", 3),
    ("shutil", "rmtree", 3),
    # A round.
    ("covr_jax.training.rounds:FinetuneScheduler", "start", 1),
    ("covr_jax.training.rounds:FinetuneScheduler", "complete", 1),
    ("covr_jax.training.rounds:FinetuneScheduler", "_write", 2),
    # A row, an evaluation, the best policy so far.
    ("covr_jax.io.metrics:MetricsLogger", "write", 9),
    ("covr_jax.training.trainer:Trainer", "evaluate", 2),
    ("covr_jax.training.trainer:Trainer", "save_best", 1),
    # The end.
    ("covr_jax.training.loop:AgentTrainer", "after_training", 1),
    ("covr_jax.io.metrics:MetricsLogger", "close", 1),
    ("covr_jax.training.loop:AgentTrainer", "finish", 1),
    ("covr_jax.report", "write_report", 1),
)
POINTS = tuple(Point(*call, after) for call in _CALLS for after in (False, True))


def kill_at(point: Point) -> None:
    """Makes this process kill itself with SIGKILL when it comes to a point."""
    module, _, name = point.owner.partition(":")
    owner: Any = importlib.import_module(module)
    owner = getattr(owner, name) if name else owner
    function, calls = getattr(owner, point.function), 0

    @functools.wraps(function)
    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        here = calls == point.call
        if here and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = function(*arguments, **options)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, point.function, watched)
