"""MuJoCo scenes drawn in pure jax.numpy."""

from covr_jax.render.host import HostRenderer
from covr_jax.render.renderer import Renderer

__all__ = ["HostRenderer", "Renderer"]
