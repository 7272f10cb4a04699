"""MuJoCo scenes drawn in pure jax.numpy, and by others behind the same contract."""

from covr_jax.render.factory import RENDERERS, BatchRenderer, RendererError, make_renderer
from covr_jax.render.mujoco_renderer import HostRenderer
from covr_jax.render.renderer import Renderer

__all__ = ["RENDERERS", "BatchRenderer", "HostRenderer", "Renderer", "RendererError", "make_renderer"]
