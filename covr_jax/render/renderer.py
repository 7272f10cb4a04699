"""The renderer in pure jax.numpy. Letters: E envs, H W image."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Shaped

from covr_jax.render.camera import Camera
from covr_jax.render.distract import DISTRACTORS, Appearance, sample_appearance
from covr_jax.render.model_reader import compile_scene
from covr_jax.render.pipeline import draw
from covr_jax.render.poses import Poses, poses_of
from covr_jax.render.scene import Scene
from covr_jax.render.view import ENV_AXIS, one_by_one

MAX_BATCH = 64  # envs that a CPU draws at once, which is as many as its cache holds


@partial(jax.jit, static_argnums=0)
def draw_batch(scene: Scene, poses: Poses, appearance: Appearance | None) -> Shaped[Array, "E H W *channels"]:
    """Draws E envs. A CPU draws them in batches of at most MAX_BATCH.

    Args:
      scene: the scene; static.
      poses: poses with leading axis E.
      appearance: appearances with leading axis E; None without distractors.
    """
    inputs = (poses, appearance)
    num_envs = len(poses.camera_position)
    draw_all = jax.vmap(partial(draw, scene), axis_name=ENV_AXIS)
    if not one_by_one():
        return draw_all(*inputs)
    batches = -(-num_envs // MAX_BATCH)
    size = -(-num_envs // batches)
    env_ids = np.minimum(np.arange(batches * size), num_envs - 1).reshape(batches, size)
    images = jax.lax.map(lambda ids: draw_all(*jax.tree.map(lambda leaf: leaf[ids], inputs)), jnp.asarray(env_ids))
    return images.reshape(-1, *images.shape[2:])[:num_envs]


class Renderer:
    """Draws a MuJoCo scene in pure jax.numpy, closely to MuJoCo's classic OpenGL renderer.

    Args:
      mj_model: the model; read once, not kept.
      height: image height in pixels.
      width: image width in pixels.
      camera: index or name of a camera of the model, perspective or orthographic, given by fovy or by focal lengths and
        a sensor; -1: MuJoCo's default free camera, as in `mujoco.Renderer`; or a `FreeCamera`.
      samples: visibility samples per pixel, 1, 2 or 4. Each pixel is shaded once at its centre in any case.
      shadows: whether lights with `castshadow` cast shadows.
      reflections: whether the first reflective plane mirrors the scene.
      output: as in `mujoco.Renderer`: `rgb`, uint8[H,W,3]; `depth`, f32[H,W], metres along the camera's axis, the
        model's far distance where there is nothing; `segmentation`, int32[H,W,2], index in the model and mujoco.mjtObj
        of the nearest item, -1 where there is none. The last two sample the pixel centres only.
      distractors: a name of `distract.DISTRACTORS`; calls then take an appearance from `sample_appearance`.

    Raises:
      ValueError: no such camera, a bad size or option, or meshes, height fields, skins or flexes in the model.
    """

    def __init__(
        self,
        mj_model: mujoco.MjModel,
        height: int = 84,
        width: int = 84,
        camera: Camera = 0,
        *,
        samples: int = 4,
        shadows: bool = True,
        reflections: bool = True,
        output: str = "rgb",
        distractors: str = "none",
    ) -> None:
        if distractors not in DISTRACTORS:
            raise ValueError(f"distractors must be one of {', '.join(DISTRACTORS)}, got {distractors!r}")
        strength = DISTRACTORS[distractors]
        self.scene = compile_scene(
            mj_model,
            height,
            width,
            camera,
            samples,
            shadows,
            reflections,
            output,
            distractors=distractors,
            hide_floor=strength.hide_floor,
            turning=strength.angle > 0,
        )
        self._extent = float(mj_model.stat.extent)

    def sample_appearance(self, key: Array) -> Appearance | None:
        """Samples the appearance of an episode; None without distractors.

        Args:
          key: PRNG key, consumed.
        """
        return None if self.scene.distractors == "none" else sample_appearance(key, self.scene, self._extent)

    def __call__(self, data: Any, appearance: Appearance | None = None) -> Shaped[Array, "H W *channels"]:
        """Draws one env. Pure: works under jit, vmap and export.

        Args:
          data: mjx.Data of one env, or mujoco.MjData after mj_forward.
          appearance: appearance of the episode; None without distractors.
        """
        inputs = jax.tree.map(lambda leaf: leaf[None], (poses_of(self.scene, data), appearance))
        return draw_batch(self.scene, *inputs)[0]

    def batch(self, data: Any, appearance: Appearance | None = None) -> Shaped[Array, "E H W *channels"]:
        """Draws E envs.

        Args:
          data: mjx.Data with leading axis E.
          appearance: appearances with leading axis E; None without distractors.
        """
        return draw_batch(self.scene, jax.vmap(partial(poses_of, self.scene))(data), appearance)
