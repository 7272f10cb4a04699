"""Interface between the training loop and the VLM: the ``PriorService`` protocol and its records. No Torch, no JAX.

A service answers queries about frames with priors and fine-tunes the VLM on batches. The model behind it is an
``Engine``; whether the engine runs in this thread, in another thread, in a child process or is played back from a
recording is known to the service alone.

N samples, M held-out samples, H W image, C = 3 channels for each of ``vlm.frames`` successive frames (oldest first),
A action, or the cells of a map.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from covr_jax.types import Prior
from covr_jax.vlm.prompts import Prompt

if TYPE_CHECKING:  # a process whose VLM runs in a child must not pay for importing JAX
    from jaxtyping import Array, Float, UInt8

    Frames = UInt8[Array | np.ndarray, "N H W C"]
    Actions = Float[Array | np.ndarray, "N A"]
    Weights = Float[Array | np.ndarray, " N"]

# Counters of an engine that answers on a server: frames that it gave no answer to, adapters that it did not take.
SERVER_COUNTERS = ("unanswered", "push_failures")
Report = Callable[[int, int, float], None]  # progress of fine-tuning: (optimiser step, number of steps, loss)


class PriorError(RuntimeError):
    """The VLM gives no priors; the message is one line."""


class ModelInfo(NamedTuple):
    """Description of the VLM of a run."""

    name: str
    parameters: str  # trainable and total, as text
    prompt: str  # user part of the prompt
    memory_bytes: int  # of all weights in memory


class Answer(NamedTuple):
    """Priors for the frames of one ``submit``."""

    query_step: int  # as given to ``submit``
    prior: Prior  # action f32[N,A], valid bool[N]
    version: int  # of the adapter that answered; it grows by one with every round of fine-tuning


class FinetuneBatch(NamedTuple):
    """Samples of one round of fine-tuning, and held-out samples that measure the action error."""

    frames: Frames
    action: Actions
    weight: Weights  # w_b of Eq. 6
    heldout_frames: Frames  # u8[M,H,W,C]
    heldout_action: Actions  # f32[M,A]
    shown: int  # number of held-out frames whose answers are kept as text


class FinetuneResult(NamedTuple):
    """Result of one round of fine-tuning. After an error the adapter is the one from before the round."""

    record: dict[str, Any]  # of ``finetune_round.run_finetune_round``; empty after an error
    error: str = ""


class Question(NamedTuple):
    """What is asked with the frames of every sample, for a model behind an interface of text and images."""

    prompt: Prompt
    system_role: bool  # whether the model's chat template has a system turn
    image_size: int | None  # height = width to which frames are resized, pixels; None: as they are
    action_dim: int  # A
    pattern: str | None  # regular expression of the answers; None: free text
    max_tokens: int  # longest answer


class Engine(Protocol):
    """A model that answers and is fine-tuned, such as ``VLMEngine`` and ``FakeVLM``. All calls block."""

    name: str
    counters: dict[str, float]
    # Called now and then while a call computes, where the engine can tell; whoever waits sets it
    working: Callable[[], None] | None

    @property
    def parameter_count(self) -> Any:
        """Object whose ``str`` names the trainable and the total number of parameters."""
        ...

    @property
    def prompt(self) -> Any:
        """Object whose ``user`` is the user part of the prompt."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights in memory."""
        ...

    def query(self, frames: Frames) -> Prior:
        """Returns the priors a_v of N samples."""
        ...

    def answer(self, frames: Frames) -> list[str]:
        """Returns the answers as text, one per sample."""
        ...

    def finetune(
        self, frames: Frames, actions: Actions, weights: Weights, progress: Report | None = None
    ) -> dict[str, Any]:
        """Runs one round of fine-tuning with RALW. If it raises, the adapter is the one from before."""
        ...

    def disable_adapter(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which the untuned model answers."""
        ...

    def save_adapter(self, directory: Path) -> Any:
        """Writes the adapter to a directory."""
        ...

    def load_adapter(self, directory: Path) -> Any:
        """Reads what ``save_adapter`` wrote. Raises RuntimeError if that is not possible."""
        ...


class PriorService(Protocol):
    """Access of the training loop to the VLM.

    ``submit`` and ``submit_finetune`` start work; ``poll`` and ``poll_finetune`` collect results and wait for at most
    ``vlm.deadline_s`` (mode sync: until the work is done). ``query`` and ``restore``, which only measurements and the
    start of a run use, block; all other methods return at once.

    Times are *steps* of the replay: the number of time slots written so far. The step at which a query is submitted is
    its ``query_step``.
    """

    model_info: ModelInfo
    counters: dict[str, float]

    @property
    def fault(self) -> str:
        """What keeps the VLM from answering, one line; empty while it answers."""
        ...

    @property
    def ready(self) -> bool:
        """Whether ``submit_finetune`` may be called now."""
        ...

    def submit(self, query_step: int, frames: Frames) -> bool:
        """Submits a query about N frames.

        Args:
          query_step: step of the replay at which the query is made.
          frames: u8[N,H,W,C].

        Returns:
          False if the query was dropped (and counted as dropped), because the VLM is down or too many are pending.
        """
        ...

    def poll(self, step: int) -> list[Answer]:
        """Returns the answers that have arrived, oldest first, without those of an older adapter.

        Args:
          step: current step of the replay.
        """
        ...

    def submit_finetune(self, batch: FinetuneBatch) -> None:
        """Starts a round of fine-tuning; only when ``ready``, and one round at a time."""
        ...

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """Returns the result of the round, once; None while it is running.

        Args:
          report: called with the progress of the round.
          wait: block past the deadline, until the round ends or fails.
        """
        ...

    def query(self, frames: Frames) -> Prior:
        """Queries the VLM about N frames and blocks until it answers. Raises PriorError without an answer."""
        ...

    def save_adapter(self, directory: Path) -> Any:
        """Writes the newest adapter, which is always that of a completed round."""
        ...

    def restore(self, directory: Path, counters: dict[str, float], step: int) -> None:
        """Continues from a checkpoint.

        Args:
          directory: adapter of the checkpoint.
          counters: counters of the checkpoint.
          step: step of the replay at the checkpoint.

        Raises:
          RuntimeError: if the adapter cannot be read.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Returns metrics for the log."""
        ...

    def close(self) -> None:
        """Stops threads and processes."""
        ...


def model_info(engine: Engine) -> ModelInfo:
    """Returns the description of an engine."""
    return ModelInfo(engine.name, str(engine.parameter_count), engine.prompt.user, engine.memory_bytes)


def fresh_counters() -> dict[str, float]:
    """Returns the counters that every engine has: zeros."""
    return {"queries": 0, "frames": 0, "parse_failures": 0, "latency_s": 0.0, "query_s": 0.0, "rounds": 0}


def query_metrics(counters: dict[str, float]) -> dict[str, float]:
    """Returns the metrics that every service logs."""
    return {
        "vlm/queries": counters["queries"],
        "vlm/latency_s": counters["latency_s"],
        "vlm/parse_fail_rate": counters["parse_failures"] / max(counters["frames"], 1),
    }
