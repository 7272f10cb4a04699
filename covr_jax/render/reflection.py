"""The mirror image in the first reflective plane."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from covr_jax.render.raycast import Array, Code, PinholeRays, Vec, add, dot, may_meet, pick, scale
from covr_jax.render.shade import light_passes, material_of, pack_colour, surface, visible
from covr_jax.render.view import View, vec


class Mirror(NamedTuple):
    """The first reflective plane and what looks out of it."""

    rays: PinholeRays  # of the camera's mirror image
    height: Array  # of the camera over the plane, metres
    normal: Vec


def mirrored(view: View, rays: PinholeRays) -> Mirror:
    """Reflects the camera's `rays` in the mirror."""
    pose = view.pose(view.scene.mirror)
    normal = pose.axes[2]
    height = -dot(pose.position, normal)
    axes = (add(v, scale(-2 * dot(v, normal), normal)) for v in (rays.forward, rays.right, rays.up))
    return Mirror(PinholeRays(scale(-2 * height, normal), *axes, rays.x, rays.y), height, normal)


def see_reflection(view: View, code: Code, x: Array, y: Array, winner: Array) -> Array:
    """int32[S,P] packed items that the camera's mirror image sees through the pixels that show the mirror.

    `x, y` are the pixel centres, `winner` is int32[P]. The sky is not reflected.
    """
    rays, height, normal = mirrored(view, view.spread(view.rays(x, y)))
    half = 0.5 * view.scene.pixel
    near = may_meet(rays, *((c.min() - half, c.max() + half) for c in (x, y)), vec(view.position.T), view.bounds)
    seen = visible(view, rays, _mirrored_items(view), code, near)
    # a mirrored ray starts behind the mirror; what it meets before the glass is not reflected
    glass = height / jnp.maximum(rays.along(normal), 1e-9)
    shown = (code.distance(seen) > 0.999 * glass) & (height > 0) & (winner == view.scene.mirror)
    return jnp.where(shown, seen, code.none)


def shade_reflection(view: View, code: Code, x: Array, y: Array, seen: Array) -> Array:
    """int32[P] packed light that the mirror adds: all lights at once, one clamp, no shadows.

    Colours, but not highlights, are scaled by the reflectance. `seen` comes from `see_reflection`.
    """
    rays = mirrored(view, view.rays(x, y)).rays
    items, mirror = _mirrored_items(view), view.scene.items[view.scene.mirror]
    nearest = code.index(seen.min(0))
    point, normal = surface(view, rays, items, nearest)
    plain = material_of(view, items, nearest)
    dimmed = plain._replace(colour=scale(mirror.reflectance, plain.colour))
    (colour,) = light_passes(view.lights, point, normal, rays.origin, dimmed, shadows=False)
    share = (code.index(seen) != code.mask).astype(jnp.float32).mean(0)
    share = share * pick(nearest, {k: 1.0 - (1.0 - view.scene.items[k].alpha) ** 2 for k in items})
    return pack_colour(tuple(c * share for c in colour))


def _mirrored_items(view: View) -> tuple[int, ...]:
    return tuple(k for k in range(len(view.scene.items)) if k != view.scene.mirror)
