"""LoRA fine-tuning with return-aware loss weighting (RALW). The weights of the samples are computed by ``covr.ralw``.

By hand, since the trainer of transformers takes no per-sample weights.
N samples, T label tokens, V vocabulary, H W image, C channels.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from covr_jax.checks import check_shape
from covr_jax.vlm.defaults import RELEASED
from covr_jax.vlm.grammar import Grammar
from covr_jax.vlm.models.images import preprocess
from covr_jax.vlm.models.loading import Backbone, PromptTokens, model_inputs
from covr_jax.vlm.passes import Passes, out_of_memory, plan_passes
from covr_jax.vlm.schedule import diverged, rate, smoothing_floor

IGNORE = -100  # label of a position that carries no loss


class FinetuneOptions(NamedTuple):
    """Options of one round of fine-tuning. Every round has a new optimiser; the adapter continues."""

    learning_rate: float = RELEASED.learning_rate
    batch_size: int = RELEASED.batch_size  # samples per optimiser step
    micro_batch: int | None = None  # samples per forward pass; None: as many as the free memory holds
    epochs: float = 1.0  # passes over the data, unless ``steps`` is given
    steps: int | None = None  # optimiser steps, cycling over the data
    warmup: float = RELEASED.warmup  # share of the steps with rising learning rate
    schedule: str = "constant"  # after the warm-up: 'constant', or 'linear' (decays to zero)
    label_smoothing: float = RELEASED.label_smoothing
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    # Recompute activations in the backward pass: less memory, about a third more time; with ``micro_batch`` None also
    # where few samples fit without it
    checkpointing: bool = False
    divergence: float | None = 1.0  # nats per token by which the loss may exceed its minimum; None: any


DEFAULT_OPTIONS = FinetuneOptions()


def ralw_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    label_smoothing: float,
    valid_tokens: int | None = None,
) -> torch.Tensor:
    """Computes L = 1/N_v * sum_b w_b * sum_t [(1-d) * -log p(y_bt) + d * mean_v -log p(v)] (Eq. 6 and its text).

    Args:
      logits: float[N,T,V], already aligned: position t predicts ``labels[:, t]``.
      labels: i64[N,T], IGNORE where a position has no loss.
      weights: f32[N] >= 0.
      label_smoothing: d in [0, 1].
      valid_tokens: N_v of the whole batch, if this is a part of it; None: the number of label tokens given here.
        Samples of weight zero count in N_v, so that a larger share of them makes a smaller step.

    Returns:
      f32[].
    """
    log_p = torch.log_softmax(logits.float(), -1)
    mask = labels != IGNORE
    target = labels.clamp_min(0)
    nll = -log_p.gather(-1, target[..., None])[..., 0]
    smoothed = (1.0 - label_smoothing) * nll - label_smoothing * log_p.mean(-1)
    per_sample = (smoothed * mask).sum(-1)
    valid_tokens = int(mask.sum()) if valid_tokens is None else valid_tokens
    return (weights * per_sample).sum() / max(valid_tokens, 1)


def encode_answers(grammar: Grammar, answers: list[str], device) -> torch.Tensor:
    """Returns the label tokens i64[N,T] of N answers, end of turn included, padded with IGNORE."""
    rows = [grammar.encode(answer) for answer in answers]
    labels = torch.full((len(rows), max(map(len, rows))), IGNORE, dtype=torch.long)
    for row, ids in zip(labels, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return labels.to(device)


def answer_logits(backbone: Backbone, prompt: PromptTokens, frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the logits float[N,T,V] that predict the label tokens.

    Args:
      backbone: model and image settings.
      prompt: of every sample.
      frames: u8[N,H,W,C].
      labels: i64[N,T]; IGNORE is replaced by token 0, whose position has no loss.
    """
    n = labels.shape[0]
    ids = torch.cat([prompt.ids.expand(n, -1), labels.clamp_min(0)], 1)
    inputs = model_inputs(backbone, preprocess(frames, backbone.image), ids, prompt)
    out = backbone.model(**inputs, use_cache=False, logits_to_keep=labels.shape[1] + 1)
    return out.logits[:, :-1]


def _checked_weights(frames: torch.Tensor, answers: list[str], weights: Any) -> np.ndarray:
    weights = np.asarray(weights, np.float32)
    if not len(frames) == len(answers) == len(weights):
        raise ValueError(f"{len(frames)} frames, {len(answers)} answers and {len(weights)} weights do not match")
    check_shape("weights", weights, (len(answers),))
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative")
    return weights


def finetune(
    backbone: Backbone,
    prompt: PromptTokens,
    grammar: Grammar,
    frames: torch.Tensor,
    answers: list[str],
    weights,
    options: FinetuneOptions = DEFAULT_OPTIONS,
    *,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict:
    """Runs one round of fine-tuning. Only parameters that require gradients (the adapter) change.

    Args:
      backbone: model with an adapter.
      prompt: of every sample.
      grammar: of the answers.
      frames: u8[N,H,W,C] on any device.
      answers: N texts of the grammar.
      weights: f32[N], w_b of Eq. 6.
      options: of the round.
      seed: of the order of samples and of dropout. Torch's global generators are not touched.
      progress: called as (step, number of steps, loss) after each optimiser step.

    Returns:
      finetune_loss (mean of the last tenth of the steps), finetune_loss_first, finetune_loss_last, finetune_losses
      (list), steps, seconds, skipped (batches whose weights are all zero), rolled_back, micro_batch (samples of the
      last pass, which shrinks where memory runs out) and loss_floor (what label smoothing leaves at least, times the
      mean weight). A loss or gradient that is not finite, or a loss that diverges, ends the round and restores the
      adapter from before it; the losses up to there are returned. An exception, also one from ``progress``, restores it
      too.

    Raises:
      ValueError: for differing lengths, or weights that are negative or not finite.
      VLMMemoryError: memory runs out even for one sample with recomputed activations.
    """
    weights = _checked_weights(frames, answers, weights)
    started = time.perf_counter()
    device = prompt.ids.device
    batches, skipped = _make_batches(weights, options, seed)
    before = [p.detach().clone() for p in _adapter(backbone)]
    labels = encode_answers(grammar, answers, device) if answers else None
    data = (frames, labels, torch.from_numpy(weights).to(device))
    losses: list[float] = []
    passes = Passes(backbone, *plan_passes(backbone, prompt, labels, options))
    succeeded = False
    try:
        with _train_mode(backbone.model), passes, _fork_rng(seed, device):
            succeeded = _optimise(backbone, prompt, data, batches, options, losses, progress, passes)
    finally:
        if not succeeded:
            with torch.no_grad():
                for parameter, old in zip(_adapter(backbone), before, strict=True):
                    parameter.copy_(old)
    seconds = time.perf_counter() - started
    vocabulary = backbone.model.config.get_text_config().vocab_size
    floor = smoothing_floor(options.label_smoothing, vocabulary) * (float(weights.mean()) if len(weights) else 0.0)
    return _summarise(losses, skipped, not succeeded, seconds) | {"micro_batch": passes.size, "loss_floor": floor}


def _adapter(backbone: Backbone) -> list[torch.nn.Parameter]:
    return [p for p in backbone.model.parameters() if p.requires_grad]


@contextlib.contextmanager
def _train_mode(model) -> Iterator[None]:
    """Context in training mode; restores the mode from before and removes gradients."""
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)


@contextlib.contextmanager
def _fork_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Context with Torch's generators seeded; restores their state from before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _optimise(backbone, prompt, data, batches, options: FinetuneOptions, losses: list[float], progress, passes) -> bool:
    """Runs all steps of a round and appends their losses. Returns False as soon as a step fails."""
    parameters, (frames, labels, weights) = _adapter(backbone), data
    optimizer = torch.optim.AdamW(
        parameters, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay
    )
    per_token: list[float] = []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate(step, len(batches), options)
        loss = _accumulate(backbone, prompt, frames, labels, weights, batch, options, passes)
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            return False
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        per_token.append(loss / float(weights[torch.as_tensor(batch, device=weights.device)].mean()))
        if progress is not None:
            progress(step + 1, len(batches), loss)
        if diverged(per_token, len(batches), options.divergence):
            return False
    return True


def _make_batches(weights: np.ndarray, options: FinetuneOptions, seed: int) -> tuple[list[np.ndarray], int]:
    """Returns the sample indices of every optimiser step, and the number of batches dropped as all weights are zero."""
    n, size = len(weights), min(options.batch_size, len(weights))
    if n == 0 or not weights.any():
        return [], 0
    rng = np.random.default_rng(seed)
    total = options.steps * size if options.steps is not None else round(options.epochs * n)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-total // n))])[:total]
    batches = [order[i : i + size] for i in range(0, total, size)]
    weighted = [b for b in batches if weights[b].any()]
    return weighted, len(batches) - len(weighted)


def _accumulate(backbone, prompt, frames, labels, weights, batch: np.ndarray, options, passes) -> float:
    """Accumulates the gradient of one batch over micro-batches, all divided by the batch's N_v. Returns the loss.

    Where memory runs out, the batch starts again in smaller passes.
    """
    while True:
        try:
            return _accumulate_once(backbone, prompt, frames, labels, weights, batch, options, passes.size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        backbone.model.zero_grad(set_to_none=True)  # outside of ``except``, which holds the failed pass's tensors
        passes.shrink()


def _accumulate_once(backbone, prompt, frames, labels, weights, batch: np.ndarray, options, size: int) -> float:
    index = torch.as_tensor(batch, device=labels.device)
    valid_tokens = int((labels[index] != IGNORE).sum())
    total = 0.0
    for part in torch.split(index, size):
        part_frames = frames[part.to(frames.device)].to(labels.device)
        logits = answer_logits(backbone, prompt, part_frames, labels[part])
        loss = ralw_loss(logits, labels[part], weights[part], options.label_smoothing, valid_tokens)
        loss.backward()
        total += float(loss.detach())
    return total


def _summarise(losses: list[float], skipped: int, rolled_back: bool, seconds: float) -> dict:
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "finetune_loss": float(np.mean(tail)) if tail else float("nan"),
        "finetune_loss_first": losses[0] if losses else float("nan"),
        "finetune_loss_last": losses[-1] if losses else float("nan"),
        "finetune_losses": losses,
        "steps": len(losses),
        "seconds": seconds,
        "skipped": skipped,
        "rolled_back": rolled_back,
    }
