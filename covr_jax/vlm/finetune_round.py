"""Runs one round of fine-tuning on an engine and measures its effect, in the engine's own thread or process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from covr_jax.vlm.serving.protocol import Engine, FinetuneBatch, PriorError, Report

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Actions, Frames


def run_finetune_round(engine: Engine, batch: FinetuneBatch, report: Report | None = None) -> dict[str, Any]:
    """Fine-tunes an engine on a batch and measures the action error on its held-out samples.

    Args:
      engine: is fine-tuned.
      batch: training and held-out samples.
      report: called with the progress of the fine-tuning.

    Returns:
      trained (number of samples), finetune_loss (list), finetune_loss_floor, finetune_seconds, rolled_back,
      action_error, action_error_before, action_error_untuned (of the model without adapter; errors are None without a
      valid answer), answers (texts for the first ``batch.shown`` held-out frames) and, where the adapter could not be
      brought to a server, push_error.
    """
    before = action_error(engine, batch.heldout_frames, batch.heldout_action)
    with engine.disable_adapter():
        untuned = action_error(engine, batch.heldout_frames, batch.heldout_action)
    result = engine.finetune(batch.frames, batch.action, batch.weight, report)
    answers = engine.answer(batch.heldout_frames[: batch.shown])
    record = {
        "trained": len(batch.weight),
        "finetune_loss": result["finetune_losses"],
        "finetune_loss_floor": result.get("loss_floor", 0.0),
        "finetune_seconds": result["seconds"],
        "rolled_back": result["rolled_back"],
        "action_error": action_error(engine, batch.heldout_frames, batch.heldout_action),
        "action_error_before": before,
        "action_error_untuned": untuned,
        "answers": answers,
    }
    return record | ({"push_error": result["push_error"]} if "push_error" in result else {})


def action_error(engine: Engine, frames: Frames, action: Actions) -> float | None:
    """Returns mean |a_v - a_r| over samples and action components, where the answer is valid.

    Args:
      engine: gives a_v.
      frames: u8[N,H,W,C].
      action: f32[N,A], a_r.

    Returns:
      The mean, or None if no answer is valid, or a server gives none.
    """
    try:
        prior = engine.query(frames)
    except PriorError:  # a round must not be lost for its measurements
        return None
    valid = np.asarray(prior.valid)
    return float(np.abs(np.asarray(prior.action) - np.asarray(action))[valid].mean()) if valid.any() else None
