"""MuJoCo's own OpenGL picture behind the contract of ``Renderer``: the golden reference, one world at a time."""

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

from covr_jax.render.factory import RendererError
from covr_jax.render.mujoco_renderer import HostRenderer

STATE = ("qpos", "mocap_pos", "mocap_quat")  # all that MuJoCo's kinematics depend on
POSES = ("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat")
MOVED = 1e-4  # m, or entries of a rotation: far above float32 kinematics, far below a pixel


class GLWorker:
    """Fields of one world in, MuJoCo's picture out. NumPy only: a call into JAX from its own callback may deadlock."""

    def __init__(self, model: mujoco.MjModel, height: int, width: int, camera: int | str) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self.host = HostRenderer(model, height, width, camera)

    def paint(self, fields: Mapping[str, np.ndarray]) -> np.ndarray:
        """uint8[H,W,3] picture.

        Poses, lights and tendons are MuJoCo's own for the state, in double precision as dm_control draws them. What
        lies elsewhere in ``fields``, such as the target of an episode, was moved by the task and is drawn there.
        """
        data = self._data
        for name in STATE:
            getattr(data, name)[:] = fields[name]
        mujoco.mj_forward(self._model, data)
        for name in POSES:
            own = getattr(data, name)
            given = fields[name].reshape(own.shape)
            moved = (np.abs(given - own) > MOVED).any(-1)
            own[moved] = given[moved]
        return self.host(data)


class GLThread:
    """The one thread that makes, uses and frees an OpenGL context, which belongs to a thread: JAX calls from any."""

    def __init__(self, make_painter: Callable[[], GLWorker]) -> None:
        """Raises what ``make_painter`` raises."""
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="opengl", daemon=True)
        self._thread.start()
        try:
            self._painter = self._run(make_painter)
        except BaseException:
            self._stop()
            raise
        # After the context: EGL's own exit hook, registered before, must come later.
        atexit.register(self.close)

    def paint(self, fields: Mapping[str, Any]) -> np.ndarray:
        """As ``GLWorker.paint``; what JAX hands over is read in the thread that it called."""
        fields = {name: np.asarray(field) for name, field in fields.items()}
        return self._run(lambda: self._painter.paint(fields))

    @property
    def samples(self) -> int:
        """Visibility samples per pixel that OpenGL grants."""
        return max(1, self._painter.host.multisamples)

    def close(self) -> None:
        """Frees the context; drawing afterwards raises RuntimeError. May be called twice, and from any thread."""
        if not self._closed:
            atexit.unregister(self.close)
            self._submit(self._painter.host.close)
            self._stop()
            del self._painter  # now: its destructors need modules that are gone at the very end

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
        if threading.current_thread() is not self._thread:  # the garbage collector calls from there, too
            self._thread.join()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)


class GLRenderer:
    """Draws with MuJoCo's classic renderer from inside compiled programs: bit for bit what ``HostRenderer`` draws.

    The worlds are drawn one after the other on the host, whatever the backend. The context is freed with the object or
    at exit.

    Args:
      mj_model: the model; copied.
      height, width: picture size in pixels.
      camera: row or name of a camera.
      samples: 1, or OpenGL's multisampling with 2 or 4 samples.

    Raises:
      RendererError: no OpenGL library, or one that does not multisample so.
      ValueError: no such camera.
    """

    def __init__(
        self, mj_model: mujoco.MjModel, height: int = 84, width: int = 84, camera: int | str = 0, *, samples: int = 4
    ) -> None:
        model = copy.copy(mj_model)
        model.vis.quality.offsamples = 0 if samples == 1 else samples
        room = model.vis.global_
        room.offheight, room.offwidth = max(room.offheight, height), max(room.offwidth, width)
        try:
            self._studio = GLThread(partial(GLWorker, model, height, width, camera))
        except RuntimeError as error:
            raise RendererError(f"renderer gl: {error}") from error
        weakref.finalize(self, self._studio.close).atexit = False  # the studio has an exit hook of its own
        self._picture = jax.ShapeDtypeStruct((height, width, 3), jnp.uint8)
        if self._studio.samples != samples:
            granted = self._studio.samples
            self.close()
            raise RendererError(
                f"renderer gl: this OpenGL draws with {granted} samples per pixel when asked for"
                f" {samples}; take {granted}"
            )

    def __call__(self, data: Any) -> jax.Array:
        """uint8[H,W,3] picture of one world: mjx.Data, or mujoco.MjData after mj_forward. Works under jit and vmap."""
        fields = {name: jnp.asarray(getattr(data, name)) for name in STATE + POSES}
        # One world per call also keeps each field far below the 100 kB from where JAX hands buffers over asynchronously
        # and waiting for them inside a callback can deadlock.
        return jax.pure_callback(self._studio.paint, self._picture, fields, vmap_method="sequential")

    def batch(self, data: Any) -> jax.Array:
        """uint8[E,H,W,3] pictures of mjx.Data with leading axis E."""
        return jax.vmap(self)(data)

    def close(self) -> None:
        """Frees the OpenGL context; drawing afterwards is an error."""
        self._studio.close()
