"""Rays: of a perspective camera, of an orthographic one, and any."""

# pyright: reportReturnType=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import NamedTuple

from covr_jax.render.vector import Block, Vec, add, dot, scale


class PinholeRays(NamedTuple):
    """Rays of a perspective camera: eye + t (forward + x right + y up).

    The vectors are scalars and `x`, `y` are blocks, so a projection on a scalar vector costs two multiply-adds per ray.
    """

    eye: Vec
    forward: Vec
    right: Vec
    up: Vec
    x: Block  # image plane coordinate to the right, at distance 1
    y: Block  # image plane coordinate upwards, at distance 1

    @property
    def origin(self) -> Vec:
        """Where the rays start."""
        return self.eye

    def along(self, v: Vec) -> Block:
        """Inner product of the directions with `v`."""
        return dot(self.forward, v) + self.x * dot(self.right, v) + self.y * dot(self.up, v)

    def squared(self) -> Block:
        """Squared length of the directions."""
        return 1.0 + self.x * self.x + self.y * self.y

    def at(self, t: Block) -> Vec:
        """Points at ray parameter `t`."""
        return tuple(
            self.eye[k] + t * (self.forward[k] + self.x * self.right[k] + self.y * self.up[k]) for k in range(3)
        )

    def width_at(self, t: Block) -> Block:
        """How far the points at ray parameter `t` move along the image plane when `x` or `y` grows by 1."""
        return t


class ParallelRays(NamedTuple):
    """Rays of an orthographic camera: eye + x right + y up + t forward. Fields as in `PinholeRays`; x, y in metres."""

    eye: Vec
    forward: Vec
    right: Vec
    up: Vec
    x: Block
    y: Block

    @property
    def origin(self) -> Vec:
        """Where the rays start."""
        return tuple(self.eye[k] + self.x * self.right[k] + self.y * self.up[k] for k in range(3))

    def along(self, v: Vec) -> Block:
        """Inner product of the direction, the same for all rays, with `v`."""
        return dot(self.forward, v)

    def squared(self) -> Block:
        """Squared length of the direction."""
        return 1.0

    def at(self, t: Block) -> Vec:
        """Points at ray parameter `t`."""
        return add(self.origin, scale(t, self.forward))

    def width_at(self, t: Block) -> Block:
        """See `PinholeRays.width_at`."""
        return 1.0


class FreeRays(NamedTuple):
    """Rays origin + t direction; both are vectors of blocks."""

    origin: Vec
    direction: Vec

    def along(self, v: Vec) -> Block:
        """Inner product of the directions with `v`."""
        return dot(self.direction, v)

    def squared(self) -> Block:
        """Squared length of the directions."""
        return dot(self.direction, self.direction)

    def at(self, t: Block) -> Vec:
        """Points at ray parameter `t`."""
        return add(self.origin, scale(t, self.direction))


CameraRays = PinholeRays | ParallelRays
Rays = CameraRays | FreeRays
