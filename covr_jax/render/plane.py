"""Shading of planes: light at the corners of MuJoCo's triangles, and shadows.

Letters: G groups of pixels, P pixels.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from functools import reduce

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from covr_jax.render.facets import Normals
from covr_jax.render.plane_texture import PlaneHit, plane_hit, texture_of
from covr_jax.render.scene import Item
from covr_jax.render.shade import Material, clamp, light_passes, material_of, pack_colour, unpack_colour
from covr_jax.render.shadow import SHADOW_BIAS, is_lit, may_occlude
from covr_jax.render.vector import Vec, add, pick
from covr_jax.render.view import View

MAX_QUADS = 198  # of MuJoCo's grid of a plane, per half axis


def grid_of(item: Item, axis: int) -> tuple[float, float, float]:
    """MuJoCo's grid of a plane along an axis: half size, distance from border to first edge, edge spacing; metres."""
    half = item.half(axis)
    if item.size[axis] == 0:
        return half, 0.0, 1.0 / (item.texture.repeat[axis] if item.texture else 1.0)
    step = max(item.size[2], half / MAX_QUADS)
    count = int(np.floor(half / max(1e-15, step)))
    count -= count % 2
    return half, half - count * step, 2 * step


def _corner_terms(view: View, hit: PlaneHit) -> list[Vec]:
    """`light_passes` as GL shades a plane: at the three corners of the triangle around each pixel, blended."""
    items = {k: view.scene.items[k] for k in view.scene.floors}
    material = material_of(view, view.scene.floors, hit.index, textured=False)
    if len(items) == 1 and is_coarse(*items.values()):
        return _four_quads(view, hit, *items.values(), material)
    edges, inner = [], []
    for axis in range(2):
        cells = {k: grid_of(item, axis) for k, item in items.items()}
        half, border, spacing = (pick(hit.index, {k: cell[part] for k, cell in cells.items()}) for part in range(3))
        start = border - half
        low = start + jnp.floor((hit.local[axis] - start) / spacing) * spacing
        first = hit.local[axis] < start
        low, high = jnp.where(first, -half, low), jnp.where(first, start, jnp.minimum(low + spacing, half))
        edges.append((low, high))
        inner.append((hit.local[axis] - low) / jnp.maximum(high - low, 1e-6))
    (x0, x1), (y0, y1) = edges
    u, v = inner
    lower = u + v <= 1  # the quad is cut along the diagonal from (x1, y0) to (x0, y1)
    corners = ((x1, y0), (x0, y1), (jnp.where(lower, x0, x1), jnp.where(lower, y0, y1)))
    weights = (jnp.where(lower, u, 1 - v), jnp.where(lower, v, 1 - u), jnp.abs(1 - u - v))
    passes = [
        light_passes(view.lights, hit.to_world(corner), Normals.flat(hit.pose.axes[2]), (0.0, 0.0, 0.0), material)
        for corner in corners
    ]
    return [
        tuple(sum(w * colour[k] for w, colour in zip(weights, colours, strict=True)) for k in range(3))
        for colours in zip(*passes, strict=True)
    ]


def is_coarse(item: Item) -> bool:
    """Whether MuJoCo draws the plane as four quads."""
    return all(grid_of(item, axis)[1] >= item.half(axis) for axis in range(2))


def _four_quads(view: View, hit: PlaneHit, item: Item, material: Material) -> list[Vec]:
    """`_corner_terms` of a plane of four quads: the light is computed once at their nine corners."""
    half = np.array([item.half(axis) for axis in range(2)], np.float32)
    corner = tuple(half[axis] * (np.indices((3, 3))[axis] - 1) for axis in range(2))
    passes = light_passes(view.lights, hit.to_world(corner), Normals.flat(hit.pose.axes[2]), (0.0, 0.0, 0.0), material)
    right, above = (hit.local[axis] >= 0 for axis in range(2))
    u, v = (hit.local[axis] / half[axis] + jnp.where(hit.local[axis] >= 0, 0.0, 1.0) for axis in range(2))
    lower = u + v <= 1

    def blend(value: Array) -> Array:
        value = jnp.broadcast_to(value, (3, 3))

        def corner_of_quad(i: int, j: int) -> Array:
            upper = jnp.where(above, value[i + 1, j + 1], value[i + 1, j])
            return jnp.where(right, upper, jnp.where(above, value[i, j + 1], value[i, j]))

        third = jnp.where(lower, corner_of_quad(0, 0), corner_of_quad(1, 1))
        return (
            jnp.where(lower, u, 1 - v) * corner_of_quad(1, 0)
            + jnp.where(lower, v, 1 - u) * corner_of_quad(0, 1)
            + jnp.abs(1 - u - v) * third
        )

    return [tuple(blend(value) for value in colour) for colour in passes]


def may_be_shadowed(
    view: View, x: Float[np.ndarray, "G pixels"], y: Float[np.ndarray, "G pixels"]
) -> dict[int, Bool[Array, " G"]]:
    """Whether a shadow may fall on a group of pixels. Conservative: True for some without a shadow.

    The bounding rectangle of the group's footprint on the floor stands for the group.

    Args:
      view: the env.
      x: image plane coordinates of the pixel centres, to the right.
      y: the same, upwards.

    Returns:
      A mask per floor, by item index.
    """
    casting = [light for light in view.lights if light.constants.shadow]
    corners = ((x.min(1), x.max(1)), (y.min(1), y.max(1)))
    found = {}
    for index in view.scene.floors:
        hits = [plane_hit(view, view.rays(right, up), (index,), index) for right in corners[0] for up in corners[1]]
        low, high = (
            [reduce(extreme, (hit.local[axis] for hit in hits)) for axis in range(2)]
            for extreme in (jnp.minimum, jnp.maximum)
        )
        centre = hits[0].to_world(tuple(0.5 * (a + b) for a, b in zip(low, high, strict=True)))
        radius = 0.5 * jnp.hypot(high[0] - low[0], high[1] - low[1])
        shadowed = jnp.zeros(len(x), bool)
        for light in casting:
            shadowed = shadowed | may_occlude(view, light, centre, radius)[np.array(view.scene.casters)].any(0)
        found[index] = shadowed
    return found


def trace_shadows(
    view: View,
    x: Float[Array | np.ndarray, " P"],
    y: Float[Array | np.ndarray, " P"],
    index: Int32[Array, " P"],
) -> Int32[Array, " P"]:
    """Traces the shadows on planes.

    Args:
      view: the env.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
      index: item index of the visible plane.

    Returns:
      A word per pixel; bit k is set where the k-th light that casts shadows reaches the plane.
    """
    hit = plane_hit(view, view.rays(x, y), view.scene.floors, index)
    casting = [light for light in view.lights if light.constants.shadow]
    valid = index < len(view.scene.items)
    masks = (is_lit(view, light, hit.point, hit.pose.axes[2], SHADOW_BIAS, valid) for light in casting)
    return sum(mask.astype(jnp.int32) << k for k, mask in enumerate(masks))


def shade_floors(
    view: View,
    x: Float[Array | np.ndarray, " P"],
    y: Float[Array | np.ndarray, " P"],
    index: Int32[Array, " P"],
    reflection: Int32[Array, " P"],
    lit: Int32[Array, " P"],
) -> Int32[Array, " P"]:
    """Shades planes: the lit texture and the reflection, then the lights that cast shadows.

    Args:
      view: the env.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
      index: item index of the visible plane.
      reflection: packed colour that a mirror adds.
      lit: lights that reach the plane, from `trace_shadows`.

    Returns:
      Packed colours.
    """
    rays = view.rays(x, y)
    hit = plane_hit(view, rays, view.scene.floors, index)
    main, *others = _corner_terms(view, hit)
    texture = texture_of(view, rays, hit, view.scene.floors)
    colour = tuple(m * t for m, t in zip(main, texture, strict=True))
    if view.scene.mirror is not None:
        colour = clamp(add(colour, unpack_colour(reflection)))
    for k, extra in enumerate(others):
        reached = (lit >> k) & 1 > 0
        colour = clamp(add(colour, tuple(jnp.where(reached, e * t, 0.0) for e, t in zip(extra, texture, strict=True))))
    return pack_colour(colour)
