"""What the policy and the VLM cost: bytes of weights and seconds per answer, side by side as the paper reports them."""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp

from covr_jax.agents import LearnerState
from covr_jax.training.programs import Programs
from covr_jax.types import TimeStep
from covr_jax.vlm.serving.protocol import PriorService

_CALLS = 10


def policy_costs(programs: Programs, learner: LearnerState) -> dict[str, float]:
    """Bytes of all the agent's networks, critics included, and the median seconds of one action.

    The action is that of all evaluation environments at once; dispatching and waiting are included.
    """
    policy = programs.evaluator.eval_policy(learner)
    num_envs, side = programs.evaluator.env.num_envs, programs.config.env.image_size
    image = jnp.zeros((num_envs, side, side, 3 * programs.parts.frame_stack), jnp.uint8)  # no environment is disturbed
    timestep = TimeStep(jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs), jnp.ones(num_envs), image)
    jax.block_until_ready(policy(timestep, 0))
    seconds = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        jax.block_until_ready(policy(timestep, 0))
        seconds.append(time.perf_counter() - started)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(learner.params))
    return {"policy/memory_bytes": size, "policy/latency_s": statistics.median(seconds)}


def vlm_costs(vlm: PriorService) -> dict[str, float]:
    """Bytes of the VLM's weights; once it was queried also the mean seconds and frames of a query."""
    counters = vlm.counters
    row = {"vlm/memory_bytes": float(vlm.model_info.memory_bytes)}
    if queries := counters.get("queries", 0):
        row["vlm/mean_latency_s"] = counters.get("query_s", 0.0) / queries
        row["vlm/frames_per_query"] = counters.get("frames", 0) / queries
    return row
