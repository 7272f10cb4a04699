"""What a compiled program should take on this device: measured ceilings and XLA's count of its work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from covr_jax.agents.networks.convolution import FORWARD, GRADIENTS_WITH_X, TARGETS
from experiments.benchmark import measure


class Cost(NamedTuple):
    """Of one call, by XLA's cost analysis of the compiled program. What a loop repeats is counted once."""

    flops: float
    bytes: float  # read and written by its fused operations, caches not considered

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.flops - other.flops, self.bytes - other.bytes)


class Ceilings(NamedTuple):
    """What this device reached just now."""

    flops_per_s: float  # of a large float32 matrix product at the default precision
    bytes_per_s: float  # read and written by a copy that no cache holds

    def seconds(self, cost: Cost) -> float:
        """The roofline: no program of this cost can be faster."""
        return max(cost.flops / self.flops_per_s, cost.bytes / self.bytes_per_s)


def ceilings() -> Ceilings:
    """Measured in about five seconds."""
    import jax.numpy as jnp

    side, length = (2048, 2**26) if jax.default_backend() == "cpu" else (8192, 2**29)
    square, held = jnp.ones((side, side), jnp.float32), [jnp.zeros((length,), jnp.float32)]
    product, increment = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1.0, donate_argnums=0)

    def copy() -> Any:
        held[0] = increment(held[0])  # in place, since fresh pages would be timed too
        return held[0]

    def rate(work: Any, amount: float) -> float:
        jax.block_until_ready(work())
        return measure.median_rate(lambda: jax.block_until_ready(work()), amount, seconds=0.5)

    return Ceilings(rate(lambda: product(square), 2.0 * side**3), rate(copy, 8.0 * length))


def cost_of(compiled: Any, *arguments: Any) -> Cost:
    """Of a function that ``jax.jit`` returned, for these arguments; they are not touched."""
    traced = compiled.trace(*arguments)
    counted = traced.lower().compile().cost_analysis()
    ours = list(_convolutions(traced.jaxpr.jaxpr))
    return Cost(
        float(counted.get("flops", 0.0)) + sum(cost.flops for cost in ours),
        float(counted.get("bytes accessed", 0.0)) + sum(cost.bytes for cost in ours),
    )


def _convolutions(jaxpr: Any) -> Iterator[Cost]:
    """Of each call of ``convolution.cc`` in a program: XLA does not look into it."""
    for equation in jaxpr.eqns:
        if equation.params.get("target_name") in TARGETS:
            target, inputs, results = equation.params["target_name"], equation.invars, equation.outvars
            kernel, outputs = inputs[1].aval, (results[0] if target == FORWARD else inputs[2]).aval
            products = 2.0 * outputs.size * kernel.size / kernel.shape[-1]
            numbers = sum(each.aval.size * each.aval.dtype.itemsize for each in (*inputs, *results))
            yield Cost((2.0 if target == GRADIENTS_WITH_X else 1.0) * products, float(numbers))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from _convolutions(inner)
