"""Random streams by purpose.

A key is ``fold_in(stream(seed, purpose), counter)``, so that a new consumer of random numbers never shifts another's.
"""

from __future__ import annotations

import operator

import jax
from jax import Array

MAX_SEED = 2**32 - 1
INIT, ENV, ACT, UPDATE, EVAL, ENTROPY = range(6)


def check_seed(seed: int) -> int:
    """Returns the seed.

    Raises:
      ValueError: no whole number, or one outside of 0 to 2^32 - 1, where JAX would give two seeds one stream.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise ValueError(f"a seed must be a whole number, got {seed!r}") from None
    if not 0 <= number <= MAX_SEED:
        raise ValueError(f"a seed must be between 0 and {MAX_SEED}, got {seed}")
    return number


def stream(seed: int, purpose: int) -> Array:
    """Returns the root key of a purpose; fold a counter in before use.

    Raises:
      ValueError: a seed that ``check_seed`` refuses.
    """
    return jax.random.fold_in(jax.random.key(check_seed(seed)), purpose)
