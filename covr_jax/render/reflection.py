"""The mirror image in the first reflective plane. Letters: P pixels, S samples of a pixel."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from covr_jax.render.raycast import Code, may_intersect
from covr_jax.render.rays import CameraRays
from covr_jax.render.shade import light_passes, material_of, pack_colour, surface, visible
from covr_jax.render.solid_texture import with_cubes
from covr_jax.render.vector import Block, Vec, add, dot, pick, scale, sub, vec
from covr_jax.render.view import View


class Mirror(NamedTuple):
    """The first reflective plane and the mirror image of the camera."""

    rays: CameraRays  # of the camera's mirror image
    height: Block  # of the origins of the camera's rays over the plane, metres
    normal: Vec


def mirrored(view: View, rays: CameraRays) -> Mirror:
    """Reflects rays of the camera in the mirror."""
    pose = view.pose(view.scene.mirror)
    normal = pose.axes[2]
    eye = scale(2 * dot(pose.position, normal), normal)  # the camera itself is at the origin
    forward, right, up = (add(v, scale(-2 * dot(v, normal), normal)) for v in (rays.forward, rays.right, rays.up))
    height = dot(sub(rays.origin, pose.position), normal)
    return Mirror(rays._replace(eye=eye, forward=forward, right=right, up=up), height, normal)


def trace_reflection(
    view: View,
    code: Code,
    x: Float[Array | np.ndarray, " P"],
    y: Float[Array | np.ndarray, " P"],
    index: Int32[Array, " P"],
) -> Int32[Array, "S P"]:
    """Finds the items that the mirror shows. The sky is not reflected.

    Args:
      view: the env.
      code: packs distance and index.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
      index: item index of the visible plane.

    Returns:
      Codes of the samples; `code.none` where the pixel does not show the mirror.
    """
    rays, height, normal = mirrored(view, view.spread(view.rays(x, y)))
    lens = view.scene.lens
    across, upward = ((c.min() - 0.5 * d, c.max() + 0.5 * d) for c, d in ((x, lens.width), (y, lens.height)))
    candidates = may_intersect(rays, across, upward, vec(view.position.T), view.bounds)
    seen = visible(view, rays, _mirrored_items(view), code, candidates)
    # a mirrored ray starts behind the mirror; what it meets before the mirror is not reflected
    surface_t = height / jnp.maximum(rays.along(normal), 1e-9)
    reflected = (code.distance(seen) > 0.999 * surface_t) & (height > 0) & (index == view.scene.mirror)
    return jnp.where(reflected, seen, code.none)


def shade_reflection(
    view: View,
    code: Code,
    x: Float[Array | np.ndarray, " P"],
    y: Float[Array | np.ndarray, " P"],
    seen: Int32[Array, "S P"],
) -> Int32[Array, " P"]:
    """Shades the light that the mirror adds: all lights in one clamped pass, without shadows.

    Colours, but not highlights, are scaled by the reflectance.

    Args:
      view: the env.
      code: packs distance and index.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
      seen: codes from `trace_reflection`.

    Returns:
      Packed colours.
    """
    rays = mirrored(view, view.rays(x, y)).rays
    items, mirror = _mirrored_items(view), view.scene.items[view.scene.mirror]
    nearest = code.index(seen.min(0))
    point, normals = surface(view, rays, items, nearest)
    plain = material_of(view, items, nearest)
    dimmed = plain._replace(colour=scale(mirror.reflectance, plain.colour))
    passes = light_passes(view.lights, point, normals, rays.eye, dimmed, shadows=False)
    (colour,) = with_cubes(view, rays, items, nearest, point, normals.seen, passes)
    share = (code.index(seen) != code.mask).astype(jnp.float32).mean(0)
    share = share * pick(nearest, {k: 1.0 - (1.0 - view.scene.items[k].alpha) ** 2 for k in items})
    return pack_colour(tuple(c * share for c in colour))


def _mirrored_items(view: View) -> tuple[int, ...]:
    return tuple(k for k in range(len(view.scene.items)) if k != view.scene.mirror)
