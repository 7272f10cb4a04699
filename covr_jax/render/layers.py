"""What the samples of pixels show, as layers of opaque items, and the mixture of the layers' colours.

Letters: P pixels, S samples of a pixel, K items.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false
# Vectors are tuples built by comprehension, whose length the checker cannot see; blocks are jax or NumPy arrays.
from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from covr_jax.render.haze import end_at_sky, haze_shares
from covr_jax.render.raycast import Code
from covr_jax.render.scene import Scene
from covr_jax.render.shade import unpack_colour, visible
from covr_jax.render.transparency import blend
from covr_jax.render.view import View, any_pixel, when

COUNT_BIT = 16  # a layer holds the item index below this bit, and the number of samples from it on


def find_layers(
    view: View, code: Code, x: Float[Array, " P"], y: Float[Array, " P"], candidates: Bool[Array, " K"]
) -> tuple[list[Int32[Array, " P"]], Int32[Array, "S P"] | None]:
    """Finds the opaque items that the samples of pixels show.

    Args:
      view: the env.
      code: packs distance and index.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
      candidates: items that any of the pixels may show.

    Returns:
      The layers (see `_nearest_items`): one of floors if there are floors, then those of solids. If the scene has
      transparent items or haze, also the codes of the samples, else None.
    """
    scene, rays = view.scene, view.rays(x, y)
    none = jnp.full((len(scene.samples), *x.shape), code.none)
    seen = when(any_pixel(candidates), lambda: visible(view, view.spread(rays), scene.opaque, code, candidates), none)
    if scene.haze is not None:
        seen = end_at_sky(view, view.spread(rays), code, seen)
    layers = _nearest_items(seen, scene.floors, code, 1) if scene.floors else []
    if scene.solids:
        layers += _nearest_items(seen, scene.solids, code, min(len(scene.solids), _solids_per_pixel(scene)))
    return layers, seen if scene.transparent or scene.backfaces or scene.haze else None


def _solids_per_pixel(scene: Scene) -> int:
    """Number of layers of solids. Items that share a pixel keep their colours, as in OpenGL; two do for 4 samples."""
    return max(1, len(scene.samples) // 2)


def _nearest_items(seen: Array, items: tuple[int, ...], code: Code, count: int) -> list[Array]:
    """Finds the nearest items of each pixel, nearest first.

    Args:
      seen: codes int32[S,P] of the samples.
      items: indices of the items to look for.
      code: packs distance and index.
      count: number of items per pixel.

    Returns:
      `count` layers int32[P]: the item index (`code.mask` for none) and, from COUNT_BIT on, the number of samples that
      show it. The last layer also counts the samples that show items further away.
    """
    chosen = jnp.zeros(seen.shape, bool)
    for index in items:
        chosen = chosen | (code.index(seen) == index)
    remaining, found = jnp.where(chosen, seen, code.none), []
    for k in range(count):
        nearest = code.index(remaining.min(0))
        shown = remaining != code.none
        if k < count - 1:
            shown = shown & (code.index(remaining) == nearest)
        found.append(nearest | (shown.sum(0, dtype=jnp.int32) << COUNT_BIT))
        remaining = jnp.where(shown, code.none, remaining)
    return found


def composite(
    view: View,
    code: Code,
    x: Float[Array, " P"],
    y: Float[Array, " P"],
    sky: Int32[Array, " P"],
    layers: list[Int32[Array, " P"]],
    colours: list[Int32[Array, " P"]],
    seen: Int32[Array, "S P"] | None,
) -> Int32[Array, " P"]:
    """Mixes layers, sky and haze by their shares of the samples, then draws the transparent items over them.

    Args:
      view: the env.
      code: packs distance and index.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
      sky: packed colours, 8 bits a channel.
      layers: from `find_layers`.
      colours: packed colours of the layers.
      seen: from `find_layers`.

    Returns:
      Packed colours, 8 bits a channel, red lowest.
    """
    scene = view.scene
    shares = [(layer >> COUNT_BIT).astype(jnp.float32) / len(scene.samples) for layer in layers]
    background = (1.0 - sum(shares)) / 255.0
    veiled = None
    if scene.haze is not None:
        over_floors, over_sky = haze_shares(view, view.rays(x, y), code, seen)
        if scene.floors:
            shares[0] = shares[0] - over_floors
        background, veiled = background - over_sky / 255.0, over_floors + over_sky
    mixed = [((sky >> shift) & 255).astype(jnp.float32) * background for shift in (0, 8, 16)]
    for share, colour in zip(shares, colours, strict=True):
        mixed = [c + share * s for c, s in zip(mixed, unpack_colour(colour), strict=True)]
    if scene.haze is not None and veiled is not None:
        mixed = [c + veiled * h for c, h in zip(mixed, scene.haze.colour, strict=True)]
    if scene.transparent or scene.backfaces:
        mixed = blend(view, view.rays(x, y), tuple(mixed), seen, code)
    red, green, blue = (jnp.round(255.0 * jnp.clip(c, 0.0, 1.0)).astype(jnp.int32) for c in mixed)
    return red | (green << 8) | (blue << 16)
