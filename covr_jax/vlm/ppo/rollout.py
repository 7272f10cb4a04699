"""What a VLM that acts has lived through, and what PPO learns from it. Letters: T time, E envs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from covr_jax.types import Array
from covr_jax.vlm.ppo.gae import gae


class Rollout(NamedTuple):
    """T agent steps in E environments."""

    frames: Array  # u8[T,E,H,W,C]
    took: list[Any]  # T times ``policy.SampledActions``
    acts: np.ndarray  # bool[T,E]: False where the episode had ended, or was broken off, and the action was ignored
    reward: np.ndarray  # f32[T,E], what followed
    ends: np.ndarray  # bool[T,E], whether the time step that followed was the last that is known of its episode
    discount: np.ndarray  # f32[T,E], of that time step
    value: np.ndarray  # f32[T+1,E]


def ppo_batch(rollout: Rollout, gamma: float, decay: float) -> Any:
    """A rollout as a ``policy.PPOBatch`` of the steps whose actions counted."""
    import torch

    from covr_jax.vlm.ppo.policy import PPOBatch

    advantage, target = gae(rollout.reward, rollout.ends, rollout.discount, rollout.value, gamma, decay)
    acts = rollout.acts.reshape(-1)
    flat = rollout.frames.reshape(-1, *rollout.frames.shape[2:])
    tokens = torch.cat([took.tokens for took in rollout.took])
    return PPOBatch(
        frames=flat[np.nonzero(acts)[0]],
        tokens=tokens[torch.as_tensor(acts, device=tokens.device)],
        log_prob=np.concatenate([took.log_prob for took in rollout.took])[acts],
        value=rollout.value[:-1].reshape(-1)[acts],
        advantage=np.asarray(advantage).reshape(-1)[acts],
        target=np.asarray(target).reshape(-1)[acts],
    )
