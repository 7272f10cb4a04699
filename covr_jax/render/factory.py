"""A renderer by name. All keep one contract: ``renderer(data)`` draws a world, ``renderer.batch(data)`` E of them."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import mujoco

from covr_jax.render.renderer import Renderer

RENDERERS = ("jax", "warp", "gl")


class RendererError(RuntimeError):
    """A renderer that cannot be used here, or not so; the message is one line that says what to do."""


class BatchRenderer(Protocol):
    """Pictures of poses. Both calls are deterministic and work under ``jax.jit``."""

    def __call__(self, data: Any) -> jax.Array:
        """uint8[H,W,3] picture of one world: mjx.Data, or mujoco.MjData after mj_forward."""
        ...

    def batch(self, data: Any) -> jax.Array:
        """uint8[E,H,W,3] pictures of mjx.Data with leading axis E."""
        ...


def make_renderer(
    name: str,
    mj_model: mujoco.MjModel,
    height: int = 84,
    width: int = 84,
    camera: int | str = 0,
    *,
    samples: int = 4,
    num_envs: int = 1,
    distractors: str = "none",
) -> BatchRenderer:
    """The renderer ``name`` of ``RENDERERS``; another one's pictures are another task.

    Args:
      height, width: pixels. camera: row or name. samples: visibility samples per pixel.
      num_envs: E, the only batch that ``warp`` draws; the others draw any.
      distractors: a name of ``distract.DISTRACTORS``, which only ``jax`` draws.

    Raises:
      RendererError: a library that is missing or does not fit, or samples or distractors that this renderer does not
        take.
      ValueError: an unknown name, camera or size.
    """
    if name == "jax":
        return Renderer(mj_model, height, width, camera, samples=samples, distractors=distractors)
    if name in RENDERERS and distractors != "none":
        raise RendererError(f"renderer {name} draws no distractors; take --renderer jax")
    if name == "gl":
        from covr_jax.render.gl import GLRenderer

        return GLRenderer(mj_model, height, width, camera, samples=samples)
    if name == "warp":
        from covr_jax.render.warp import WarpRenderer

        return WarpRenderer(mj_model, height, width, camera, samples=samples, num_envs=num_envs)
    raise ValueError(f"unknown renderer {name!r}; choose from {', '.join(RENDERERS)}")
