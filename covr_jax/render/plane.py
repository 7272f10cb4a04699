"""Planes: light at the corners of MuJoCo's triangles, filtered checker, shadows."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.render.distract import DISTRACTORS
from covr_jax.render.raycast import Array, PinholeRays, Pose, Vec, add, dot, pick, pick_vec, scale
from covr_jax.render.scene import Floats, Item
from covr_jax.render.shade import (
    SHADOW_BIAS,
    Material,
    between,
    clamp,
    light_passes,
    lit,
    material_of,
    pack_colour,
    unpack_colour,
)
from covr_jax.render.texture import look_up
from covr_jax.render.view import View, anywhere, vec

FAR = 1e4  # ray parameter at which a plane is cut off near the horizon
WINDOW = float(np.sqrt(3.0))  # texels: width of the box as spread out as bilinear filtering of one level
QUADS = 198  # the most quads MuJoCo cuts a plane into, per half axis


class PlaneHit(NamedTuple):
    """The winning plane of each pixel, and where the pixel's centre meets it."""

    pose: Pose  # scalars if the scene has one plane, else per pixel
    winner: Array
    t: Array
    local: tuple[Array, Array]  # metres along the plane's axes, inside its rectangle
    tilt: Array  # direction . normal, negative in front, never 0

    def world(self, local: tuple[Array, Array]) -> Vec:
        """Points of the plane from local coordinates."""
        return add(self.pose.position, add(scale(local[0], self.pose.axes[0]), scale(local[1], self.pose.axes[1])))

    @property
    def point(self) -> Vec:
        """World position of the centre."""
        return self.world(self.local)


def plane_hit(view: View, rays: PinholeRays, planes: tuple[int, ...], winner: Array | int) -> PlaneHit:
    """Meets the winning one of `planes` at the pixel centre. The centre of an edge pixel may miss it: the point is
    moved to the rectangle's border before anything is looked up there.
    """
    pose = Pose(
        pick_vec(winner, {k: view.pose(k).position for k in planes}),
        tuple(pick_vec(winner, {k: view.pose(k).axes[a] for k in planes}) for a in range(3)),
    )
    offset = scale(-1.0, pose.position)
    tilt = jnp.minimum(rays.along(pose.axes[2]), -1e-9)
    t = jnp.clip(-dot(offset, pose.axes[2]) / tilt, 0.0, FAR)
    local = []
    for axis in range(2):
        reach = pick(winner, {k: view.scene.items[k].half(axis) for k in planes})
        local.append(jnp.clip(dot(offset, pose.axes[axis]) + t * rays.along(pose.axes[axis]), -reach, reach))
    return PlaneHit(pose, winner, t, tuple(local), tilt)


def back_hit(view: View, rays: PinholeRays, index: int) -> tuple[PlaneHit, Array]:
    """Meets the back of plane `index`; bool: whether inside its rectangle."""
    pose, item = view.pose(index), view.scene.items[index]
    offset = scale(-1.0, pose.position)
    tilt = jnp.maximum(rays.along(pose.axes[2]), 1e-9)
    t = jnp.clip(-dot(offset, pose.axes[2]) / tilt, 0.0, FAR)
    local = tuple(dot(offset, pose.axes[axis]) + t * rays.along(pose.axes[axis]) for axis in range(2))
    inside = (jnp.abs(local[0]) <= item.half(0)) & (jnp.abs(local[1]) <= item.half(1))
    return PlaneHit(pose, index, t, local, tilt), inside & (tilt > 1e-9) & (t < FAR)


def _cell(item: Item, axis: int) -> tuple[float, float, float]:
    """Half size, first edge's distance from the border, and edge spacing of MuJoCo's grid of a plane, in metres."""
    half = item.half(axis)
    if item.size[axis] == 0:
        return half, 0.0, 1.0 / (item.texture.repeat[axis] if item.texture else 1.0)
    step = max(item.size[2], half / QUADS)
    count = int(np.floor(half / max(1e-15, step)))
    count -= count % 2
    return half, half - count * step, 2 * step


def _corner_terms(view: View, hit: PlaneHit) -> list[Vec]:
    """`light_passes` as GL shades a plane: at the three corners of the triangle around each pixel, blended between."""
    items = {k: view.scene.items[k] for k in view.scene.floors}
    material = material_of(view, view.scene.floors, hit.winner, bare=True)
    if len(items) == 1 and _is_coarse(*items.values()):
        return _four_quads(view, hit, *items.values(), material)
    edges, inner = [], []
    for axis in range(2):
        cells = {k: _cell(item, axis) for k, item in items.items()}
        half, border, spacing = (pick(hit.winner, {k: cell[part] for k, cell in cells.items()}) for part in range(3))
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
        light_passes(view.lights, hit.world(corner), hit.pose.axes[2], (0.0, 0.0, 0.0), material) for corner in corners
    ]
    return [
        tuple(sum(w * colour[k] for w, colour in zip(weights, colours, strict=True)) for k in range(3))
        for colours in zip(*passes, strict=True)
    ]


def _is_coarse(item: Item) -> bool:
    """Whether MuJoCo cuts the plane into four quads only."""
    return all(_cell(item, axis)[1] >= item.half(axis) for axis in range(2))


def _four_quads(view: View, hit: PlaneHit, item: Item, material: Material) -> list[Vec]:
    """`_corner_terms` of the one plane that is cut into four quads only: the light is that at their nine corners."""
    half = np.array([item.half(axis) for axis in range(2)], np.float32)
    corner = tuple(half[axis] * (np.indices((3, 3))[axis] - 1) for axis in range(2))
    passes = light_passes(view.lights, hit.world(corner), hit.pose.axes[2], (0.0, 0.0, 0.0), material)
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


def pulse(x: Array, start: Array, stop: Array, width: Array) -> Array:
    """Mean over a window of `width` around x of the wave that is 1 on [start, stop) of every period 1."""

    def integral(v):
        whole = jnp.floor(v)
        return whole * (stop - start) + jnp.clip(v - whole - start, 0.0, stop - start)

    return (integral(x + 0.5 * width) - integral(x - 0.5 * width)) / width


def checker(u: Array, v: Array, width_u: Array, width_v: Array, edge_u: Array, edge_v: Array) -> Array:
    """Share of the first colour in a window of a 2 x 2 checker, all in repeats; `edge` is the mark around each repeat.

    Stands for GL's trilinear filter without looking up a single texel.
    """
    return pulse(u, edge_u, 0.5, width_u) * pulse(v, edge_v, 0.5, width_v) + pulse(u, 0.5, 1 - edge_u, width_u) * pulse(
        v, 0.5, 1 - edge_v, width_v
    )


class _Lookup(NamedTuple):
    """Constants of a texture lookup, per axis where there are two."""

    first: Floats
    second: Floats
    gain: Floats  # repeats per metre
    shift: Floats  # repeats at the plane's centre
    texels: Floats
    edge: Floats  # width of the edge mark, in repeats


def _lookup(item: Item) -> _Lookup:
    """MuJoCo's texture coordinates of a plane. A plain plane is a checker of two whites."""
    texture = item.texture
    if texture is None:
        return _Lookup((1.0,) * 3, (1.0,) * 3, (1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    gain, shift = [], []
    for axis, sign in ((0, 1.0), (1, -1.0)):  # texel rows run against the plane's y axis
        half, repeat = item.size[axis], texture.repeat[axis]
        total = repeat * half if texture.uniform else repeat
        gain.append(sign * (total / (2 * half) if half > 0 else 0.5 * repeat))
        shift.append(total / 2 if half > 0 else -0.5)
    texels = (float(texture.width), float(texture.height))
    return _Lookup(
        texture.first,
        texture.second,
        tuple(gain),
        tuple(shift),
        texels,
        tuple(texture.edge / count for count in texels),
    )


def texture_of(view: View, rays: PinholeRays, hit: PlaneHit, planes: tuple[int, ...]) -> Vec:
    """Texture colour of the winning one of `planes`. GL's level of detail, the largest texel step to the next pixel,
    sets the width of the filter.
    """
    rows = {k: _lookup(view.scene.items[k]) for k in planes}
    first, second = (
        pick_vec(hit.winner, {k: getattr(row, name) for k, row in rows.items()}) for name in ("first", "second")
    )
    if view.look is not None:
        strength = DISTRACTORS[view.scene.distractors].floor
        first, second = (
            tuple(c + strength * (new - c) for c, new in zip(colour, vec(row), strict=True))
            for colour, row in zip((first, second), view.look.checker, strict=True)
        )
    position, step, texels, edge = [], [], [], []
    for axis in range(2):
        gain, shift, count, mark = (
            pick(hit.winner, {k: getattr(row, name)[axis] for k, row in rows.items()})
            for name in ("gain", "shift", "texels", "edge")
        )
        # moving the ray by v moves the hit by t (v - d (v.n) / (d.n))
        slide = rays.along(hit.pose.axes[axis]) / hit.tilt
        moves = (dot(v, hit.pose.axes[axis]) - slide * dot(v, hit.pose.axes[2]) for v in (rays.right, rays.up))
        step.append(hit.t * view.scene.pixel * jnp.maximum(*map(jnp.abs, moves)) * abs(gain) * count)
        position.append(hit.local[axis] * gain + shift)
        texels.append(count)
        edge.append(mark)
    step = jnp.maximum(jnp.maximum(*step), 1.0)
    share = checker(*position, *(jnp.minimum(WINDOW * step / count, 1.0) for count in texels), *edge)
    colour = tuple(b + (a - b) * share for a, b in zip(first, second, strict=True))
    for k in rows:
        texture = view.scene.items[k].texture
        if texture and texture.picture:
            mine = jnp.asarray(hit.winner == k)
            found = jax.lax.cond(
                anywhere(mine), partial(look_up, texture), lambda *_, colour=colour: colour, *position, step
            )
            colour = tuple(jnp.where(mine, new, old) for new, old in zip(found, colour, strict=True))
    return colour


def may_be_dark(view: View, x: np.ndarray, y: np.ndarray) -> dict[int, Array]:
    """bool[G] per floor: whether a shadow could fall on a group of pixels with centres `x, y` (f32[G,GROUP]).

    The corners of the group's picture on the floor span a rectangle along its axes, which stands for the group.
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
        centre = hits[0].world(tuple(0.5 * (a + b) for a, b in zip(low, high, strict=True)))
        radius = 0.5 * jnp.hypot(high[0] - low[0], high[1] - low[1])
        dark = jnp.zeros(len(x), bool)
        for light in casting:
            dark = dark | between(view, light, centre, radius)[np.array(view.scene.casters)].any(0)
        found[index] = dark
    return found


def see_shadows(view: View, x: Array, y: Array, winner: Array) -> Array:
    """int32[P]: bit k is set where the k-th light that casts shadows reaches plane `winner`."""
    hit = plane_hit(view, view.rays(x, y), view.scene.floors, winner)
    casting = [light for light in view.lights if light.constants.shadow]
    mine = winner < len(view.scene.items)
    bright = (lit(view, light, hit.point, hit.pose.axes[2], SHADOW_BIAS, mine) for light in casting)
    return sum(mask.astype(jnp.int32) << k for k, mask in enumerate(bright))


def shade_floors(view: View, x: Array, y: Array, winner: Array, reflection: Array, bright: Array) -> Array:
    """int32[P] packed colour of plane `winner` in pixels with centres `x, y`: lit texture plus `reflection` (packed),
    then the lights that cast shadows, where they are `bright` (see `see_shadows`).
    """
    rays = view.rays(x, y)
    hit = plane_hit(view, rays, view.scene.floors, winner)
    main, *others = _corner_terms(view, hit)
    texture = texture_of(view, rays, hit, view.scene.floors)
    colour = tuple(m * t for m, t in zip(main, texture, strict=True))
    if view.scene.mirror is not None:
        colour = clamp(add(colour, unpack_colour(reflection)))
    for k, extra in enumerate(others):
        reached = (bright >> k) & 1 > 0
        colour = clamp(add(colour, tuple(jnp.where(reached, e * t, 0.0) for e, t in zip(extra, texture, strict=True))))
    return pack_colour(colour)
