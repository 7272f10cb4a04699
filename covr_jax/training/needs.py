"""Predicts the memory that a run needs beside its replay, before anything of it is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from covr_jax.agents import Method
from covr_jax.config import Config
from covr_jax.runtime.memory import Need

if TYPE_CHECKING:
    from covr_jax.training.parts import Parts


def of_frames(config: Config, method: Method, *, hosted: bool) -> list[Need]:
    """Returns what the frame stacks of a batch and of the environments take; they follow from the options alone.

    Args:
      config: resolved.
      method: of the run.
      hosted: whether the environments run on the host, where training and evaluation share them.
    """
    env, size = config.env, config.env.image_size
    observation = 3 * (env.frame_stack + method.history) * size**2  # bytes
    images = {"--env.frame-stack": env.frame_stack, "--env.image-size": size}
    eval_envs = 0 if hosted else max(env.num_envs, config.eval.episodes)
    in_a_batch = config.sac.batch_size * (2 + method.horizon)
    in_envs = 2 * (env.num_envs + eval_envs)  # in the state of an environment and in its time step
    envs = {"--env.num-envs": env.num_envs} | ({} if hosted else {"--eval.episodes": config.eval.episodes})
    return [
        Need(
            "the frame stacks of a batch",
            in_a_batch * observation,
            images | {"--sac.batch-size": config.sac.batch_size},
        ),
        Need("the environments' frame stacks", in_envs * observation, images | envs),
    ]


def of_learner(parts: Parts) -> Need:
    """Returns what networks, targets and optimizers take."""
    sac, env = parts.config.sac, parts.config.env
    observation = jax.ShapeDtypeStruct((1, env.image_size, env.image_size, 3 * parts.frame_stack), jnp.uint8)
    action = jax.ShapeDtypeStruct((1, parts.env.action_dim), jnp.float32)
    state = jax.eval_shape(parts.learner.init, jax.random.key(0), observation, action)
    nbytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    options = {
        "--sac.hidden-dim": sac.hidden_dim,
        "--sac.feature-dim": sac.feature_dim,
        "--sac.num-filters" if sac.conv_filters is None else "--sac.conv-filters": max(sac.filters),
        "--env.image-size": env.image_size,
        "--env.frame-stack": env.frame_stack,
    }
    return Need("the networks with their targets and optimizers", nbytes, options)
