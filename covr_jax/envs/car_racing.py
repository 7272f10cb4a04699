"""CarRacing-v3 of gymnasium[box2d], a simulator of a third party, as a dm_env environment."""

from __future__ import annotations

import os
from typing import Any

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike

from covr_jax.checks import finite_actions
from covr_jax.envs.images import resize_area

TIME_LIMIT = 1000  # simulation steps, as gymnasium registers it
FPS = 50  # simulation steps per second


def _make_simulator() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window system
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from gymnasium.envs.box2d import car_racing

    class Simulator(car_racing.CarRacing):
        """Renders on demand: rendering takes nearly all of a step's time."""

        rendering = True

        def _render(self, mode: str) -> Any:
            return super()._render(mode) if self.rendering else None

        def render_image(self) -> np.ndarray:
            return np.asarray(super()._render("state_pixels"))

    return Simulator()


class CarRacing(dm_env.Environment):
    """One car on a random track. Observations are images u8[image_size,image_size,3].

    Actions are f32[3] in [-1, 1]: steer, gas, brake. They are mapped to the simulator's bounds [-1, 1], [0, 1], [0, 1]
    and held for ``action_repeat`` simulation steps, whose rewards are summed. A finished lap and a car outside the
    playing field terminate the episode; the time limit truncates it.

    Args:
      image_size: height and width of the observations, pixels.
      action_repeat: simulation steps per agent step.
      seed: see ``seed``.
    """

    def __init__(self, *, image_size: int = 84, action_repeat: int = 4, seed: int = 0):
        self._simulator = _make_simulator()
        self._repeat = action_repeat
        self._low, self._high = self._simulator.action_space.low, self._simulator.action_space.high
        self._size = image_size
        self._generator = np.random.default_rng(seed)
        self._steps, self._ended, self._lap_finished = 0, True, False

    def seed(self, seed: int) -> None:
        """Decides the tracks of the episodes from the next ``reset`` on."""
        self._generator = np.random.default_rng(seed)

    def reset(self) -> dm_env.TimeStep:
        """See ``dm_env.Environment``."""
        self._simulator.rendering = True
        image, _ = self._simulator.reset(seed=int(self._generator.integers(2**31)))
        self._steps, self._ended, self._lap_finished = 0, False, False
        return dm_env.restart(resize_area(image, self._size))

    def step(self, action: ArrayLike) -> dm_env.TimeStep:
        """See ``dm_env.Environment``; the action is clipped to [-1, 1].

        Raises:
          ValueError: an action of another shape, or that is no finite number.
        """
        if self._ended:
            return self.reset()
        action = np.clip(finite_actions(action, (3,)), -1.0, 1.0)
        control = self._low + 0.5 * (action + 1.0) * (self._high - self._low)
        reward_sum, terminated = 0.0, False
        for index in range(self._repeat):
            self._simulator.rendering = index == self._repeat - 1
            _, reward, terminated, _, info = self._simulator.step(control)
            reward_sum += float(reward)
            self._steps += 1
            if terminated or self._steps == TIME_LIMIT:
                self._ended, self._lap_finished = True, bool(info.get("lap_finished", False))
                break
        image = self._simulator.state if self._simulator.rendering else self._simulator.render_image()
        image = resize_area(image, self._size)
        if not self._ended:
            return dm_env.transition(reward_sum, image)
        return dm_env.termination(reward_sum, image) if terminated else dm_env.truncation(reward_sum, image)

    def metrics(self) -> dict[str, float]:
        """Returns the share of the track's tiles visited in the current or last episode, and 1.0 for a finished lap."""
        tiles = self._simulator.tile_visited_count / len(self._simulator.track)
        return {"track_fraction": tiles, "lap_finished": float(self._lap_finished)}

    def observation_spec(self) -> specs.BoundedArray:
        """See ``dm_env.Environment``."""
        return specs.BoundedArray((self._size, self._size, 3), np.uint8, 0, 255, name="pixels")

    def action_spec(self) -> specs.BoundedArray:
        """See ``dm_env.Environment``."""
        return specs.BoundedArray((3,), np.float32, -1.0, 1.0, name="steer_gas_brake")

    def close(self) -> None:
        """Frees the simulator's surfaces."""
        self._simulator.close()
