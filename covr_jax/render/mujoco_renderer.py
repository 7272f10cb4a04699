"""MuJoCo's own OpenGL picture: the reference that the renderer is measured against."""

from __future__ import annotations

import ctypes.util
import importlib
from typing import Any

import mujoco
import numpy as np

BACKENDS = (("OSMesa", "mujoco.osmesa"), ("EGL", "mujoco.egl"))  # library, the module that makes a context with it
ROOM = 2000  # geoms, sites and tendon segments that fit into a picture


class HostRenderer:
    """MuJoCo's classic renderer behind one call, off screen, whatever MUJOCO_GL says.

    Args:
      mj_model: the model. `mj_model.vis.quality.offsamples` (multisampling) is read here, once.
      height, width: picture size in pixels, at most the model's offscreen buffer (480 x 640 unless it says otherwise).
      camera: row or name of a camera.

    Raises:
      RuntimeError: if no OpenGL library is installed, or none makes a context.
      ValueError: if there is no such camera, or the picture is larger than the offscreen buffer.
    """

    def __init__(self, mj_model: mujoco.MjModel, height: int = 84, width: int = 84, camera: int | str = 0) -> None:
        room = mj_model.vis.global_
        if height > room.offheight or width > room.offwidth:
            raise ValueError(
                f"a picture of {height} x {width} exceeds the offscreen buffer of {room.offheight} x {room.offwidth}"
            )
        row = mujoco.mj_name2id(mj_model, mujoco.mjtObj.mjOBJ_CAMERA, camera) if isinstance(camera, str) else camera
        if not 0 <= row < mj_model.ncam:
            raise ValueError(f"the model has no camera {camera!r}")
        self._model, self._shape = mj_model, (height, width, 3)
        self._gl = gl_context(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(mj_model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self.multisamples = int(self._context.offSamples)  # that OpenGL grants; 0: no multisampling
        self._scene, self._options = mujoco.MjvScene(mj_model, ROOM), mujoco.MjvOption()
        self._view = mujoco.MjvCamera()
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, row

    def __call__(self, mj_data: mujoco.MjData) -> np.ndarray:
        """uint8[H,W,3] picture of `mj_data` after mj_forward."""
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self._model, mj_data, self._options, None, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        height, width, _ = self._shape
        area, picture = mujoco.MjrRect(0, 0, width, height), np.empty(self._shape, np.uint8)
        mujoco.mjr_render(area, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, area, self._context)
        return picture[::-1].copy()  # GL's first row is the lowest

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._context.free()
        self._gl.free()


def gl_context(width: int, height: int) -> Any:
    """An off-screen OpenGL context from the first library that is installed. Raises RuntimeError if there is none."""
    for library, module in BACKENDS:
        if ctypes.util.find_library(library):
            try:
                return importlib.import_module(module).GLContext(width, height)
            except Exception as error:
                raise RuntimeError(f"{library} is installed but makes no OpenGL context: {error}") from error
    raise RuntimeError("no off-screen OpenGL: install OSMesa (libosmesa6) or EGL (libegl1)")
