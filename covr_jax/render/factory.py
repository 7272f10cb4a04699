"""Makes a renderer by name. All of them implement ``base.BatchRenderer``."""

from __future__ import annotations

import mujoco

from covr_jax.render.base import BatchRenderer, RendererError
from covr_jax.render.camera import Camera
from covr_jax.render.gl import GLRenderer
from covr_jax.render.renderer import Renderer

RENDERERS = ("jax", "warp", "gl")


def make_renderer(
    name: str,
    mj_model: mujoco.MjModel,
    height: int = 84,
    width: int = 84,
    camera: Camera = 0,
    *,
    samples: int = 4,
    num_envs: int = 1,
    distractors: str = "none",
) -> BatchRenderer:
    """Makes the renderer ``name``. Renderers differ in their images, so each defines another task.

    Args:
      name: one of ``RENDERERS``.
      mj_model: the model.
      height: image height in pixels.
      width: image width in pixels.
      camera: index or name of a camera, or, unless with ``warp``, -1 or a ``FreeCamera``; see ``Renderer``.
      samples: visibility samples per pixel.
      num_envs: E, the only batch size that ``warp`` draws; the others draw any.
      distractors: a name of ``distract.DISTRACTORS``; other than "none" only with ``jax``.

    Returns:
      The renderer.

    Raises:
      RendererError: a library is missing or has the wrong version, or the renderer does not support the samples or
        distractors.
      ValueError: unknown name, camera or size.
    """
    if name == "jax":
        return Renderer(mj_model, height, width, camera, samples=samples, distractors=distractors)
    if name in RENDERERS and distractors != "none":
        raise RendererError(f"renderer {name} draws no distractors; take --renderer jax")
    if name == "gl":
        return GLRenderer(mj_model, height, width, camera, samples=samples)
    if name == "warp":
        from covr_jax.render.warp import WarpRenderer  # imports all of mjx

        return WarpRenderer(mj_model, height, width, camera, samples=samples, num_envs=num_envs)
    raise ValueError(f"unknown renderer {name!r}; choose from {', '.join(RENDERERS)}")
