"""Loss and learning rate of PPO for the VLM as policy, in Torch: the gradient goes through the VLM. N samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

MAX_RATIO = 10.0


class PPOOptions(NamedTuple):
    """Options of PPO; see ``config.VPFConfig`` for units and sources."""

    epochs: int = 4
    minibatch: int = 128
    forward_batch: int = 32
    clip: float = 0.1
    value_weight: float = 0.5
    entropy_weight: float = 0.0
    max_grad_norm: float = 0.01
    temperature: float = 0.2
    learning_rate: float = 1e-5
    final_learning_rate: float = 1e-9
    anneal_iterations: int = 25


class ActionLogProbs(NamedTuple):
    """Log-probabilities of given answers under the current policy."""

    log_prob: torch.Tensor  # f32[N], nats
    entropy: torch.Tensor  # f32[N], nats, mean over the tokens that the model decides
    value: torch.Tensor  # f32[N]


def ppo_loss(
    now: ActionLogProbs,
    log_prob: torch.Tensor,
    value: torch.Tensor,
    advantage: torch.Tensor,
    target: torch.Tensor,
    options: PPOOptions,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Computes -mean min(r A, clip(r) A) + c_v/2 mean max((V - R)^2, (V_clip - R)^2) - c_e mean entropy.

    r = p(answer) / p_old(answer); V_clip is V clipped to within ``clip`` of the value at sampling. Where an r exceeds
    ``MAX_RATIO``, the clipped term alone counts for all samples, as in RL4VLM's code.

    Args:
      now: under the current policy.
      log_prob: f32[N], of ``policy.PPOBatch``.
      value: f32[N], of ``policy.PPOBatch``.
      advantage: f32[N], A.
      target: f32[N], R.
      options: clip range and weights c_v, c_e.

    Returns:
      The loss f32[], and metrics.
    """
    ratio = torch.exp(now.log_prob - log_prob)
    clipped_gain = ratio.clamp(1 - options.clip, 1 + options.clip) * advantage
    diverged = bool((ratio > MAX_RATIO).any())
    gain = (clipped_gain if diverged else torch.min(ratio * advantage, clipped_gain)).mean()
    clipped_value = value + (now.value - value).clamp(-options.clip, options.clip)
    error = 0.5 * torch.max((now.value - target) ** 2, (clipped_value - target) ** 2).mean()
    entropy = now.entropy.mean()
    loss = -gain + options.value_weight * error - options.entropy_weight * entropy
    clipped = ((ratio - 1).abs() > options.clip).float().mean()
    metrics = {"policy": -gain, "value": error, "entropy": entropy, "clipped": clipped}
    return loss, {f"ppo/{name}": float(metric.detach()) for name, metric in metrics.items()}


def learning_rate(iteration: int, options: PPOOptions) -> float:
    """Returns the learning rate: a cosine from the first to the final one over ``anneal_iterations``, then constant.

    By hand: Torch's ``CosineAnnealingLR`` rounds differently and rises again after its period, and any of its
    schedulers would add state to the optimiser's checkpoints.

    Args:
      iteration: number of PPO iterations before this one.
      options: rates and ``anneal_iterations``.
    """
    done = min(iteration / max(options.anneal_iterations, 1), 1.0)
    first, last = options.learning_rate, options.final_learning_rate
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * done))
