"""Transparent items, and planes seen from behind, which MuJoCo draws almost transparent.

Letters: P pixels, S samples of a pixel.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from covr_jax.render.facets import Normals, lit_normals
from covr_jax.render.haze import backdrop_distance
from covr_jax.render.plane_texture import backface_hit, texture_of
from covr_jax.render.raycast import Code, intersect
from covr_jax.render.rays import CameraRays
from covr_jax.render.scene import PLANE
from covr_jax.render.shade import light_passes, material_of, pack_colour, unpack_colour
from covr_jax.render.solid_texture import with_cubes
from covr_jax.render.vector import Vec, dot, vec
from covr_jax.render.view import View, any_pixel, when

BACKFACE_ALPHA = 0.3  # factor of a plane's alpha when the camera is behind it
LAST = 1e6  # metres: sorts planes after everything else, as MuJoCo does


class Layer(NamedTuple):
    """One transparent item in front of the opaque ones."""

    opacity: Float[Array, "S P"]  # alpha where a sample shows it, else 0
    colour: Int32[Array, " P"]  # packed
    order: Float[Array, ""]  # metres to the nearest point of the bounding ball, by which MuJoCo sorts


def blend(view: View, rays: CameraRays, opaque: Vec, seen: Int32[Array, "S P"], code: Code) -> Vec:
    """Draws the transparent items over the opaque ones.

    MuJoCo draws them all twice, first from front to back, then from back to front, each time over what is there: alpha
    0.5 hides three quarters of what a sample shows. They are lit by all lights in one pass, without shadows.

    Args:
      view: the env.
      rays: through the pixel centres.
      opaque: rgb of the opaque items and the sky.
      seen: codes of the opaque items that the samples show.
      code: packs distance and index.

    Returns:
      Rgb of the pixels.
    """
    depth = code.distance(seen)
    if view.scene.haze is not None:
        depth = jnp.minimum(depth, backdrop_distance(view, view.spread(rays)))
    layers = [_layer(view, rays, k, depth) for k in view.scene.transparent]
    layers += [_backface(view, rays, k, depth) for k in view.scene.backfaces]
    through = 1.0
    for layer in layers:
        through = through * (1.0 - layer.opacity)
    mixed = [channel * (through * through).mean(0) for channel in opaque]
    for layer in layers:
        nearer, further = 1.0, 1.0
        for other in layers:
            if other is not layer:
                nearer = nearer * jnp.where(other.order < layer.order, 1.0 - other.opacity, 1.0)
                further = further * jnp.where(other.order < layer.order, 1.0, 1.0 - other.opacity)
        weight = (layer.opacity * (nearer + further * through)).mean(0)
        mixed = [old + weight * new for old, new in zip(mixed, unpack_colour(layer.colour), strict=True)]
    return tuple(mixed)


def _layer(view: View, rays: CameraRays, index: int, depth: Array) -> Layer:
    """A transparent item, or a transparent plane seen from the front."""
    item, pose = view.scene.items[index], view.pose(index)
    size = vec(view.size[index])
    hit = intersect(view.spread(rays), item.type, size, pose)
    shown = hit.ok & (hit.t > view.scene.near) & (hit.t < depth)

    def shade() -> Array:
        centre = intersect(rays, item.type, size, pose)
        material = material_of(view, (index,), index)
        point = rays.at(centre.t)
        normals = lit_normals(view, rays, (index,), index, centre.t, centre.normal)
        passes = light_passes(view.lights, point, normals, (0.0, 0.0, 0.0), material, False)
        (colour,) = with_cubes(view, rays, (index,), index, point, normals.seen, passes)
        return pack_colour(colour)

    colour = when(any_pixel(shown), shade, jnp.zeros(rays.x.shape, jnp.int32))
    distance = jnp.sqrt(dot(pose.position, pose.position)) - item.bound
    return Layer(item.alpha * shown, colour, distance + LAST if item.type == PLANE else distance)


def _backface(view: View, rays: CameraRays, index: int, depth: Array) -> Layer:
    """The back of a plane."""
    item = view.scene.items[index]
    behind = dot(view.pose(index).position, view.pose(index).axes[2]) > 0

    def shown() -> Array:
        hit, ok = backface_hit(view, view.spread(rays), index)
        return ok & (hit.t > view.scene.near) & (hit.t < depth)

    def shade() -> Array:
        hit, _ = backface_hit(view, rays, index)
        (colour,) = light_passes(
            view.lights,
            hit.point,
            Normals.flat(hit.pose.axes[2]),
            (0.0, 0.0, 0.0),
            material_of(view, (index,), index, textured=False),
            shadows=False,
        )
        return pack_colour(tuple(c * t for c, t in zip(colour, texture_of(view, rays, hit, (index,)), strict=True)))

    mask = when(any_pixel(behind), shown, jnp.zeros(depth.shape, bool))
    colour = when(any_pixel(behind), shade, jnp.zeros(rays.x.shape, jnp.int32))
    return Layer(BACKFACE_ALPHA * item.alpha * mask, colour, jnp.float32(LAST))
