"""MuJoCo's own OpenGL picture: the reference that the renderer is measured against."""

from __future__ import annotations

import mujoco
import numpy as np


class HostRenderer:
    """mujoco.Renderer behind one call. Needs an OpenGL backend: set MUJOCO_GL to `egl` or `osmesa` before mujoco is
    first imported on a machine without a screen.

    Args:
      mj_model: the model. `mj_model.vis.quality.offsamples` is read here, once.
      height, width: picture size in pixels, at most the model's offscreen buffer (480 x 640 unless it says otherwise).
      camera: row or name of a camera.

    Raises:
      Exception: whatever the OpenGL backend raises when no context can be made.
    """

    def __init__(self, mj_model: mujoco.MjModel, height: int = 84, width: int = 84, camera: int | str = 0) -> None:
        self._camera = camera
        self._renderer = mujoco.Renderer(mj_model, height, width)

    def __call__(self, mj_data: mujoco.MjData) -> np.ndarray:
        """uint8[H,W,3] picture of `mj_data` after mj_forward."""
        self._renderer.update_scene(mj_data, camera=self._camera)
        return self._renderer.render()

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._renderer.close()
