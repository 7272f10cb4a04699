"""The contract of all renderers. Letters: E envs, H W image."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, UInt8


class RendererError(RuntimeError):
    """A renderer that cannot be used on this machine or with these options. The message is one line with a remedy."""


@runtime_checkable
class BatchRenderer(Protocol):
    """Draws images of physics states. Both calls are deterministic and work under ``jax.jit``."""

    def __call__(self, data: Any) -> UInt8[Array, "H W 3"]:
        """Draws one env.

        Args:
          data: mjx.Data of one env, or mujoco.MjData after mj_forward.
        """
        ...

    def batch(self, data: Any) -> UInt8[Array, "E H W 3"]:
        """Draws E envs.

        Args:
          data: mjx.Data with leading axis E.
        """
        ...
