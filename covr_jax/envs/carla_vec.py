"""A CARLA scenario, on a real server or on our loopback one, as a lane of ``HostVecEnv``."""

from __future__ import annotations

from functools import partial
from typing import Any

import dm_env

from covr_jax.carla.env import LOOPBACK, CarlaEnv
from covr_jax.carla.reward import RULES
from covr_jax.carla.servers import parse_address
from covr_jax.envs.host_env import HostTask
from covr_jax.envs.images import fit

_PORTS = 3  # from one server to the next


class CarlaVecEnv(CarlaEnv):
    """``CarlaEnv`` with what a lane needs: a seed per episode, square pictures, no trace of a faulted step."""

    def __init__(self, *arguments: Any, image_size: int, **options: Any):
        super().__init__(*arguments, image_size=image_size, **options)
        self._size = image_size

    def seed(self, seed: int) -> None:
        """See ``HostEnv``."""
        self._seed, self.episode = seed, -1

    def reset(self) -> dm_env.TimeStep:
        """See ``CarlaEnv``."""
        return self._square(super().reset())

    def step(self, action: Any) -> dm_env.TimeStep:
        """See ``CarlaEnv``; after a fault, the FIRST of a new episode."""
        timestep = super().step(action)
        return self.reset() if self.fault else self._square(timestep)

    def _square(self, timestep: dm_env.TimeStep) -> dm_env.TimeStep:
        return timestep._replace(observation=fit(timestep.observation, self._size))


def carla_task(scenario: str, endpoint: str = LOOPBACK, profile: str = "dmr") -> HostTask:
    """The task of a scenario.

    Args:
      endpoint: ``loopback``: each lane starts a server of our own. ``host:port``: a real one that runs already, that of
        lane n on port + 3 n.
      profile: ``dmr`` or ``dbc``; the five cameras of the latter are squeezed into one square picture.

    Raises:
      ValueError: no such endpoint or profile.
    """
    if profile not in RULES:
        raise ValueError(f"unknown profile {profile!r}; choose from {', '.join(RULES)}")
    if endpoint != LOOPBACK:
        parse_address(endpoint)
    rules = RULES[profile]
    return HostTask(
        name=f"carla_{scenario}",
        open=partial(_open, scenario, endpoint, profile),
        action_dim=2,
        action_repeat=rules.frame_skip,
        time_limit=rules.max_ticks,
        fps=20.0,
        learning_rate=1e-3,
        augmentation="crop",
        pictures=LOOPBACK if endpoint == LOOPBACK else "carla",
    )


def _open(
    scenario: str, endpoint: str, profile: str, index: int, *, image_size: int, action_repeat: int
) -> CarlaVecEnv:
    if endpoint != LOOPBACK:
        host, port = parse_address(endpoint)
        endpoint = f"{host}:{port + _PORTS * index}"
    return CarlaVecEnv(scenario, endpoint, profile=profile, image_size=image_size, frame_skip=action_repeat)
