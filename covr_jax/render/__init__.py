"""Renderers of MuJoCo scenes: one in pure jax.numpy, and two others behind the same contract."""

from covr_jax.render.base import BatchRenderer, RendererError
from covr_jax.render.camera import FreeCamera
from covr_jax.render.factory import RENDERERS, make_renderer
from covr_jax.render.mujoco_renderer import HostRenderer
from covr_jax.render.renderer import Renderer

__all__ = ["RENDERERS", "BatchRenderer", "FreeCamera", "HostRenderer", "Renderer", "RendererError", "make_renderer"]
