"""``CarlaEnv``: a CARLA scenario as a ``dm_env.Environment``. Letters: H image height, W width of all cameras."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike

from covr_jax.carla.channel import SessionSetup
from covr_jax.carla.client import CarlaError, CarlaSupervisor, RetryPolicy, ServerGone, ServerRefused
from covr_jax.carla.reward import TIME_LIMIT, Tally, step_reward
from covr_jax.carla.scenarios import CHANGING, PROFILES, SCENARIOS, WEATHERS
from covr_jax.carla.servers import OwnServer, loopback_command, parse_address
from covr_jax.carla.worker_process import StepFailure
from covr_jax.checks import check_actions

__all__ = ["LOOPBACK", "CarlaEnv", "CarlaError", "RetryPolicy", "ServerGone", "ServerRefused"]

LOOPBACK = "loopback"
_TIMED_STEPS = 1000  # number of last steps for the percentile of the step time


class CarlaEnv(dm_env.Environment):
    """One ego vehicle in a simulator outside this process.

    Observations are the newest image, u8[H,W,3], cameras side by side. Actions are f32[2] in [-1,1]: steer, positive
    to the right, and throttle, of which negative values brake. Actions that are not finite brake.

    A step in which the simulator fails is no transition. Its TimeStep is LAST with discount 1 and reward 0, and repeats
    the previous observation; ``fault`` gives the kind of the failure. Treat the previous transition as truncated and do
    not store this one. The next ``reset`` or ``step`` starts an episode in a new child process.

    Args:
      scenario: see ``scenarios.SCENARIOS``.
      endpoint: ``loopback`` starts a loopback server of our own, which is not CARLA; ``host:port`` is a CARLA server
        that runs already and that has no other client.
      profile: ``dmr`` or ``dbc``: reward, cameras, rules. See ``reward``.
      seed: the n-th episode after construction is drawn from (seed, episode + n) alone.
      episode: number of the first episode.
      image_size: px, height and width of each camera; None: the profile's.
      weather: see ``scenarios.WEATHERS``, or ``changing``; None: the profile's.
      max_ticks: time limit of an episode in ticks, 20 a second.
      frame_skip: ticks per agent step, whose reward is their mean; None: the profile's. ER and DD shrink with it, see
        ``reward``.
      retry_policy: time limits and tolerated faults.
      launch: program and arguments that start a server of our own, with ``{port}`` in them; instead of ``endpoint``.
      allow_version_mismatch: accept a server of another version than the client's.

    Attributes:
      episode: number of the current episode.
      end: why the last finished episode ended, see ``reward.end_reason``; "fault" after a fault.
      fault: kind of the fault that the last TimeStep stands for, else None.

    Raises:
      ValueError: on construction, for unknown names.
      ServerRefused: on construction, where the client is not installed.
      ServerGone, ServerRefused: by ``reset`` and ``step``, where a new attempt cannot succeed.
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
        retry_policy: RetryPolicy | None = None,
        launch: Sequence[str] = (),
        allow_version_mismatch: bool = False,
    ):
        _check_choice("scenario", scenario, SCENARIOS)
        _check_choice("profile", profile, PROFILES)
        rig, self._rules = PROFILES[profile].rig, PROFILES[profile].rules
        weather = weather or PROFILES[profile].weather
        _check_choice("weather", weather, [*WEATHERS, CHANGING])
        policy, size = retry_policy or RetryPolicy(), image_size or rig.size
        if min(size, max_ticks, frame_skip or 1) < 1:
            raise ValueError("image_size, max_ticks and frame_skip must be at least 1")
        use_loopback = not launch and endpoint == LOOPBACK
        required = ("carla", "msgpack") if use_loopback else ("carla",)
        if missing := [name for name in required if find_spec(name) is None]:
            raise ServerRefused(f"not installed: {', '.join(missing)}; pip install carla==0.9.16 msgpack")
        setup = SessionSetup(
            host="",
            port=0,
            scenario=scenario,
            profile=profile,
            image_size=size,
            max_ticks=max_ticks,
            weather=weather,
            any_version=allow_version_mismatch,
            connect_s=0.0,
            load_s=0.0,
            call_s=0.0,
            server_group=None,
            frame_skip=frame_skip,
        )
        if use_loopback:
            launch = loopback_command(SCENARIOS[scenario].towns[0])
        server = OwnServer(launch, policy.connect_s) if launch else parse_address(endpoint)
        self._supervisor = CarlaSupervisor(setup, server, policy)
        self._shape = (size, size * len(rig.yaws), 3)
        self._seed, self.episode = seed, episode - 1
        self._over, self._observation = True, np.zeros(self._shape, np.uint8)
        self._tally = self._finished = Tally()
        self._step_s: deque[float] = deque(maxlen=_TIMED_STEPS)
        self.end, self.fault = "", None

    def reset(self) -> dm_env.TimeStep:
        """Starts the next episode and returns its FIRST."""
        self._observation = self._supervisor.reset(self._seed, self.episode + 1)
        self.episode += 1
        self._tally, self._over, self.fault = Tally(), False, None
        return dm_env.restart(self._observation)

    def step(self, action: ArrayLike) -> dm_env.TimeStep:
        """Runs one agent step.

        Args:
          action: f32[2] in [-1,1]: steer, throttle. Ignored after LAST and before the first ``reset``: the step then
            starts an episode.
        """
        if self._over:
            return self.reset()
        started = time.perf_counter()
        try:
            result = self._supervisor.step(*controls(action))
        except StepFailure as failure:
            self.fault = failure.kind
            self._finish("fault")
            return dm_env.truncation(0.0, self._observation)
        self._step_s.append(time.perf_counter() - started)
        self._observation = result.image
        self._tally = self._tally.after(self._rules, result.ticks)
        reward = step_reward(self._rules, result.ticks)
        if result.end is None:
            return dm_env.transition(reward, result.image)
        self._finish(result.end)
        if result.end == TIME_LIMIT:
            return dm_env.truncation(reward, result.image)
        return dm_env.termination(reward, result.image)

    def _finish(self, end: str) -> None:
        self._over, self.end, self._finished = True, end, self._tally

    def observation_spec(self) -> specs.BoundedArray:
        """Pixels, u8[H,W,3]."""
        return specs.BoundedArray(self._shape, np.uint8, 0, 255, "pixels")

    def action_spec(self) -> specs.BoundedArray:
        """Steer and throttle, f32[2] in [-1,1]."""
        return specs.BoundedArray((2,), np.float32, -1.0, 1.0, "steer_throttle")

    def metrics(self) -> dict[str, float]:
        """Metrics of the last finished episode.

        Returns:
          ER and DD (m) as defined in ``reward``; the numbers of agent steps and of reported collisions; simulated
          seconds; faulted, 1 where the simulator and not a rule ended the episode: ER and DD are then those up to the
          fault and belong in no average.
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
        """Name for logs and plots: "loopback", or "carla" for a real server's maps; "" before the first ``reset``."""
        town = self._supervisor.town
        return "" if not town else LOOPBACK if town.startswith("covr_") else "carla"

    def host_metrics(self) -> dict[str, float]:
        """Numbers of faults, restarts and late data since construction; 99th percentile of the step time in ms."""
        slow = float(np.percentile(self._step_s, 99)) * 1e3 if self._step_s else 0.0
        counters = {f"host/{name}": float(count) for name, count in self._supervisor.counters.items()}
        return counters | {"host/step_ms_p99": slow}

    @property
    def supervisor(self) -> CarlaSupervisor:
        """The supervisor of the child and the server: process ids, address, last fault."""
        return self._supervisor

    def close(self) -> None:
        """Ends the child and a server of our own."""
        self._over = True
        self._supervisor.close()


def controls(action: ArrayLike) -> tuple[float, float, float]:
    """Converts an action to steer in [-1,1], throttle and brake in [0,1].

    Args:
      action: f32[2]; clipped to [-1,1]. An action that is not finite gives full brake.

    Raises:
      ValueError: an action of another shape.
    """
    check_actions(action, (2,))
    steer, pedal = (float(number) for number in np.asarray(action, np.float64))
    if not np.isfinite([steer, pedal]).all():
        return 0.0, 0.0, 1.0
    steer, pedal = max(-1.0, min(1.0, steer)), max(-1.0, min(1.0, pedal))
    return steer, max(pedal, 0.0), max(-pedal, 0.0)


def _check_choice(what: str, name: str, choices: Iterable[str]) -> None:
    if name not in (names := list(choices)):
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(names)}")
