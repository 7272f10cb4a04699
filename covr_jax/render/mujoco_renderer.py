"""MuJoCo's own OpenGL renderer, the reference of all others. Letters: H W image."""

from __future__ import annotations

import ctypes.util
import importlib
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8

from covr_jax.render.camera import Camera, as_mujoco

BACKENDS = (("OSMesa", "mujoco.osmesa"), ("EGL", "mujoco.egl"))  # library, the module that makes a context with it
MAX_GEOMS = 2000  # geoms, sites and tendon segments of an image


class HostRenderer:
    """MuJoCo's classic renderer, off screen, whatever MUJOCO_GL says.

    Args:
      mj_model: the model. `mj_model.vis.quality.offsamples` (multisampling) is read here, once.
      height: image height in pixels, at most that of the model's offscreen buffer (480 by default).
      width: image width in pixels, at most that of the model's offscreen buffer (640 by default).
      camera: index or name of a camera, -1 for the free camera, or a `FreeCamera`.

    Attributes:
      scene: mujoco.MjvScene of the last image.
      context: mujoco.MjrContext.
      multisamples: samples per pixel that OpenGL grants; 0 without multisampling.

    Raises:
      RuntimeError: no OpenGL library is installed, or none makes a context.
      ValueError: no such camera, or the image is larger than the offscreen buffer.
    """

    def __init__(self, mj_model: mujoco.MjModel, height: int = 84, width: int = 84, camera: Camera = 0) -> None:
        buffer = mj_model.vis.global_
        if height > buffer.offheight or width > buffer.offwidth:
            raise ValueError(
                f"an image of {height} x {width} exceeds the offscreen buffer of {buffer.offheight} x {buffer.offwidth}"
            )
        self._camera = as_mujoco(mj_model, camera)
        self._model, self._shape = mj_model, (height, width, 3)
        self._gl = gl_context(width, height)
        self._gl.make_current()
        self.context = mujoco.MjrContext(mj_model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.multisamples = int(self.context.offSamples)
        self.scene, self._options = mujoco.MjvScene(mj_model, MAX_GEOMS), mujoco.MjvOption()

    def __call__(self, mj_data: mujoco.MjData) -> UInt8[np.ndarray, "H W 3"]:
        """Draws `mj_data` after mj_forward."""
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self._model, mj_data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self.scene
        )
        height, width, _ = self._shape
        viewport, image = mujoco.MjrRect(0, 0, width, height), np.empty(self._shape, np.uint8)
        mujoco.mjr_render(viewport, self.scene, self.context)
        mujoco.mjr_readPixels(image, None, viewport, self.context)
        return image[::-1].copy()  # GL's first row is the lowest

    def close(self) -> None:
        """Frees the OpenGL context."""
        self.context.free()
        self._gl.free()


def gl_context(width: int, height: int) -> Any:
    """Makes an off-screen OpenGL context with the first library that is installed.

    Args:
      width: pixels.
      height: pixels.

    Returns:
      A GLContext of `mujoco.osmesa` or `mujoco.egl`.

    Raises:
      RuntimeError: no library is installed, or it makes no context.
    """
    for library, module in BACKENDS:
        if ctypes.util.find_library(library):
            try:
                return importlib.import_module(module).GLContext(width, height)
            except Exception as error:
                raise RuntimeError(f"{library} is installed but makes no OpenGL context: {error}") from error
    raise RuntimeError("no off-screen OpenGL: install OSMesa (libosmesa6) or EGL (libegl1)")
