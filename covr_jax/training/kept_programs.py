"""Which runs start from the same kept programs."""

from __future__ import annotations

from collections.abc import Callable

from covr_jax.agents.networks.convolution import has_kernel
from covr_jax.config import Config, to_dict
from covr_jax.runtime import hosts
from covr_jax.runtime.ahead import Ahead
from covr_jax.runtime.kept import Kept, open_kept
from covr_jax.types import Stop

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


def begun_ahead(config: Config, tell: Callable[[str], None], stop: Stop) -> Ahead | None:
    """Where the programs of a run are begun before they are called; None on several hosts.

    Args:
      config: resolved.
      tell: as of ``Ahead``.
      stop: the same.
    """
    return None if hosts.several() else Ahead(tell, stop, kept_for(config))
