"""Device-resident experience replay: a ring (``buffer``, ``state``, ``storage``) and its samplers (``sampling``)."""

from covr_jax.replay.buffer import (
    Window,
    add,
    capacity_in_slots,
    count_cut,
    cut,
    frames,
    init,
    last_action,
    nbytes,
    observations,
    previous_actions,
    sample,
    set_prior,
    size,
    window,
)
from covr_jax.replay.state import ReplayState

__all__ = [
    "ReplayState",
    "Window",
    "add",
    "capacity_in_slots",
    "count_cut",
    "cut",
    "frames",
    "init",
    "last_action",
    "nbytes",
    "observations",
    "previous_actions",
    "sample",
    "set_prior",
    "size",
    "window",
]
