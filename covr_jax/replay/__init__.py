"""Device-resident experience replay: a ring (``buffer``, ``state``, ``storage``) and its samplers (``sampling``).

``episodes`` reads whole episodes out of it, ``demonstrations`` writes such into it.
"""

from covr_jax.replay.buffer import (
    add,
    count_cut,
    cut,
    frames,
    init,
    last_action,
    observations,
    previous_actions,
    sample,
    set_prior,
    size,
)
from covr_jax.replay.demonstrations import distribute, store_episodes
from covr_jax.replay.episodes import LeftOut, find_episodes, read_episodes
from covr_jax.replay.reading import Window, window
from covr_jax.replay.state import ReplayState, capacity_in_slots, nbytes, reward_scale

__all__ = [
    "LeftOut",
    "ReplayState",
    "Window",
    "add",
    "capacity_in_slots",
    "count_cut",
    "cut",
    "distribute",
    "find_episodes",
    "frames",
    "init",
    "last_action",
    "nbytes",
    "observations",
    "previous_actions",
    "read_episodes",
    "reward_scale",
    "sample",
    "set_prior",
    "size",
    "store_episodes",
    "window",
]
