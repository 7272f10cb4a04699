"""LoRA fine-tuning by return-aware loss weighting (RALW): the weights come from JAX, Torch only multiplies.

Letters: N samples, L tokens, T label tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from covr_jax.vlm.decode import Grammar
from covr_jax.vlm.models.loading import Backbone, PromptTokens, base_model, model_inputs, preprocess

IGNORE = -100  # label of a position that carries no loss


class FinetuneOptions(NamedTuple):
    """One round of fine-tuning. The optimiser is fresh each round, the adapter continues."""

    learning_rate: float = 1e-4
    batch_size: int = 16  # samples per optimiser step
    micro_batch: int | None = None  # samples per forward pass; None: the whole batch
    epochs: float = 1.0  # passes over the data, unless ``steps`` is given
    steps: int | None = None  # optimiser steps, cycling over the data
    warmup: float = 0.03  # share of the steps with rising learning rate
    schedule: str = "constant"  # after the warm-up: 'constant' or 'linear' (falling to zero)
    label_smoothing: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, about a third more time
    divergence: float | None = 1.0  # nats per token by which the loss may rise above its best; None: any


DEFAULT_OPTIONS = FinetuneOptions()


def ralw_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, smoothing: float, valid_tokens: int | None = None
) -> torch.Tensor:
    """L = 1/N_v * sum_b w_b * sum_t [(1-d) * -log p(y_bt) + d * mean_v -log p(v)] (Eq. 6, smoothed as in its text).

    Args:
      logits: float[N,T,V], already aligned: position t predicts ``labels[:, t]``.
      labels: i64[N,T], IGNORE where no loss is taken.
      weights: f32[N] >= 0.
      smoothing: d in [0, 1].
      valid_tokens: N_v when the batch comes in parts; None: the label tokens given here. Samples of weight zero count
        in N_v, which is what lets their share damp the step.
    """
    log_p = torch.log_softmax(logits.float(), -1)
    mask = labels != IGNORE
    target = labels.clamp_min(0)
    nll = -log_p.gather(-1, target[..., None])[..., 0]
    smoothed = (1.0 - smoothing) * nll - smoothing * log_p.mean(-1)
    per_sample = (smoothed * mask).sum(-1)
    valid_tokens = int(mask.sum()) if valid_tokens is None else valid_tokens
    return (weights * per_sample).sum() / max(valid_tokens, 1)


def encode_answers(grammar: Grammar, answers: list[str], device) -> torch.Tensor:
    """Answers -> i64[N,T] label tokens, end of turn included, IGNORE behind the shorter ones."""
    rows = [grammar.encode(answer) for answer in answers]
    labels = torch.full((len(rows), max(map(len, rows))), IGNORE, dtype=torch.long)
    for row, ids in zip(labels, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return labels.to(device)


def answer_logits(backbone: Backbone, prompt: PromptTokens, frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float[N,T,V] predictions of the label tokens; prompt tokens are never scored."""
    n = labels.shape[0]
    ids = torch.cat([prompt.ids.expand(n, -1), labels.clamp_min(0)], 1)
    inputs = model_inputs(backbone, preprocess(frames, backbone.image), ids, prompt)
    out = backbone.model(**inputs, use_cache=False, logits_to_keep=labels.shape[1] + 1)
    return out.logits[:, :-1]


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
    """Runs one round; only parameters that require gradients (the adapter) change.

    Args:
      frames: u8[N,H,W,C] on any device.
      answers: N texts of the action grammar.
      weights: f32[N], w_b of Eq. 6.
      seed: order of the samples and dropout; Torch's global generators are left alone.
      progress: called as (step, total, loss) after each optimiser step.

    Returns:
      finetune_loss (mean of the last tenth of the steps), finetune_loss_first, finetune_loss_last, finetune_losses
      (list), steps, seconds, skipped (batches without any weight), rolled_back. A loss or gradient that is not finite,
      or a loss that diverges, restores the adapter of the start of the round and ends it; losses then hold what was
      measured. An exception, from ``progress`` too, restores it as well.

    Raises:
      ValueError: on differing lengths, or weights that are negative or not finite.
    """
    weights = np.asarray(weights, np.float32)
    if not len(frames) == len(answers) == len(weights):
        raise ValueError(f"{len(frames)} frames, {len(answers)} answers and {len(weights)} weights do not match")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative")
    started = time.perf_counter()
    device = prompt.ids.device
    batches, skipped = _plan(weights, options, seed)
    before = [p.detach().clone() for p in _adapter(backbone)]
    labels = encode_answers(grammar, answers, device) if answers else None
    data = (frames, labels, torch.from_numpy(weights).to(device))
    losses: list[float] = []
    kept = False
    try:
        with _training(backbone.model, options.checkpointing), _own_randomness(seed, device):
            kept = _optimise(backbone, prompt, data, batches, options, losses, progress)
    finally:
        if not kept:
            with torch.no_grad():
                for parameter, old in zip(_adapter(backbone), before, strict=True):
                    parameter.copy_(old)
    return _report(losses, skipped, not kept, time.perf_counter() - started)


def _adapter(backbone: Backbone) -> list[torch.nn.Parameter]:
    return [p for p in backbone.model.parameters() if p.requires_grad]


@contextlib.contextmanager
def _training(model, checkpointing: bool) -> Iterator[None]:
    """Training mode, and the previous one without gradients afterwards."""
    was_training, base = model.training, base_model(model)
    model.train()
    if checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if checkpointing:
            base.activation_checkpointing_disable()
        model.zero_grad(set_to_none=True)
        model.train(was_training)


@contextlib.contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _optimise(backbone, prompt, data, batches, options: FinetuneOptions, losses: list[float], progress) -> bool:
    """All steps of a round, their losses into ``losses``; False as soon as it has gone wrong."""
    parameters, (frames, labels, weights) = _adapter(backbone), data
    optimizer = torch.optim.AdamW(
        parameters, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay
    )
    per_token: list[float] = []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate(step, len(batches), options)
        loss = _accumulate(backbone, prompt, frames, labels, weights, batch, options)
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


def diverged(losses: list[float], total: int, allowed: float | None) -> bool:
    """Whether the mean of the newest tenth of ``total`` losses (three at least) is above the best such mean before it.

    Args:
      losses: so far, nats per token, free of the batches' weights.
      allowed: nats that it may be above; None: any.
    """
    window = max(3, total // 10)
    if allowed is None or len(losses) < 2 * window:
        return False
    means = np.convolve(losses, np.full(window, 1.0 / window), "valid")
    return bool(means[-1] - means[:-window].min() > allowed)


def rate(step: int, total: int, options: FinetuneOptions) -> float:
    """Share of the learning rate at a step in [0, total): linear warm-up, then constant or falling towards zero."""
    warmup = math.ceil(options.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    if options.schedule != "linear":
        raise ValueError(f"schedule must be 'constant' or 'linear', not {options.schedule!r}")
    return (total - step) / (total - warmup)


def _plan(weights: np.ndarray, options: FinetuneOptions, seed: int) -> tuple[list[np.ndarray], int]:
    """Sample indices of every optimiser step, and how many batches fell out because all their weights are zero."""
    n, size = len(weights), min(options.batch_size, len(weights))
    if n == 0 or not weights.any():
        return [], 0
    rng = np.random.default_rng(seed)
    total = options.steps * size if options.steps is not None else round(options.epochs * n)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-total // n))])[:total]
    batches = [order[i : i + size] for i in range(0, total, size)]
    useful = [b for b in batches if weights[b].any()]
    return useful, len(batches) - len(useful)


def _accumulate(backbone, prompt, frames, labels, weights, batch: np.ndarray, options: FinetuneOptions) -> float:
    """Adds the gradient of one batch, in parts that all divide by the whole batch's N_v; returns the loss."""
    index = torch.as_tensor(batch, device=labels.device)
    valid_tokens = int((labels[index] != IGNORE).sum())
    total = 0.0
    for part in torch.split(index, options.micro_batch or len(batch)):
        part_frames = frames[part.to(frames.device)].to(labels.device)
        logits = answer_logits(backbone, prompt, part_frames, labels[part])
        loss = ralw_loss(logits, labels[part], weights[part], options.label_smoothing, valid_tokens)
        loss.backward()
        total += float(loss.detach())
    return total


def _report(losses: list[float], skipped: int, rolled_back: bool, seconds: float) -> dict:
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
