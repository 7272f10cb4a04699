"""Which runs start from the same kept programs."""

from __future__ import annotations

from covr_jax.agents.networks.convolution import has_kernel
from covr_jax.config import Config, to_dict
from covr_jax.runtime import hosts
from covr_jax.runtime.kept import Kept, open_kept

_SHARED = ("seed", "total_steps", "preset", "eval", "run")  # options that reach no program that is begun ahead


def kept_for(config: Config) -> Kept | None:
    """What this process keeps of programs of such runs.

    Args:
      config: resolved.
    """
    if config.run.devices > 1 or hosts.several():
        return None
    options = to_dict(config)
    for name in _SHARED:
        del options[name]
    return open_kept(options, has_kernel())
