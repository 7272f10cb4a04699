"""CarRacing-v3 of gymnasium[box2d], a third party's simulator, as a dm_env environment."""

from __future__ import annotations

import os
from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from covr_jax.envs.images import fit

TIME_LIMIT = 1000  # simulation steps, as gymnasium registers it
FPS = 50  # simulation steps per second


def _make_simulator() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window system
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from gymnasium.envs.box2d import car_racing

    class Simulator(car_racing.CarRacing):
        """Draws only when told to: nearly all of a step's time goes into the picture."""

        drawing = True

        def _render(self, mode: str) -> Any:
            return super()._render(mode) if self.drawing else None

        def draw(self) -> np.ndarray:
            return super()._render("state_pixels")

    return Simulator()


class CarRacing(dm_env.Environment):
    """One car on a random track; pictures u8[image_size,image_size,3].

    The action (steer, gas, brake) f32[3] in [-1, 1] is mapped to the simulator's bounds [-1, 1], [0, 1], [0, 1] and
    held for ``action_repeat`` simulation steps, whose rewards are summed. A finished lap and a car outside the playing
    field terminate; the time limit truncates.
    """

    def __init__(self, *, image_size: int = 84, action_repeat: int = 4, seed: int = 0):
        self._simulator = _make_simulator()
        self._repeat = action_repeat
        self._low, self._high = self._simulator.action_space.low, self._simulator.action_space.high
        self._size = image_size
        self._generator = np.random.default_rng(seed)
        self._steps, self._ended, self._lap = 0, True, False

    def seed(self, seed: int) -> None:
        """Decide the tracks of the episodes from the next ``reset`` on."""
        self._generator = np.random.default_rng(seed)

    def reset(self) -> dm_env.TimeStep:
        """See ``dm_env.Environment``."""
        self._simulator.drawing = True
        frame, _ = self._simulator.reset(seed=int(self._generator.integers(2**31)))
        self._steps, self._ended, self._lap = 0, False, False
        return dm_env.restart(fit(frame, self._size))

    def step(self, action: Any) -> dm_env.TimeStep:
        """See ``dm_env.Environment``; the action is clipped to [-1, 1]."""
        if self._ended:
            return self.reset()
        action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        control = self._low + 0.5 * (action + 1.0) * (self._high - self._low)
        reward = 0.0
        for index in range(self._repeat):
            self._simulator.drawing = index == self._repeat - 1
            _, gained, terminated, _, info = self._simulator.step(control)
            reward += float(gained)
            self._steps += 1
            if terminated or self._steps == TIME_LIMIT:
                self._ended, self._lap = True, bool(info.get("lap_finished", False))
                break
        frame = fit(self._simulator.state if self._simulator.drawing else self._simulator.draw(), self._size)
        if not self._ended:
            return dm_env.transition(reward, frame)
        return dm_env.termination(reward, frame) if terminated else dm_env.truncation(reward, frame)

    def metrics(self) -> dict[str, float]:
        """Of the episode under way or just over: the share of the track's tiles visited, and 1 for a finished lap."""
        tiles = self._simulator.tile_visited_count / len(self._simulator.track)
        return {"track_fraction": tiles, "lap_finished": float(self._lap)}

    def observation_spec(self) -> specs.BoundedArray:
        """See ``dm_env.Environment``."""
        return specs.BoundedArray((self._size, self._size, 3), np.uint8, 0, 255, name="pixels")

    def action_spec(self) -> specs.BoundedArray:
        """See ``dm_env.Environment``."""
        return specs.BoundedArray((3,), np.float32, -1.0, 1.0, name="steer_gas_brake")

    def close(self) -> None:
        """Free the simulator's surfaces."""
        self._simulator.close()
