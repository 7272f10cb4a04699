"""``CarlaEnv``: a scenario as ``dm_env.Environment``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from covr_jax.carla.channel import SessionSetup
from covr_jax.carla.client import CarlaError, CarlaSupervisor, RetryPolicy, ServerGone, ServerRefused, StepFailure
from covr_jax.carla.reward import TIME_LIMIT, Tally, step_reward
from covr_jax.carla.scenarios import CHANGING, PROFILES, SCENARIOS, WEATHERS
from covr_jax.carla.servers import OwnServer, loopback_command, parse_address
from covr_jax.types import Array

__all__ = ["LOOPBACK", "CarlaEnv", "CarlaError", "RetryPolicy", "ServerGone", "ServerRefused"]

LOOPBACK = "loopback"
_TIMED_STEPS = 1000  # over which the step's time is judged


class CarlaEnv(dm_env.Environment):
    """One ego vehicle.

    Observations are the newest picture, u8[H,W,3], cameras side by side. Actions are f32[2] in [-1,1]: steer, positive
    to the right, and throttle, negative values of which brake. What is not finite brakes.

    A step that the simulator fails in is no transition. Its TimeStep is LAST with discount 1 and repeats the previous
    observation with reward 0, ``fault`` says what happened, and the previous transition is to be taken as truncated;
    who stores transitions must not store this one. The next ``reset`` or ``step`` starts an episode in a new child.

    Args:
      scenario: see ``scenarios.SCENARIOS``.
      endpoint: ``loopback`` starts a loopback server of our own; ``host:port`` is a server that runs already and that
        nobody else uses.
      profile: ``dmr`` or ``dbc``: reward, cameras, rules. See ``reward``.
      seed, episode: the n-th episode after construction is drawn from (seed, episode + n) alone.
      image_size: px, of each camera; the profile's own by default.
      weather: see ``scenarios.WEATHERS``, or ``changing``; the profile's own by default.
      max_ticks: of an episode, 20 a second.
      frame_skip: ticks per agent step, whose reward is their mean; the profile's own by default. See ``reward``: ER and
        DD shrink with it.
      launch: program and arguments that start a server of our own, with ``{port}`` in them; instead of ``endpoint``.
      allow_version_mismatch: talk to a server of another version.

    Attributes:
      episode: the number of the current episode.
      end: why the last finished episode ended, see ``reward.ended``; "fault" after a fault.
      fault: kind of the fault that the last TimeStep stands for, else None.

    Raises:
      ValueError: for unknown names, on construction.
      ServerRefused: on construction, where the client is not installed.
      ServerGone, ServerRefused: by ``reset`` and ``step``, and only where a new attempt is vain.
    """

    def __init__(
        self,
        scenario: str = "highway",
        endpoint: str = LOOPBACK,
        *,
        profile: str = "dmr",
        seed: int = 0,
        episode: int = 0,
        image_size: int | None = None,
        weather: str | None = None,
        max_ticks: int = 1000,
        frame_skip: int | None = None,
        limits: RetryPolicy | None = None,
        launch: Sequence[str] = (),
        allow_version_mismatch: bool = False,
    ):
        _known("scenario", scenario, SCENARIOS)
        _known("profile", profile, PROFILES)
        rig, self._rules = PROFILES[profile].rig, PROFILES[profile].rules
        weather = weather or PROFILES[profile].weather
        _known("weather", weather, [*WEATHERS, CHANGING])
        limits, size = limits or RetryPolicy(), image_size or rig.size
        if min(size, max_ticks, frame_skip or 1) < 1:
            raise ValueError("image_size, max_ticks and frame_skip must be at least 1")
        own = not launch and endpoint == LOOPBACK
        if missing := [name for name in ("carla", *(["msgpack"] if own else [])) if find_spec(name) is None]:
            raise ServerRefused(f"not installed: {', '.join(missing)}; pip install carla==0.9.16 msgpack")
        setup = SessionSetup(
            host="", port=0, scenario=scenario, profile=profile, image_size=size, max_ticks=max_ticks, weather=weather,
            any_version=allow_version_mismatch, connect_s=0.0, load_s=0.0, call_s=0.0, server_group=None,
            frame_skip=frame_skip,
        )  # fmt: skip
        if own:
            launch = loopback_command(SCENARIOS[scenario].towns[0])
        server = OwnServer(launch, limits.connect_s) if launch else parse_address(endpoint)
        self._host = CarlaSupervisor(setup, server, limits)
        self._shape = (size, size * len(rig.yaws), 3)
        self._seed, self.episode = seed, episode - 1
        self._over, self._observation = True, np.zeros(self._shape, np.uint8)
        self._tally = self._finished = Tally()
        self._step_s: deque[float] = deque(maxlen=_TIMED_STEPS)
        self.end, self.fault = "", None

    def reset(self) -> dm_env.TimeStep:
        """A new episode's FIRST."""
        self._observation = self._host.reset(self._seed, self.episode + 1)
        self.episode += 1
        self._tally, self._over, self.fault = Tally(), False, None
        return dm_env.restart(self._observation)

    def step(self, action: Array) -> dm_env.TimeStep:
        """``action`` f32[2] in [-1,1]; after LAST, and before the first ``reset``, it starts an episode."""
        if self._over:
            return self.reset()
        started = time.perf_counter()
        try:
            stepped = self._host.step(*controls(action))
        except StepFailure as mishap:
            self.fault = mishap.kind
            self._finish("fault")
            return dm_env.truncation(0.0, self._observation)
        self._step_s.append(time.perf_counter() - started)
        self._observation = stepped.image
        self._tally = self._tally.after(self._rules, stepped.ticks)
        reward = step_reward(self._rules, stepped.ticks)
        if stepped.end is None:
            return dm_env.transition(reward, stepped.image)
        self._finish(stepped.end)
        if stepped.end == TIME_LIMIT:
            return dm_env.truncation(reward, stepped.image)
        return dm_env.termination(reward, stepped.image)

    def _finish(self, end: str) -> None:
        self._over, self.end, self._finished = True, end, self._tally

    def observation_spec(self) -> specs.BoundedArray:
        """u8[H,W,3] pixels."""
        return specs.BoundedArray(self._shape, np.uint8, 0, 255, "pixels")

    def action_spec(self) -> specs.BoundedArray:
        """f32[2] in [-1,1]."""
        return specs.BoundedArray((2,), np.float32, -1.0, 1.0, "steer_throttle")

    def metrics(self) -> dict[str, float]:
        """The last finished episode: ER and DD (m) as the paper has them, see ``reward``; its agent steps, reported
        collisions and simulated seconds; and faulted, 1 where the simulator and not a rule ended it: ER and DD are
        then those up to the fault and belong in no average.
        """
        tally = self._finished
        return {
            "ER": tally.er,
            "DD": tally.dd,
            "steps": float(tally.steps),
            "collisions": float(tally.collisions),
            "seconds": tally.seconds,
            "faulted": float(self.end == "fault"),
        }

    @property
    def simulator(self) -> str:
        """What logs and plots are to call it: loopback, or carla for a real server's maps; "" before ``reset``."""
        return "" if not self._host.town else LOOPBACK if self._host.town.startswith("covr_") else "carla"

    def host_metrics(self) -> dict[str, float]:
        """Faults, restarts and late data since construction, and the 99th percentile of the step's time in ms."""
        slow = float(np.percentile(self._step_s, 99)) * 1e3 if self._step_s else 0.0
        return {f"host/{name}": float(count) for name, count in self._host.counters.items()} | {
            "host/step_ms_p99": slow
        }

    @property
    def host(self) -> CarlaSupervisor:
        """The other side, for who wants to know its processes and its last fault."""
        return self._host

    def close(self) -> None:
        """End the child and a server of our own."""
        self._over = True
        self._host.close()


def controls(action: Array) -> tuple[float, float, float]:
    """Steer, throttle and brake from f32[2]; an action that is not finite brakes, others are clipped to [-1,1]."""
    steer, pedal = (float(number) for number in np.asarray(action, np.float64).reshape(2))
    if not np.isfinite([steer, pedal]).all():
        return 0.0, 0.0, 1.0
    steer, pedal = max(-1.0, min(1.0, steer)), max(-1.0, min(1.0, pedal))
    return steer, max(pedal, 0.0), max(-pedal, 0.0)


def _known(what: str, name: str, choices: Any) -> None:
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(choices)}")
