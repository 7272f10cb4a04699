"""A stand-in for the VLM: answers from the frames' brightness and a bias that fine-tuning moves. Needs no Torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from covr_jax.types import Array, Prior
from covr_jax.vlm.serving.protocol import Report, fresh_counters


class FakeVLM:
    """Deterministic engine for runs and tests without a model; a fifth or so of its answers is invalid."""

    name, parameter_count, memory_bytes = "fake", "1 of 1", 8
    prompt = SimpleNamespace(user="Which way?")

    def __init__(self, action_dim: int = 1):
        self.action_dim, self.bias, self.enabled = action_dim, 0.0, True
        self.counters = fresh_counters()

    def query(self, frames: Array) -> Prior:
        """As ``VLMEngine.query``; arrays of numpy."""
        frames = np.asarray(frames)
        level = frames.mean((1, 2, 3))[:, None] + np.arange(self.action_dim)
        valid = frames.sum((1, 2, 3), dtype=int) % 5 > 0
        action = np.where(valid[:, None], np.sin(level + self.bias * self.enabled), 0.0).astype(np.float32)
        self.counters["queries"] += 1
        self.counters["frames"] += len(frames)
        self.counters["parse_failures"] += int((~valid).sum())
        return Prior(action, valid)

    def answer(self, frames: Array) -> list[str]:
        """One text per frame."""
        return ["Action: [0.00]"] * len(frames)

    def finetune(self, frames: Array, actions: Array, weights: Array, progress: Report | None = None) -> dict[str, Any]:
        """The bias moves by the weighted sum of the actions' first component."""
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
        """Inside, the bias counts for nothing."""
        before, self.enabled = self.enabled, False
        try:
            yield self
        finally:
            self.enabled = before

    def save_adapter(self, directory: Path) -> None:
        """Writes the bias."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / "bias.json").write_text(json.dumps(self.bias))

    def load_adapter(self, directory: Path) -> None:
        """Reads the bias."""
        try:
            self.bias = json.loads((Path(directory) / "bias.json").read_text())
        except (OSError, ValueError) as error:
            raise RuntimeError(f"cannot read the adapter {directory}") from error
