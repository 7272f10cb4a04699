"""OpenGL's fixed-function lighting, MuJoCo's clamped passes, shadows, and the shading of solids.

Letters: K items, G groups of pixels, P pixels.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from covr_jax.render.raycast import Code
from covr_jax.render.rays import FreeRays, Rays
from covr_jax.render.vector import Block, Index, Vec, add, cross, dot, pick, pick_vec, scale, sub, unit, vec
from covr_jax.render.view import Light, View

LEVELS = 1020  # levels of a packed colour: a multiple of 255, so packing does not change 8-bit levels
FAR_AWAY = 1e4  # metres: distance of a directional light
SHADOW_BIAS = 1e-3  # metres along the normal, so that a surface does not shadow itself


class Material(NamedTuple):
    """How a surface reflects light: scalars, or a value per pixel."""

    colour: Vec
    emission: Block
    specular: Block
    shininess: Block  # 0..1; the GL exponent is 128 times this


def clamp(colour: Vec) -> Vec:
    """Clips to 0..1, as the frame buffer does after every pass."""
    return tuple(jnp.clip(c, 0.0, 1.0) for c in colour)


def pack_colour(colour: Vec) -> Int32[Array, " ..."]:
    """Packs rgb in 0..1 into three 10-bit channels.

    With one array per stage, the compiler does not compute a stage once per channel.
    """
    r, g, b = (jnp.round(c * LEVELS).astype(jnp.int32) for c in clamp(colour))
    return r | (g << 10) | (b << 20)


def unpack_colour(packed: Int32[Array, " ..."]) -> Vec:
    """Inverse of `pack_colour`: rgb in 0..1."""
    return tuple(((packed >> shift) & 1023).astype(jnp.float32) * np.float32(1 / LEVELS) for shift in (0, 10, 20))


def _power(x: Block, exponent: Block) -> Block:
    """x^exponent for x >= 0, by multiplications for integer constants, which is far cheaper than exp and log."""
    if isinstance(exponent, float) and exponent.is_integer():
        return jax.lax.integer_pow(x, int(exponent))
    return jnp.maximum(x, 1e-6) ** exponent


def light_eval(light: Light, point: Vec, normal: Vec, eye: Vec, material: Material) -> Vec:
    """Light of one source at surface points before clamping, by GL's vertex lighting with a local viewer.

    attenuation * spot * (ambient c + max(n.l, 0) diffuse c + [n.l > 0] max(n.h, 0)^(128 shininess) specular s)

    `l` points to the light, `h` is halfway between `l` and the direction to the eye.

    Args:
      light: the light.
      point: the points.
      normal: unit normals.
      eye: where the viewer is.
      material: the material.

    Returns:
      Rgb.
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
    """MuJoCo's passes at surface points: all lights without shadows and the emission, then one per light with shadows.

    Every pass is clamped before the passes are added. A shadowed pixel loses the whole light, and two lights of
    strength 0.7 do not share one clamp.

    Args:
      lights: the lights.
      point: the points.
      normal: unit normals.
      eye: where the viewer is.
      material: the material.
      shadows: False puts all lights into the first pass.

    Returns:
      Clamped rgb of each pass.
    """
    main, others = scale(material.emission, material.colour), []
    for light in lights:
        colour = light_eval(light, point, normal, eye, material)
        if shadows and light.constants.shadow:
            others.append(clamp(colour))
        else:
            main = add(main, colour)
    return [clamp(main), *others]


def is_lit(
    view: View, light: Light, point: Vec, normal: Vec, bias: float, valid: Bool[Array, " P"]
) -> Bool[Array, " P"]:
    """Whether a light reaches surface points, as by MuJoCo's shadow map. Planes cast no shadow.

    Outside the map everything is lit. The map covers a square of half width `shadow_clip` around a directional light,
    and a pyramid of `shadow_scale` times the cutoff under a spotlight.

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

    def block(shadowed, _, get_hit):
        hit = get_hit()
        blocked = hit.ok & (hit.t > 0)
        return shadowed | (blocked if constants.directional else blocked & (hit.t < 1))

    candidates = _may_occlude_any(view, light, point, valid)
    shadowed = view.visit(rays, scene.casters, block, jnp.zeros(jnp.shape(point[0]), bool), candidates)
    map_up = unit(cross(light.direction, (-1.0, 0.0, 0.0)))
    map_right = cross(light.direction, map_up)
    offset = sub(point, light.position)
    reach: Any = scene.shadow_clip
    if not constants.directional:
        angle = min(2 * constants.cutoff * scene.shadow_scale, 160.0)  # degrees, full opening
        reach = float(np.tan(np.deg2rad(angle / 2))) * dot(offset, light.direction)
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
    path = scale(-FAR_AWAY, light.direction) if light.constants.directional else sub(light.position, centre)
    offset = sub(vec(view.position.T[..., None]), centre)
    along = jnp.clip(dot(offset, path) / jnp.maximum(dot(path, path), 1e-12), 0.0, 1.0)
    gap = sub(offset, scale(along, path))
    reach = view.bounds[:, None] + radius + 2 * SHADOW_BIAS
    return ~(dot(gap, gap) > reach * reach)


def visible(
    view: View, rays: Rays, items: tuple[int, ...], code: Code, candidates: Bool[Array, " K"]
) -> Int32[Array, " ..."]:
    """Finds the nearest item along each ray.

    Args:
      view: the env.
      rays: the rays.
      items: indices of the items to look for.
      code: packs distance and index.
      candidates: items that the rays may meet.

    Returns:
      Code of the nearest item.
    """

    def nearer(nearest, index, get_hit):
        hit = get_hit()
        return jnp.minimum(nearest, code.pack(hit.t, hit.ok & (hit.t > view.scene.near), index))

    return view.visit(rays, items, nearer, jnp.full(rays.x.shape, code.none), candidates)


def material_of(view: View, items: tuple[int, ...], index: Index, textured: bool = True) -> Material:
    """Material of the visible item of each pixel.

    Args:
      view: the env.
      items: item indices that may occur in `index`.
      index: item index.
      textured: whether to multiply the colour by the mean colour of the texture.
    """
    records = {k: view.scene.items[k] for k in items}
    colours = dict(zip(items, (view.colours[k] for k in items), strict=True))
    for k, item in records.items():
        if item.texture and textured:
            mean = (0.5 * (a + b) for a, b in zip(item.texture.first, item.texture.second, strict=True))
            colours[k] = tuple(c * m for c, m in zip(colours[k], mean, strict=True))
    return Material(
        pick_vec(index, colours),
        *(
            pick(index, {k: getattr(item, name) for k, item in records.items()})
            for name in ("emission", "specular", "shininess")
        ),
    )


def surface(view: View, rays: Rays, items: tuple[int, ...], index: Int32[Array, " P"]) -> tuple[Vec, Vec]:
    """Intersects rays with the visible item of each pixel.

    Args:
      view: the env.
      rays: through the pixel centres.
      items: item indices that may occur in `index`.
      index: item index.

    Returns:
      Points and unit normals; of the surface continued past its silhouette where the ray misses the item.
    """
    t = jnp.ones(index.shape, jnp.float32)
    normal = tuple(jnp.zeros(index.shape, jnp.float32) for _ in range(3))

    def take(found, k, get_hit):
        chosen, hit = index == k, get_hit()
        normal = tuple(jnp.where(chosen, new, old) for new, old in zip(hit.normal, found[1], strict=True))
        return jnp.where(chosen, hit.t, found[0]), normal

    candidates = (index[None] == jnp.arange(len(view.scene.items))[:, None]).any(1)
    t, normal = view.visit(rays, items, take, (t, normal), candidates)
    return rays.at(t), unit(normal)


def shade_solids(
    view: View, x: Float[Array, " P"], y: Float[Array, " P"], index: Int32[Array, " P"]
) -> Int32[Array, " P"]:
    """Shades solids with all passes and shadows.

    Args:
      view: the env.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
      index: item index of the visible solid.

    Returns:
      Packed colours.
    """
    scene, rays = view.scene, view.rays(x, y)
    point, normal = surface(view, rays, scene.solids, index)
    material = material_of(view, scene.solids, index)
    colour, *others = light_passes(view.lights, point, normal, (0.0, 0.0, 0.0), material)
    casting = [light for light in view.lights if light.constants.shadow]
    valid = index < len(scene.items)
    for light, extra in zip(casting, others, strict=True):
        lit = is_lit(view, light, point, normal, 2 * SHADOW_BIAS, valid)
        colour = add(colour, tuple(jnp.where(lit, c, 0.0) for c in extra))
    return pack_colour(colour)
