"""Random streams by purpose.

A key is ``fold_in(stream(seed, purpose), counter)``, so that a new consumer of random numbers never shifts another's.
"""

from __future__ import annotations

import jax
from jax import Array

INIT, ENV, ACT, UPDATE, EVAL, ENTROPY = range(6)


def stream(seed: int, purpose: int) -> Array:
    """Returns the root key of a purpose; fold a counter in before use."""
    return jax.random.fold_in(jax.random.key(seed), purpose)
