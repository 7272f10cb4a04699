"""Notices that training has left the finite numbers, before anything of it is saved."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from covr_jax.types import Diverged


def check_losses(metrics: dict[str, Any], updates: int) -> None:
    """Looks at the losses of a chunk's last updates: what is not finite stays so, through the parameters.

    Args:
      metrics: of the chunk, by name.
      updates: made so far.

    Raises:
      Diverged: a loss is not finite.
    """
    losses = jax.device_get({name: value for name, value in metrics.items() if name.startswith("losses/")})
    for name, value in losses.items():
        if not np.isfinite(value):
            raise Diverged(f"{name} is {value} after {updates:,} updates")


def check_parameters(params: Any) -> None:
    """Looks at all parameters of a learner, on the host: nothing is compiled for it.

    Raises:
      Diverged: one is not finite.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf)).all():
            raise Diverged(f"the parameters {jax.tree_util.keystr(path)} are not finite")
