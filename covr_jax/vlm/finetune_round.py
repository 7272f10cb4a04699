"""Teaching one round's lesson to an engine and measuring what it changed; runs wherever the engine lives."""

from __future__ import annotations

from typing import Any

import numpy as np

from covr_jax.types import Array
from covr_jax.vlm.serving.protocol import Engine, FinetuneBatch, Report


def run_finetune_round(engine: Engine, lesson: FinetuneBatch, report: Report | None = None) -> dict[str, Any]:
    """Fine-tune on the lesson; the held-out samples measure the action error before, after and of the untuned model.

    Returns:
      trained, finetune_loss (list), finetune_seconds, rolled_back, action_error, action_error_before,
      action_error_untuned (None without a valid answer) and answers (texts for the first ``shown`` held-out frames).
    """
    before = action_error(engine, lesson.held_frames, lesson.held_action)
    with engine.disable_adapter():
        untuned = action_error(engine, lesson.held_frames, lesson.held_action)
    losses = engine.finetune(lesson.frames, lesson.action, lesson.weight, report)
    answers = engine.answer(lesson.held_frames[: lesson.shown])
    return {
        "trained": len(lesson.weight),
        "finetune_loss": losses["finetune_losses"],
        "finetune_seconds": losses["seconds"],
        "rolled_back": losses["rolled_back"],
        "action_error": action_error(engine, lesson.held_frames, lesson.held_action),
        "action_error_before": before,
        "action_error_untuned": untuned,
        "answers": answers,
    }


def action_error(engine: Engine, frames: Array, action: Array) -> float | None:
    """Mean |a_v - a_r| over samples (frames u8[N,H,W,C], actions f32[N,A]) and dimensions; None: no valid answer."""
    prior = engine.query(frames)
    valid = np.asarray(prior.valid)
    return float(np.abs(np.asarray(prior.action) - np.asarray(action))[valid].mean()) if valid.any() else None
