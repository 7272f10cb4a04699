"""Transparent items, and planes seen from behind, which MuJoCo shows as a veil."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from covr_jax.render.plane import back_hit, texture_of
from covr_jax.render.raycast import Array, Code, PinholeRays, Vec, dot, intersect, unit
from covr_jax.render.scene import PLANE
from covr_jax.render.shade import light_passes, material_of, pack_colour, unpack_colour
from covr_jax.render.view import View, anywhere, vec

VEIL = 0.3  # share of a plane's alpha that is left when the camera is behind it
LAST = 1e6  # metres: planes come after everything else in MuJoCo's order


class Layer(NamedTuple):
    """One transparent item in front of what is opaque."""

    opacity: Array  # f32[P], alpha times the share of the samples that show it
    colour: Array  # int32[P], packed
    order: Array  # scalar; MuJoCo sorts by the distance of the nearest point of the bounding ball


def blend(view: View, rays: PinholeRays, opaque: Vec, seen: Array, code: Code) -> Vec:
    """Rgb of the pixels after the transparent items are drawn over `opaque`.

    MuJoCo draws them all twice, first from front to back, then from back to front, each time over what is there:
    alpha .5 hides three quarters. Lit by all lights at once, without shadows. `seen` is the samples' int32[S,P].
    """
    depth = code.distance(seen)
    sheets = [_layer(view, rays, k, depth) for k in view.scene.glass]
    sheets += [_backface(view, rays, k, depth) for k in view.scene.backs]
    through = 1.0
    for sheet in sheets:
        through = through * (1.0 - sheet.opacity)
    mixed = [channel * through * through for channel in opaque]
    for sheet in sheets:
        nearer, further = 1.0, 1.0
        for other in sheets:
            if other is not sheet:
                nearer = nearer * jnp.where(other.order < sheet.order, 1.0 - other.opacity, 1.0)
                further = further * jnp.where(other.order < sheet.order, 1.0, 1.0 - other.opacity)
        weight = sheet.opacity * (nearer + further * through)
        mixed = [old + weight * new for old, new in zip(mixed, unpack_colour(sheet.colour), strict=True)]
    return tuple(mixed)


def _layer(view: View, rays: PinholeRays, index: int, depth: Array) -> Layer:
    """A transparent item, or a transparent plane seen from the front."""
    item, pose = view.scene.items[index], view.pose(index)
    size = vec(view.size[index])
    hit = intersect(view.spread(rays), item.type, size, pose)
    share = (hit.ok & (hit.t > view.scene.near) & (hit.t < depth)).astype(jnp.float32).mean(0)

    def shade() -> Array:
        centre = intersect(rays, item.type, size, pose)
        material = material_of(view, (index,), index)
        (colour,) = light_passes(view.lights, rays.at(centre.t), unit(centre.normal), (0.0, 0.0, 0.0), material, False)
        return pack_colour(colour)

    colour = jax.lax.cond(anywhere(share > 0), shade, lambda: jnp.zeros(rays.x.shape, jnp.int32))
    distance = jnp.sqrt(dot(pose.position, pose.position)) - item.bound
    return Layer(item.alpha * share, colour, distance + LAST if item.type == PLANE else distance)


def _backface(view: View, rays: PinholeRays, index: int, depth: Array) -> Layer:
    """The back of a plane."""
    item = view.scene.items[index]
    behind = dot(view.pose(index).position, view.pose(index).axes[2]) > 0

    def share() -> Array:
        hit, ok = back_hit(view, view.spread(rays), index)
        return (ok & (hit.t > view.scene.near) & (hit.t < depth)).astype(jnp.float32).mean(0)

    def shade() -> Array:
        hit, _ = back_hit(view, rays, index)
        (colour,) = light_passes(
            view.lights,
            hit.point,
            hit.pose.axes[2],
            (0.0, 0.0, 0.0),
            material_of(view, (index,), index, bare=True),
            shadows=False,
        )
        return pack_colour(tuple(c * t for c, t in zip(colour, texture_of(view, rays, hit, (index,)), strict=True)))

    opacity = VEIL * item.alpha * jax.lax.cond(anywhere(behind), share, lambda: jnp.zeros(rays.x.shape, jnp.float32))
    colour = jax.lax.cond(anywhere(behind), shade, lambda: jnp.zeros(rays.x.shape, jnp.int32))
    return Layer(opacity, colour, jnp.float32(LAST))
