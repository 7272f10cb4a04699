"""The haze that MuJoCo draws between an infinite plane and a skybox, and where the skybox ends the view.

The haze is an upright ring of flat pieces, seen from inside. It rises from the plane, where its radius is a share of
the sky's, up to the height of the camera, where it meets the sky; it is clear at both ends and opaque between them,
where it hides the end of the plane. Letters: P pixels, S samples of a pixel.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false
# Vectors are tuples built by comprehension, whose length the checker cannot see; scenes here have haze.
from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from covr_jax.render.raycast import TINY, Code
from covr_jax.render.rays import CameraRays
from covr_jax.render.vector import Block, Vec, dot
from covr_jax.render.view import View


def end_at_sky(view: View, rays: CameraRays, code: Code, seen: Int32[Array, "S P"]) -> Int32[Array, "S P"]:
    """Removes what is behind the skybox.

    Args:
      view: the env.
      rays: through the samples.
      code: packs distance and index.
      seen: codes of the items that the samples show.
    """
    return jnp.where(code.distance(seen) > _sky_distance(view, rays), code.none, seen)


def backdrop_distance(view: View, rays: CameraRays) -> Float[Array, "S P"]:
    """Ray parameter of the skybox, or of the haze before it.

    Args:
      view: the env.
      rays: through the samples.
    """
    ring, _, drawn = _ring(view, rays)
    return jnp.where(drawn, ring, _sky_distance(view, rays))


def _sky_distance(view: View, rays: CameraRays) -> Float[Array, "S P"]:
    """Ray parameter of the skybox, a cylinder around the camera, upright in the world."""
    reach = view.scene.haze.reach
    origin, direction = rays.origin, tuple(rays.along(axis) for axis in np.eye(3, dtype=np.float32))
    across, start, apothem = _outwards(view, origin, direction)
    side = (reach * apothem - start) / jnp.maximum(across, TINY)
    cap = (reach - jnp.sign(direction[2]) * origin[2]) / jnp.maximum(jnp.abs(direction[2]), TINY)
    return jnp.minimum(side, cap)


def haze_shares(
    view: View, rays: CameraRays, code: Code, seen: Int32[Array, "S P"]
) -> tuple[Float[Array, " P"], Float[Array, " P"]]:
    """How much of the pixels the haze covers. It covers floors and the sky only, not the few items behind it.

    As in OpenGL, its opacity is that at a pixel's centre, and its samples are those that it covers.

    Args:
      view: the env.
      rays: through the pixel centres.
      code: packs distance and index.
      seen: codes of the opaque items that the samples show.

    Returns:
      Shares of the pixels that are haze over floors, and haze over the sky.
    """
    samples = view.spread(rays)
    distance, height, ok = _ring(view, samples)
    _, centre, _ = _ring(view, rays)
    full = view.scene.haze.full
    opacity = jnp.where(height < full, centre / full, (1.0 - centre) / (1.0 - full))
    drawn = jnp.where(ok & (distance < code.distance(seen)), jnp.clip(opacity, 0.0, 1.0), 0.0)
    index, floor = code.index(seen), jnp.zeros(seen.shape, bool)
    for k in view.scene.floors:
        floor = floor | (index == k)
    return tuple(jnp.where(mask, drawn, 0.0).mean(0) for mask in (floor, seen == code.none))


def _ring(view: View, rays: CameraRays) -> tuple[Block, Block, Bool[Array, " ..."]]:
    """Where rays meet the ring: ray parameter, height (0 on the plane, 1 at the camera's), whether it is drawn there.

    The height goes on smoothly outside of the ring.
    """
    haze = view.scene.haze
    pose = view.pose(haze.item)
    elevation = -dot(pose.position, pose.axes[2])  # the camera is at the origin
    origin = tuple(dot(rays.origin, axis) for axis in pose.axes)
    direction = tuple(rays.along(axis) for axis in pose.axes)
    across, start, apothem = _outwards(view, origin, direction)
    # on a piece of the ring, the distance from the axis is apothem reach (1 - ring (1 - height))
    lean = apothem * haze.reach * haze.ring / jnp.maximum(elevation, TINY)
    closing = across - lean * direction[2]
    t = (apothem * haze.reach + lean * origin[2] - start) / jnp.maximum(closing, TINY)
    height = 1.0 + (origin[2] + t * direction[2]) / jnp.maximum(elevation, TINY)
    return t, height, (elevation >= 0) & (closing > TINY) & (height >= 0) & (height <= 1)


def _outwards(view: View, origin: Vec, direction: Vec) -> tuple[Block, Block, float]:
    """The normal of the piece, of a cylinder of flat pieces, towards which rays run: inner products with it.

    Args:
      view: the env.
      origin: of the rays, in axes of which the third is the cylinder's.
      direction: of the rays, in the same axes.

    Returns:
      Inner products with the direction and with the origin, and the distance of a piece from the axis over that of its
      edges.
    """
    step = 2 * np.pi / view.scene.haze.pieces
    angle = (jnp.floor(jnp.arctan2(direction[1], direction[0]) / step) + 0.5) * step
    x, y = jnp.cos(angle), jnp.sin(angle)
    return direction[0] * x + direction[1] * y, origin[0] * x + origin[1] * y, float(np.cos(step / 2))
