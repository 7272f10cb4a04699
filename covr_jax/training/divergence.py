"""Notices that training has left the finite numbers, before anything of it is saved."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from covr_jax.io.reporter import Reporter
from covr_jax.types import Diverged

MAX_SKIPPED = 10  # updates in a row; batches are drawn anew, so a single bad row is not in all of them


def check_updates(metrics: dict[str, Any], updates: int, skipped_in_a_row: int) -> None:
    """Looks at the last updates of a chunk. One whose gradient is not finite was skipped: the next may be whole again.

    Args:
      metrics: of the chunk's last updates, by name.
      updates: made so far.
      skipped_in_a_row: of them, the last ones that were skipped.

    Raises:
      Diverged: the last ``MAX_SKIPPED`` or more were skipped; or a loss is not finite though its gradient is.
    """
    losses = {name: value for name, value in metrics.items() if name.startswith("losses/")}
    bad = {name: value for name, value in jax.device_get(losses).items() if not np.isfinite(value)}
    if skipped_in_a_row >= MAX_SKIPPED:
        shown = "".join(f"{name} is {value}, and " for name, value in list(bad.items())[:1])
        raise Diverged(f"{shown}the last {skipped_in_a_row:,} of {updates:,} updates had no finite gradient")
    if bad and not skipped_in_a_row:
        name, value = next(iter(bad.items()))
        raise Diverged(f"{name} is {value} after {updates:,} updates")


def tell_skipped(before: int, now: int, env_steps: int, reporter: Reporter) -> None:
    """Says once that updates have been skipped."""
    if now and not before:
        reporter.message(
            f"at {env_steps:,} env steps {now} updates had no finite gradient and were skipped; further ones are"
            " counted in train/skipped_updates"
        )


def tell_broken(before: int, now: int, env_steps: int, reporter: Reporter) -> None:
    """Says once that simulations have failed."""
    if now and not before:
        reporter.message(
            f"at {env_steps:,} env steps {now} simulations failed and began new episodes; further ones are counted in"
            " env/broken_episodes"
        )


def check_parameters(params: Any) -> None:
    """Looks at all parameters of a learner, on the host: nothing is compiled for it.

    Raises:
      Diverged: one is not finite.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf)).all():
            raise Diverged(f"the parameters {jax.tree_util.keystr(path)} are not finite")
