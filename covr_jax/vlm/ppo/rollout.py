"""Experience of a VLM that acts, and its conversion to a PPO batch. T agent steps, E envs, H W image, C channels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from covr_jax.vlm.ppo.gae import gae


class Rollout(NamedTuple):
    """T agent steps in E environments."""

    frames: UInt8[Array, "T E H W C"]
    sampled: list[Any]  # T records ``policy.SampledActions``, each of E actions
    acts: Bool[np.ndarray, "T E"]  # False where the action was ignored: at LAST, and where an episode was broken off
    reward: Float[np.ndarray, "T E"]  # follows the action
    ends: Bool[np.ndarray, "T E"]  # whether the time step that followed is the last one known of its episode
    discount: Float[np.ndarray, "T E"]  # of the time step that followed
    value: Float[np.ndarray, "T+1 E"]


def ppo_batch(rollout: Rollout, gamma: float, decay: float) -> Any:
    """Converts a rollout to a ``policy.PPOBatch`` of the N steps whose actions were executed.

    Args:
      rollout: T agent steps.
      gamma: discount in [0, 1].
      decay: lambda of the advantages, in [0, 1].
    """
    import torch

    from covr_jax.vlm.ppo.policy import PPOBatch

    advantage, target = gae(rollout.reward, rollout.ends, rollout.discount, rollout.value, gamma, decay)
    acts = rollout.acts.reshape(-1)
    frames = rollout.frames.reshape(-1, *rollout.frames.shape[2:])
    tokens = torch.cat([sampled.tokens for sampled in rollout.sampled])
    return PPOBatch(
        frames=frames[np.nonzero(acts)[0]],
        tokens=tokens[torch.as_tensor(acts, device=tokens.device)],
        log_prob=np.concatenate([sampled.log_prob for sampled in rollout.sampled])[acts],
        value=rollout.value[:-1].reshape(-1)[acts],
        advantage=np.asarray(advantage).reshape(-1)[acts],
        target=np.asarray(target).reshape(-1)[acts],
    )
