"""Seeds of the random streams."""

from __future__ import annotations

import jax
import pytest

from covr_jax.envs.interop.as_dm_env import DmEnv
from covr_jax.envs.interop.as_gymnasium import GymVectorEnv
from covr_jax.runtime.rng import ENV, MAX_SEED, stream


@pytest.mark.field
@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**32 + 1, 20241128184512])
def test_seeds_whose_streams_another_seed_has_are_refused(seed):
    """JAX keeps 32 bits: 1 and 2^32 + 1 would be one run."""
    said = f"a seed must be between 0 and 4294967295, got {seed}"
    with pytest.raises(ValueError, match=said):
        stream(seed, ENV)
    with pytest.raises(ValueError, match=said):
        DmEnv("pendulum_swingup", seed=seed, pixels=False)
    with pytest.raises(ValueError, match=said):
        GymVectorEnv("pendulum_swingup", 1, pixels=False).reset(seed=seed)


def test_seeds_have_streams_of_their_own():
    keys = [jax.random.key_data(stream(seed, ENV)).tolist() for seed in (0, 1, 2**31, MAX_SEED)]
    assert len({tuple(key) for key in keys}) == 4
