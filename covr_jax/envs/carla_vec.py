"""A CARLA scenario, on a real server or on our loopback server, as a task of ``HostVecEnv``."""

from __future__ import annotations

from functools import partial
from typing import Any

import dm_env
from numpy.typing import ArrayLike

from covr_jax.carla.env import LOOPBACK, CarlaEnv
from covr_jax.carla.reward import RULES
from covr_jax.carla.servers import Address, parse_address
from covr_jax.envs.host_env import HostTask
from covr_jax.envs.images import resize_area

_PORTS_PER_SERVER = 3


class CarlaVecEnv(CarlaEnv):
    """A ``CarlaEnv`` that is a ``HostEnv``: a seed per episode, square images, and FIRST after a faulted step."""

    def __init__(self, *arguments: Any, image_size: int, **options: Any):
        super().__init__(*arguments, image_size=image_size, **options)
        self._size = image_size

    def seed(self, seed: int) -> None:
        """See ``HostEnv``."""
        self._seed, self.episode = seed, -1

    def reset(self) -> dm_env.TimeStep:
        """See ``CarlaEnv``."""
        return self._resize(super().reset())

    def step(self, action: ArrayLike) -> dm_env.TimeStep:
        """See ``CarlaEnv``; after a fault it returns the FIRST of a new episode."""
        timestep = super().step(action)
        return self.reset() if self.fault else self._resize(timestep)

    def _resize(self, timestep: dm_env.TimeStep) -> dm_env.TimeStep:
        return timestep._replace(observation=resize_area(timestep.observation, self._size))


def server_of(endpoints: str, env_id: int) -> Address:
    """The server that an env talks to: the envs take turns at the endpoints.

    Args:
      endpoints: ``host:port,host:port,...``.
      env_id: n; of N endpoints it is number n mod N, at its port + 3 (n // N).

    Raises:
      ValueError: an endpoint of another form, one that is given twice, or a port that does not exist.
    """
    named = [parse_address(text) for text in endpoints.split(",")]
    if len(set(named)) < len(named):
        raise ValueError(f"{endpoints} names a server twice; further envs use port + {_PORTS_PER_SERVER} by themselves")
    host, port = named[env_id % len(named)]
    return parse_address(f"{host}:{port + _PORTS_PER_SERVER * (env_id // len(named))}")


def carla_task(scenario: str, endpoint: str = LOOPBACK, profile: str = "dmr") -> HostTask:
    """Makes the task of a scenario.

    Args:
      scenario: a name of ``carla.scenarios.SCENARIOS``.
      endpoint: ``loopback``: each env starts a loopback server of its own. ``host:port``, or several with commas
        between them: real servers that run already, see ``server_of``.
      profile: ``dmr`` or ``dbc``; the images of the latter's five cameras are resized into one square image.

    Returns:
      The task, named ``carla_<scenario>``.

    Raises:
      ValueError: unknown endpoint or profile.
    """
    if profile not in RULES:
        raise ValueError(f"unknown profile {profile!r}; choose from {', '.join(RULES)}")
    if endpoint != LOOPBACK:
        server_of(endpoint, 0)
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
        image_source=LOOPBACK if endpoint == LOOPBACK else "carla",
        guidance_weight=2.0,
        cold_start_rounds=2,
        lora_alpha=256,
    )


def _open(
    scenario: str, endpoint: str, profile: str, env_id: int, *, image_size: int, action_repeat: int
) -> CarlaVecEnv:
    if endpoint != LOOPBACK:
        host, port = server_of(endpoint, env_id)
        endpoint = f"{host}:{port}"
    return CarlaVecEnv(scenario, endpoint, profile=profile, image_size=image_size, frame_skip=action_repeat)
