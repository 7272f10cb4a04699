"""OpenGL's fixed-function lighting, MuJoCo's clamped passes, and the shading of solids. Letters: K items, P pixels."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from covr_jax.render.facets import Normals, lit_normals
from covr_jax.render.raycast import Code
from covr_jax.render.rays import Rays
from covr_jax.render.shadow import SHADOW_BIAS, is_lit
from covr_jax.render.solid_texture import cube_items, with_cubes
from covr_jax.render.vector import Block, Index, Vec, add, dot, pick, pick_vec, scale, sub, unit
from covr_jax.render.view import Light, View, any_pixel, when

LEVELS = 1020  # levels of a packed colour: a multiple of 255, so packing does not change 8-bit levels


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


def light_eval(light: Light, point: Vec, normals: Normals, eye: Vec, material: Material) -> Vec:
    """Light of one source at surface points before clamping, by GL's vertex lighting with a local viewer.

    attenuation * spot * (ambient c + [n.l > 0] (n'.l diffuse c + max(n.h, 0)^(128 shininess) specular s))

    `l` points to the light, `h` is halfway between `l` and the direction to the eye, `n` is the normal of what is seen,
    and `n'` is it continued to the point.

    Args:
      light: the light.
      point: the points.
      normals: the normals.
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
    lit = dot(normals.seen, to_light) > 0
    facing = jnp.where(lit, dot(normals.continued, to_light), 0.0)
    half = add(to_light, unit(sub(eye, point)))
    shine = _power(jnp.maximum(dot(normals.seen, unit(half)), 0.0), 128.0 * material.shininess)
    shine = jnp.where(lit, shine, 0.0) * material.specular
    return tuple(
        strength
        * ((constants.ambient[k] + facing * constants.diffuse[k]) * material.colour[k] + shine * constants.specular[k])
        for k in range(3)
    )


def light_passes(
    lights: tuple[Light, ...], point: Vec, normals: Normals, eye: Vec, material: Material, shadows: bool = True
) -> list[Vec]:
    """MuJoCo's passes at surface points: all lights without shadows and the emission, then one per light with shadows.

    Every pass is clamped before the passes are added. A shadowed pixel loses the whole light, and two lights of
    strength 0.7 do not share one clamp.

    Args:
      lights: the lights.
      point: the points.
      normals: the normals.
      eye: where the viewer is.
      material: the material.
      shadows: False puts all lights into the first pass.

    Returns:
      Clamped rgb of each pass.
    """
    main, others = scale(material.emission, material.colour), []
    for light in lights:
        colour = light_eval(light, point, normals, eye, material)
        if shadows and light.constants.shadow:
            others.append(clamp(colour))
        else:
            main = add(main, colour)
    return [clamp(main), *others]


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
      textured: whether to multiply the colour by the mean colour of the texture, unless `with_cubes` looks it up.
    """
    records = {k: view.scene.items[k] for k in items}
    cubes = cube_items(view.scene, items)
    colours = dict(zip(items, (view.colours[k] for k in items), strict=True))
    for k, item in records.items():
        if item.texture and textured and k not in cubes:
            mean = (0.5 * (a + b) for a, b in zip(item.texture.first, item.texture.second, strict=True))
            colours[k] = tuple(c * m for c, m in zip(colours[k], mean, strict=True))
    return Material(
        pick_vec(index, colours),
        *(
            pick(index, {k: getattr(item, name) for k, item in records.items()})
            for name in ("emission", "specular", "shininess")
        ),
    )


def surface(view: View, rays: Rays, items: tuple[int, ...], index: Int32[Array, " P"]) -> tuple[Vec, Normals]:
    """Intersects rays with the visible item of each pixel.

    Args:
      view: the env.
      rays: through the pixel centres.
      items: item indices that may occur in `index`.
      index: item index.

    Returns:
      Points and normals; of the surface continued past its silhouette where the ray misses the item.
    """
    t = jnp.ones(index.shape, jnp.float32)
    normal = tuple(jnp.zeros(index.shape, jnp.float32) for _ in range(3))

    def take(found, k, get_hit):
        chosen, hit = index == k, get_hit()
        normal = tuple(jnp.where(chosen, new, old) for new, old in zip(hit.normal, found[1], strict=True))
        return jnp.where(chosen, hit.t, found[0]), normal

    candidates = (index[None] == jnp.arange(len(view.scene.items))[:, None]).any(1)
    t, normal = view.visit(rays, items, take, (t, normal), candidates)
    return rays.at(t), lit_normals(view, rays, items, index, t, normal)


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
    point, normals = surface(view, rays, scene.solids, index)
    material = material_of(view, scene.solids, index)
    passes = light_passes(view.lights, point, normals, (0.0, 0.0, 0.0), material)
    colour, *others = with_cubes(view, rays, scene.solids, index, point, normals.seen, passes)
    casting = [light for light in view.lights if light.constants.shadow]
    if scene.coincident:
        others = _with_coincident(view, index, point, normals, others)
    valid = index < len(scene.items)
    for light, extra in zip(casting, others, strict=True):
        lit = is_lit(view, light, point, normals.seen, 2 * SHADOW_BIAS, valid)
        colour = add(colour, tuple(jnp.where(lit, c, 0.0) for c in extra))
    return pack_colour(colour)


def _with_coincident(
    view: View, index: Int32[Array, " P"], point: Vec, normals: Normals, others: list[Vec]
) -> list[Vec]:
    """Adds the light of items that coincide with the visible one to the passes of lights with shadows.

    Such a pass adds to what is there, and OpenGL draws a surface that is as near as another over it.

    Args:
      view: the env.
      index: item index of the visible solid, of coincident ones the last.
      point: the points.
      normals: the normals.
      others: rgb of the passes after the first.
    """
    shown: dict[int, list[int]] = {}
    for first, last in view.scene.coincident:
        shown.setdefault(last, []).append(first)
    for turn in range(max(len(firsts) for firsts in shown.values())):
        partners = {last: firsts[turn] for last, firsts in shown.items() if turn < len(firsts)}
        chosen = reduce(or_, ((index == last) & view.together(first, last) for last, first in partners.items()))
        partner = jnp.broadcast_to(pick(index, partners), index.shape)

        def added(
            chosen: Array = chosen, partner: Array = partner, first: tuple = tuple(partners.values())
        ) -> list[Vec]:
            material = material_of(view, first, partner)
            passes = light_passes(view.lights, point, normals, (0.0, 0.0, 0.0), material)[1:]
            return [tuple(jnp.where(chosen, c, 0.0) for c in extra) for extra in passes]

        none = [tuple(jnp.zeros(index.shape, jnp.float32) for _ in range(3)) for _ in others]
        more = when(any_pixel(chosen), added, none)
        others = [add(old, new) for old, new in zip(others, more, strict=True)]
    return others
