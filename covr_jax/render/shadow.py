"""Shadows as by MuJoCo's shadow maps. Letters: K items, G groups of pixels, P pixels."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covr_jax.render.rays import FreeRays
from covr_jax.render.vector import Vec, add, cross, dot, scale, sub, unit, vec
from covr_jax.render.view import Light, View

SHADOW_BIAS = 1e-3  # metres along the normal, so that a surface does not shadow itself


def is_lit(
    view: View, light: Light, point: Vec, normal: Vec, bias: float, valid: Bool[Array, " P"]
) -> Bool[Array, " P"]:
    """Whether a light reaches surface points, as by MuJoCo's shadow map. Planes cast no shadow.

    Outside the map everything is lit. The map covers a square of half width `shadow_clip` in front of a directional
    light, whose position counts: what is behind it casts no shadow. That of a spotlight covers a pyramid of
    `shadow_scale` times the cutoff.

    Args:
      view: the env.
      light: the light.
      point: the points.
      normal: unit normals.
      bias: metres along the normal at which the shadow ray starts.
      valid: pixels whose result is used; it is not defined for the others.
    """
    constants, scene = light.constants, view.scene
    start = add(point, scale(bias, normal))
    direction = scale(-1.0, light.direction) if constants.directional else sub(light.position, start)
    rays = FreeRays(start, direction)

    offset = sub(point, light.position)
    depth = dot(offset, light.direction)
    end = depth - scene.near if constants.directional else 1.0

    def block(shadowed, _, get_hit):
        hit = get_hit()
        return shadowed | (hit.ok & (hit.t > 0) & (hit.t < end))

    candidates = _may_occlude_any(view, light, point, valid)
    shadowed = view.visit(rays, scene.casters, block, jnp.zeros(jnp.shape(point[0]), bool), candidates)
    if scene.transparent_casters:  # they also shadow what is inside of them, which only a ray from the light meets
        rays = FreeRays(add(start, scale(end, direction)), scale(-1.0, direction))
        shadowed = view.visit(rays, scene.transparent_casters, block, shadowed, candidates)
    map_up = unit(cross(light.direction, (-1.0, 0.0, 0.0)))
    map_right = cross(light.direction, map_up)
    reach: Any = scene.shadow_clip
    if not constants.directional:
        angle = min(2 * constants.cutoff * scene.shadow_scale, 160.0)  # degrees, full opening
        reach = float(np.tan(np.deg2rad(angle / 2))) * depth
    inside = (jnp.abs(dot(offset, map_right)) < reach) & (jnp.abs(dot(offset, map_up)) < reach)
    return ~(shadowed & inside)


def _may_occlude_any(view: View, light: Light, point: Vec, valid: Array) -> Bool[Array, " K"]:
    """Items that may come between the light and one of the valid points; conservative."""
    low = tuple(jnp.where(valid, p, jnp.inf).min() for p in point)
    high = tuple(jnp.where(valid, p, -jnp.inf).max() for p in point)
    centre = tuple(0.5 * (a + b)[None] for a, b in zip(low, high, strict=True))
    size = tuple(0.5 * (b - a) for a, b in zip(low, high, strict=True))
    return may_occlude(view, light, centre, jnp.sqrt(dot(size, size)))[:, 0]


def may_occlude(view: View, light: Light, centre: Vec, radius: Float[Array, " ..."]) -> Bool[Array, "K G"]:
    """Items that may come between a light and points inside balls. Conservative: True for some that do not.

    The region between a ball and the light is bounded by the capsule around the line between them.

    Args:
      view: the env.
      light: the light.
      centre: centres of G balls.
      radius: radii of the balls in metres, [G] or a scalar.
    """
    path = sub(light.position, centre)
    if light.constants.directional:
        depth = -dot(path, light.direction)
        path = scale(-jnp.maximum(depth + radius, 0.0), light.direction)
    offset = sub(vec(view.position.T[..., None]), centre)
    along = jnp.clip(dot(offset, path) / jnp.maximum(dot(path, path), 1e-12), 0.0, 1.0)
    gap = sub(offset, scale(along, path))
    reach = view.bounds[:, None] + radius + 2 * SHADOW_BIAS
    return ~(dot(gap, gap) > reach * reach)
