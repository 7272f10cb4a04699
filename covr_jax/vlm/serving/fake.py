"""A stand-in for the VLM for runs and tests without a model. Needs no Torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covr_jax.types import Prior
from covr_jax.vlm.codec import max_answer_tokens
from covr_jax.vlm.prompts import Prompt
from covr_jax.vlm.serving.protocol import Question, Report, fresh_counters

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Actions, Frames, Weights


class FakeVLM:
    """Deterministic engine: answers depend on the frames' brightness and a bias that fine-tuning moves.

    About a fifth of the answers is invalid.
    """

    name, parameter_count, memory_bytes = "fake", "1 of 1", 8
    prompt = Prompt("", "Which way?")
    working: Callable[[], None] | None = None

    def __init__(self, action_dim: int = 1):
        self.action_dim, self.bias, self.enabled = action_dim, 0.0, True
        self.counters = fresh_counters()
        self.question = Question(self.prompt, True, None, action_dim, None, max_answer_tokens(action_dim))

    def query(self, frames: Frames) -> Prior:
        """As ``VLMEngine.query``, with NumPy arrays."""
        frames = np.asarray(frames)
        level = frames.mean((1, 2, 3))[:, None] + np.arange(self.action_dim)
        valid = frames.sum((1, 2, 3), dtype=int) % 5 > 0
        action = np.where(valid[:, None], np.sin(level + self.bias * self.enabled), 0.0).astype(np.float32)
        self.counters["queries"] += 1
        self.counters["frames"] += len(frames)
        self.counters["parse_failures"] += int((~valid).sum())
        return Prior(action, valid)

    def answer(self, frames: Frames) -> list[str]:
        """Returns the same text for every frame."""
        return ["Action: [0.00]"] * len(frames)

    def finetune(
        self, frames: Frames, actions: Actions, weights: Weights, progress: Report | None = None
    ) -> dict[str, Any]:
        """Adds the weighted sum of the actions' first component to the bias."""
        actions, weights = np.asarray(actions), np.asarray(weights)
        if not len(frames) == len(actions) == len(weights):
            raise ValueError(f"{len(frames)} frames, {len(actions)} actions and {len(weights)} weights do not match")
        if progress is not None:
            progress(1, 1, 0.5)
        self.bias += float((actions[:, 0] * weights).sum())
        self.counters["rounds"] += 1
        return {"finetune_losses": [0.5], "seconds": 0.0, "rolled_back": False}

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[FakeVLM]:
        """Context in which the bias has no effect."""
        before, self.enabled = self.enabled, False
        try:
            yield self
        finally:
            self.enabled = before

    def save_adapter(self, directory: Path) -> None:
        """Writes the bias to a directory."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / "bias.json").write_text(json.dumps(self.bias))

    def load_adapter(self, directory: Path) -> None:
        """Reads the bias from a directory. Raises RuntimeError if it cannot be read."""
        try:
            self.bias = json.loads((Path(directory) / "bias.json").read_text())
        except (OSError, ValueError) as error:
            raise RuntimeError(f"cannot read the adapter {directory}") from error
