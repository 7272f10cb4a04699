"""The counters and returns that the host loop reads from the device, once per chunk. E envs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from covr_jax.runtime import hosts
from covr_jax.training.state import TrainState


class Counts(NamedTuple):
    """Counts of a run so far, int each; in a group of seeds, before ``of_seed``, i32[seeds] each."""

    transitions: Any  # over all environments
    vec_steps: Any  # calls of env.step
    slots: Any  # slots of the replay that were ever written
    broken: Any  # episodes that were broken off since the reading before
    updates: Any
    skipped: Any  # updates of which a part was skipped
    skipped_in_a_row: Any
    last_return: np.ndarray  # f32[E], of the last finished episodes; -inf before the first one


def read_counts(count_cut: Callable[..., Any], state: TrainState, slots: Any = None) -> Counts:
    """Reads the counters from the device.

    Args:
      count_cut: as in ``Pieces``.
      state: of a run, or stacked ones of several seeds.
      slots: ``slots`` of the reading before; None: this is the first one, and ``broken`` is 0.
    """
    progress, learner, store = state.progress, state.learner, state.replay
    since = np.asarray(store.count if slots is None else slots, np.int32) - 1  # the newest slot may still be cut
    cut = count_cut(store, since)
    updates = (learner.updates, learner.skipped, learner.skipped_in_a_row)
    counts = (progress.transitions, progress.vec_steps, store.count, cut, *updates, hosts.fetch(progress.last_return))
    return Counts(*jax.device_get(counts))


def of_seed(counts: Counts, seed: Any = ()) -> Counts:
    """Returns the counts of one seed of a group by its position, or of a single run, as Python's numbers."""
    *numbers, last_return = (values[seed] for values in counts)
    return Counts(*map(int, numbers), last_return)  # pyright: ignore[reportCallIssue]
