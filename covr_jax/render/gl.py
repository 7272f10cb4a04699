"""MuJoCo's OpenGL renderer behind the contract of ``BatchRenderer``: the golden reference, one env at a time.

Letters: E envs, H W image.
"""

from __future__ import annotations

import atexit
import copy
import queue
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, UInt8

from covr_jax.render.base import RendererError
from covr_jax.render.camera import Camera
from covr_jax.render.mujoco_renderer import HostRenderer

STATE_FIELDS = ("qpos", "mocap_pos", "mocap_quat")  # all inputs of MuJoCo's kinematics
POSE_FIELDS = ("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat")
POSE_TOLERANCE = 1e-4  # m, or entries of a rotation: far above float32 kinematics, far below a pixel


class GLWorker:
    """Draws one env with MuJoCo. Uses NumPy only, because a JAX call inside a JAX callback may deadlock.

    Args:
      model: the model.
      height: image height in pixels.
      width: image width in pixels.
      camera: index or name of a camera, -1 for the free camera, or a `FreeCamera`.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int, camera: Camera) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self.host = HostRenderer(model, height, width, camera)

    def render(self, fields: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "H W 3"]:
        """Draws the state in ``fields``.

        Poses, lights and tendons are recomputed by MuJoCo in double precision, as dm_control draws them. Poses that
        differ from MuJoCo's, such as a target that the task moved, are taken from ``fields``.

        Args:
          fields: arrays of STATE_FIELDS and POSE_FIELDS of one env.
        """
        data = self._data
        for name in STATE_FIELDS:
            getattr(data, name)[:] = fields[name]
        mujoco.mj_forward(self._model, data)
        for name in POSE_FIELDS:
            own = getattr(data, name)
            given = fields[name].reshape(own.shape)
            moved = (np.abs(given - own) > POSE_TOLERANCE).any(-1)
            own[moved] = given[moved]
        return self.host(data)


class GLThread:
    """The one thread that makes, uses and frees an OpenGL context.

    A context belongs to the thread that made it, while JAX runs callbacks in any thread.

    Args:
      make_worker: makes the worker inside the new thread.

    Raises:
      BaseException: whatever ``make_worker`` raises.
    """

    def __init__(self, make_worker: Callable[[], GLWorker]) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="opengl", daemon=True)
        self._thread.start()
        try:
            self._worker = self._run(make_worker)
        except BaseException:
            self._stop()
            raise
        # Exit hooks run in reverse order: registered after EGL's own hook, this one frees the context first.
        atexit.register(self.close)

    def render(self, fields: Mapping[str, Any]) -> UInt8[np.ndarray, "H W 3"]:
        """Draws one env, see ``GLWorker.render``. Converts JAX's buffers to NumPy in the calling thread."""
        fields = {name: np.asarray(field) for name, field in fields.items()}
        return self._run(lambda: self._worker.render(fields))

    @property
    def samples(self) -> int:
        """Visibility samples per pixel that OpenGL grants."""
        return max(1, self._worker.host.multisamples)

    def close(self) -> None:
        """Frees the context; drawing afterwards raises RuntimeError. Idempotent and thread-safe."""
        if not self._closed:
            atexit.unregister(self.close)
            self._submit(self._worker.host.close)
            self._stop()
            del self._worker  # now: its destructors need modules that are gone at interpreter exit

    def _run(self, job: Callable[[], Any]) -> Any:
        return self._submit(job).result()

    def _submit(self, job: Callable[[], Any]) -> Future:
        if self._closed:
            raise RuntimeError("this renderer is closed")
        future: Future = Future()
        self._jobs.put((future, job))
        return future

    def _stop(self) -> None:
        self._closed = True
        self._jobs.put(None)
        if threading.current_thread() is not self._thread:  # the garbage collector may run in that thread
            self._thread.join()

    def _loop(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)


class GLRenderer:
    """Draws with MuJoCo's OpenGL renderer from inside compiled programs, bit for bit as ``HostRenderer``.

    The envs are drawn one after the other on the host, whatever the backend. The context is freed with the object or
    at exit.

    Args:
      mj_model: the model; copied.
      height: image height in pixels.
      width: image width in pixels.
      camera: index or name of a camera, -1 for the free camera, or a `FreeCamera`.
      samples: 1, or OpenGL's multisampling with 2 or 4 samples.

    Raises:
      RendererError: no OpenGL library, or one that does not grant the samples.
      ValueError: no such camera.
    """

    def __init__(
        self, mj_model: mujoco.MjModel, height: int = 84, width: int = 84, camera: Camera = 0, *, samples: int = 4
    ) -> None:
        model = copy.copy(mj_model)
        model.vis.quality.offsamples = 0 if samples == 1 else samples
        buffer = model.vis.global_
        buffer.offheight, buffer.offwidth = max(buffer.offheight, height), max(buffer.offwidth, width)
        try:
            self._thread = GLThread(partial(GLWorker, model, height, width, camera))
        except RuntimeError as error:
            raise RendererError(f"renderer gl: {error}") from error
        weakref.finalize(self, self._thread.close).atexit = False  # GLThread has an exit hook of its own
        self._image = jax.ShapeDtypeStruct((height, width, 3), jnp.uint8)
        if self._thread.samples != samples:
            granted = self._thread.samples
            self.close()
            raise RendererError(
                f"renderer gl: this OpenGL draws with {granted} samples per pixel when asked for"
                f" {samples}; take {granted}"
            )

    def __call__(self, data: Any) -> UInt8[Array, "H W 3"]:
        """Draws one env. Works under jit and vmap.

        Args:
          data: mjx.Data of one env, or mujoco.MjData after mj_forward.
        """
        fields = {name: jnp.asarray(getattr(data, name)) for name in STATE_FIELDS + POSE_FIELDS}
        # One env per call also keeps each field far below 100 kB. From there on JAX hands buffers over asynchronously,
        # and waiting for them inside a callback can deadlock.
        return jax.pure_callback(self._thread.render, self._image, fields, vmap_method="sequential")

    def batch(self, data: Any) -> UInt8[Array, "E H W 3"]:
        """Draws E envs.

        Args:
          data: mjx.Data with leading axis E.
        """
        return jax.vmap(self)(data)

    def close(self) -> None:
        """Frees the OpenGL context; drawing afterwards is an error."""
        self._thread.close()
