"""What the loop knows of the VLM: one ``PriorService`` protocol, and the records that cross it. No Torch here.

A service answers frames with priors and is taught lessons. What runs the model behind it is an ``Engine``; where that
engine lives (here, in a thread, in a child process, in a recording) is the service's affair. N samples, H W image,
C = 3 channels for each of ``vlm.frames`` successive frames, the oldest first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from covr_jax.types import Array, Prior

Report = Callable[[int, int, float], None]  # (step, steps, loss) of the fine-tuning


class PriorError(RuntimeError):
    """The VLM cannot serve; the message is one line."""


class ModelInfo(NamedTuple):
    """What a run says about its VLM."""

    name: str
    parameters: str  # trainable and total, in words
    prompt: str  # the user's part of the question
    memory_bytes: int  # of all weights held


class Answer(NamedTuple):
    """Priors for the frames of one ``submit``."""

    time: int  # what ``submit`` was given
    prior: Prior  # action f32[N,A], valid bool[N]
    version: int  # of the adapter that answered; it grows by one with every lesson


class FinetuneBatch(NamedTuple):
    """One round's material: what is taught, and what measures it and is not."""

    frames: Array  # u8[N,H,W,C]
    action: Array  # f32[N,A]
    weight: Array  # f32[N], w_b of Eq. 6
    held_frames: Array  # u8[M,H,W,C]
    held_action: Array  # f32[M,A]
    shown: int  # of the held-out frames, how many are answered in words


class FinetuneResult(NamedTuple):
    """How a lesson ended. With an error the adapter is the one before the lesson."""

    record: dict[str, Any]  # as ``lesson.submit_finetune`` returns it; empty with an error
    error: str = ""


class Engine(Protocol):
    """A model that answers and learns; ``VLMEngine`` and ``FakeVLM``. Calls return when they are done."""

    name: str
    counters: dict[str, float]

    @property
    def parameter_count(self) -> Any:
        """Its ``str`` says how many."""
        ...

    @property
    def prompt(self) -> Any:
        """``prompt.user`` is the question."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights held."""
        ...

    def query(self, frames: Array) -> Prior:
        """a_v for u8[N,H,W,C]."""
        ...

    def answer(self, frames: Array) -> list[str]:
        """The same in words."""
        ...

    def finetune(self, frames: Array, actions: Array, weights: Array, progress: Report | None = None) -> dict[str, Any]:
        """One round of RALW. If it raises, the adapter is the one before."""
        ...

    def disable_adapter(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, the untuned model answers."""
        ...

    def save_adapter(self, directory: Path) -> Any:
        """Write the adapter."""
        ...

    def load_adapter(self, directory: Path) -> Any:
        """Read it. Raises RuntimeError if that is not possible."""
        ...


class PriorService(Protocol):
    """The VLM as the loop meets it. ``submit`` and ``submit_finetune`` hand over, ``poll`` and ``poll_finetune`` collect.

    Collecting waits at most ``vlm.deadline_s`` (mode sync: as long as it takes); nothing else waits at all, but
    ``query`` and ``restore``, which measurements and the start of a run use. Times are slots of the replay.
    """

    model_info: ModelInfo
    counters: dict[str, float]

    @property
    def ready(self) -> bool:
        """Whether a lesson may be handed over now."""
        ...

    def submit(self, time: int, frames: Array) -> None:
        """Hand over u8[N,H,W,C], seen up to ``time``; dropped (and counted) when too much is waiting already."""
        ...

    def poll(self, time: int) -> list[Answer]:
        """What has been answered by now, oldest first, without answers of an older adapter."""
        ...

    def submit_finetune(self, lesson: FinetuneBatch) -> None:
        """Hand over a lesson; only when ``ready``, and one at a time."""
        ...

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """The lesson's outcome, once; None while it goes on. ``wait``: past the deadline, until it ends or fails."""
        ...

    def query(self, frames: Array) -> Prior:
        """Ask and wait. Raises PriorError without an answer."""
        ...

    def save_adapter(self, directory: Path) -> Any:
        """Write the newest adapter that a whole lesson has made."""
        ...

    def restore(self, directory: Path, counters: dict[str, float], time: int) -> None:
        """Go on from a checkpoint of ``time``. Raises RuntimeError if its adapter cannot be read."""
        ...

    def metrics(self) -> dict[str, float]:
        """For the log."""
        ...

    def close(self) -> None:
        """Stop whatever runs."""
        ...


def model_info(engine: Engine) -> ModelInfo:
    """An engine's own description."""
    return ModelInfo(engine.name, str(engine.parameter_count), engine.prompt.user, engine.memory_bytes)


def fresh_counters() -> dict[str, float]:
    """What every engine counts."""
    return {"queries": 0, "frames": 0, "parse_failures": 0, "latency_s": 0.0, "query_s": 0.0, "rounds": 0}


def query_metrics(counters: dict[str, float]) -> dict[str, float]:
    """The rows that every mode logs."""
    return {
        "vlm/queries": counters["queries"],
        "vlm/latency_s": counters["latency_s"],
        "vlm/parse_fail_rate": counters["parse_failures"] / max(counters["frames"], 1),
    }
