"""What policy and VLM take: bytes of weights and seconds per answer, side by side as the paper reports them."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from covr_jax.training.programs import Programs
from covr_jax.types import TimeStep
from covr_jax.vlm.serving.protocol import PriorService

_CALLS = 10


def policy_budget(programs: Programs, learner: Any) -> dict[str, float]:
    """Bytes of all the agent's networks, critics included, and the median seconds of one action.

    The action is that of all evaluation lanes at once, dispatch and waiting included.
    """
    policy = programs.evaluator.eval_policy(learner)
    lanes, side = programs.evaluator.env.num_envs, programs.config.env.image_size
    picture = jnp.zeros((lanes, side, side, 3 * programs.frame_stack), jnp.uint8)  # no environment is disturbed
    timestep = TimeStep(jnp.zeros(lanes, jnp.int32), jnp.zeros(lanes), jnp.ones(lanes), picture)
    jax.block_until_ready(policy(timestep, 0))
    seconds = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        jax.block_until_ready(policy(timestep, 0))
        seconds.append(time.perf_counter() - started)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(learner.params))
    return {"policy/memory_bytes": size, "policy/latency_s": statistics.median(seconds)}


def vlm_budget(vlm: PriorService) -> dict[str, float]:
    """Bytes of the VLM's weights, and the mean seconds and frames of its queries; the latter once it was asked."""
    counters = vlm.counters
    row = {"vlm/memory_bytes": float(vlm.model_info.memory_bytes)}
    if queries := counters.get("queries", 0):
        row["vlm/mean_latency_s"] = counters.get("query_s", 0.0) / queries
        row["vlm/frames_per_query"] = counters.get("frames", 0) / queries
    return row
