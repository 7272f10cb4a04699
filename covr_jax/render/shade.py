"""Colour: OpenGL's fixed-function light, MuJoCo's two clamped passes, shadows, and the shading of solids."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.render.raycast import (
    Array,
    Code,
    FreeRays,
    Rays,
    Vec,
    add,
    cross,
    dot,
    pick,
    pick_vec,
    scale,
    sub,
    unit,
)
from covr_jax.render.view import Light, View, vec

LEVELS = 1020  # steps of a packed colour: a multiple of 255, so 8-bit levels survive packing unchanged
FAR_AWAY = 1e4  # metres: where a directional light comes from
SHADOW_BIAS = 1e-3  # metres along the normal, so that a surface does not shadow itself


class Material(NamedTuple):
    """What a surface does with light: scalars or per pixel."""

    colour: Vec
    emission: Array
    specular: Array
    shininess: Array  # 0..1


def clamp(colour: Vec) -> Vec:
    """To 0..1, as the frame buffer does after every pass."""
    return tuple(jnp.clip(c, 0.0, 1.0) for c in colour)


def pack_colour(colour: Vec) -> Array:
    """int32: three 10-bit channels. One array per stage keeps the compiler from computing a stage once per channel."""
    r, g, b = (jnp.round(c * LEVELS).astype(jnp.int32) for c in clamp(colour))
    return r | (g << 10) | (b << 20)


def unpack_colour(packed: Array) -> Vec:
    """Inverse of `pack_colour`, floats in 0..1."""
    return tuple(((packed >> shift) & 1023).astype(jnp.float32) * np.float32(1 / LEVELS) for shift in (0, 10, 20))


def _power(x: Array, exponent: Array) -> Array:
    """x^exponent for x >= 0: multiplications for whole constants, far cheaper than exp and log."""
    if isinstance(exponent, float) and exponent.is_integer():
        return jax.lax.integer_pow(x, int(exponent))
    return jnp.maximum(x, 1e-6) ** exponent


def light_eval(light: Light, point: Vec, normal: Vec, eye: Vec, material: Material) -> Vec:
    """Light of one lamp at a surface point, before clamping: GL's vertex lighting with a local viewer.

    attenuation * spot * (ambient c + max(n.l, 0) diffuse c + [n.l > 0] max(n.h, 0)^(128 shininess) specular s)

    `l` points to the light, `h` is halfway between `l` and the eye. `normal` has length 1.
    """
    constants = light.constants
    strength: Any = 1.0
    if constants.directional:
        to_light = scale(-1.0, light.direction)
    else:
        offset = sub(light.position, point)
        inverse = jax.lax.rsqrt(jnp.maximum(dot(offset, offset), 1e-20))
        to_light = scale(inverse, offset)
        if constants.cutoff < 180:
            cosine = -dot(to_light, light.direction)
            inside = cosine >= float(np.cos(np.deg2rad(constants.cutoff)))
            strength = jnp.where(inside, _power(cosine, constants.exponent), 0.0)
        if constants.attenuation != (1.0, 0.0, 0.0):
            a0, a1, a2 = constants.attenuation
            distance = 1.0 / inverse
            strength = strength / (a0 + a1 * distance + a2 * distance * distance)
    facing = dot(normal, to_light)
    half = add(to_light, unit(sub(eye, point)))
    shine = _power(jnp.maximum(dot(normal, unit(half)), 0.0), 128.0 * material.shininess)
    shine = jnp.where(facing > 0, shine, 0.0) * material.specular
    facing = jnp.maximum(facing, 0.0)
    return tuple(
        strength
        * ((constants.ambient[k] + facing * constants.diffuse[k]) * material.colour[k] + shine * constants.specular[k])
        for k in range(3)
    )


def light_passes(
    lights: tuple[Light, ...], point: Vec, normal: Vec, eye: Vec, material: Material, shadows: bool = True
) -> list[Vec]:
    """MuJoCo's passes at a point: first all lights that cast no shadow and the emission, then one per shadow light.

    Every pass is clamped by itself and the passes are added, so a shadowed pixel loses the whole light, and two lights
    of strength 0.7 do not share one clamp. With `shadows` False there is only the first pass, with all lights.
    """
    main, others = scale(material.emission, material.colour), []
    for light in lights:
        colour = light_eval(light, point, normal, eye, material)
        if shadows and light.constants.shadow:
            others.append(clamp(colour))
        else:
            main = add(main, colour)
    return [clamp(main), *others]


def lit(view: View, light: Light, point: Vec, normal: Vec, bias: float, shown: Array) -> Array:
    """bool[P]: whether the shadow map of `light` leaves `point` in its light. Planes throw no shadow. The answer
    counts for the pixels `shown` only.

    Outside the map everything is lit: it covers a square of half width `shadow_clip` around a directional light, and a
    pyramid of `shadow_scale` times the cutoff under a spot.
    """
    constants, scene = light.constants, view.scene
    start = add(point, scale(bias, normal))
    direction = scale(-1.0, light.direction) if constants.directional else sub(light.position, start)
    rays = FreeRays(start, direction)

    def block(dark, _, meet):
        hit = meet()
        blocked = hit.ok & (hit.t > 0)
        return dark | (blocked if constants.directional else blocked & (hit.t < 1))

    near = _between(view, light, point, shown)
    dark = view.visit(rays, scene.casters, block, jnp.zeros(jnp.shape(point[0]), bool), near)
    map_up = unit(cross(light.direction, (-1.0, 0.0, 0.0)))
    map_right = cross(light.direction, map_up)
    offset = sub(point, light.position)
    reach: Any = scene.shadow_clip
    if not constants.directional:
        angle = min(2 * constants.cutoff * scene.shadow_scale, 160.0)  # degrees, full opening
        reach = float(np.tan(np.deg2rad(angle / 2))) * dot(offset, light.direction)
    inside = (jnp.abs(dot(offset, map_right)) < reach) & (jnp.abs(dot(offset, map_up)) < reach)
    return ~(dark & inside)


def _between(view: View, light: Light, point: Vec, shown: Array) -> Array:
    """bool[K]: items that could come between the light and one of the points; conservative."""
    low = tuple(jnp.where(shown, p, jnp.inf).min() for p in point)
    high = tuple(jnp.where(shown, p, -jnp.inf).max() for p in point)
    centre = tuple(0.5 * (a + b)[None] for a, b in zip(low, high, strict=True))
    size = tuple(0.5 * (b - a) for a, b in zip(low, high, strict=True))
    return between(view, light, centre, jnp.sqrt(dot(size, size)))[:, 0]


def between(view: View, light: Light, centre: Vec, radius: Array) -> Array:
    """bool[K,G]: items that could come between the light and a point of a ball; conservative. `centre` is [G].

    The way from a ball to the light is taken for the capsule around the line between.
    """
    way = scale(-FAR_AWAY, light.direction) if light.constants.directional else sub(light.position, centre)
    offset = sub(vec(view.position.T[..., None]), centre)
    along = jnp.clip(dot(offset, way) / jnp.maximum(dot(way, way), 1e-12), 0.0, 1.0)
    gap = sub(offset, scale(along, way))
    reach = view.bounds[:, None] + radius + 2 * SHADOW_BIAS
    return ~(dot(gap, gap) > reach * reach)


def visible(view: View, rays: Rays, items: tuple[int, ...], code: Code, near: Array) -> Array:
    """int32: packed distance and index of the nearest of `items` along each ray.

    `near` bool[K]: items that the rays could meet at all.
    """

    def nearer(nearest, index, meet):
        hit = meet()
        return jnp.minimum(nearest, code.pack(hit.t, hit.ok & (hit.t > view.scene.near), index))

    return view.visit(rays, items, nearer, jnp.full(rays.x.shape, code.none), near)


def material_of(view: View, items: tuple[int, ...], winner: Array, bare: bool = False) -> Material:
    """Material of the winning item, with the mean colour of its texture; `bare`, without it."""
    rows = {index: view.scene.items[index] for index in items}
    colours = dict(zip(items, (view.colours[index] for index in items), strict=True))
    for index, item in rows.items():
        if item.texture and not bare:
            mean = (0.5 * (a + b) for a, b in zip(item.texture.first, item.texture.second, strict=True))
            colours[index] = tuple(c * m for c, m in zip(colours[index], mean, strict=True))
    return Material(
        pick_vec(winner, colours),
        *(
            pick(winner, {index: getattr(item, name) for index, item in rows.items()})
            for name in ("emission", "specular", "shininess")
        ),
    )


def surface(view: View, rays: Rays, items: tuple[int, ...], winner: Array) -> tuple[Vec, Vec]:
    """Point and unit normal of the winning item along each ray, continued past its silhouette where the ray misses."""
    t = jnp.ones(winner.shape, jnp.float32)
    normal = tuple(jnp.zeros(winner.shape, jnp.float32) for _ in range(3))

    def take(found, index, meet):
        mine, hit = winner == index, meet()
        normal = tuple(jnp.where(mine, new, old) for new, old in zip(hit.normal, found[1], strict=True))
        return jnp.where(mine, hit.t, found[0]), normal

    wins = (winner[None] == jnp.arange(len(view.scene.items))[:, None]).any(1)
    t, normal = view.visit(rays, items, take, (t, normal), wins)
    return rays.at(t), unit(normal)


def shade_solids(view: View, x: Array, y: Array, winner: Array) -> Array:
    """int32[P] packed colour of solid `winner` at the pixel's centre `x, y`, both passes, with shadows."""
    scene, rays = view.scene, view.rays(x, y)
    point, normal = surface(view, rays, scene.solids, winner)
    material = material_of(view, scene.solids, winner)
    colour, *others = light_passes(view.lights, point, normal, (0.0, 0.0, 0.0), material)
    casting = [light for light in view.lights if light.constants.shadow]
    mine = winner < len(scene.items)
    for light, extra in zip(casting, others, strict=True):
        bright = lit(view, light, point, normal, 2 * SHADOW_BIAS, mine)
        colour = add(colour, tuple(jnp.where(bright, c, 0.0) for c in extra))
    return pack_colour(colour)
