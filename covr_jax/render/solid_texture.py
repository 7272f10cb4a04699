"""Cube textures on solids. Letters: K items, P pixels."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covr_jax.render.cube import cube_levels, face_of, on_face, project
from covr_jax.render.rays import CameraRays
from covr_jax.render.scene import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE, Scene
from covr_jax.render.texture import Texture, bilinear, pack_levels, trilinear
from covr_jax.render.vector import Index, Vec, dot, scale, sub
from covr_jax.render.view import View, any_pixel, when

# which of MuJoCo's sizes is the half size of the drawn shape along x, y and z
HALF_SIZES = {SPHERE: (0, 0, 0), CAPSULE: (0, 0, 1), CYLINDER: (0, 0, 1), ELLIPSOID: (0, 1, 2), BOX: (0, 1, 2)}


def cube_items(scene: Scene, items: tuple[int, ...]) -> tuple[int, ...]:
    """Those of `items` whose cube texture is looked up; for planes its mean colour stands."""
    return tuple(
        k for k in items if scene.items[k].type != PLANE and (texture := scene.items[k].texture) and texture.cube
    )


def with_cubes(
    view: View, rays: CameraRays, items: tuple[int, ...], index: Index, point: Vec, normal: Vec, passes: list[Vec]
) -> list[Vec]:
    """Multiplies light by the cube texture of the visible items.

    Args:
      view: the env.
      rays: through the pixel centres.
      items: item indices that may occur in `index`.
      index: item index.
      point: where the rays meet the items.
      normal: unit normals.
      passes: rgb of each pass, see `shade.light_passes`.

    Returns:
      Rgb of each pass; `passes` themselves if no item has a cube texture.
    """
    records = view.scene.items
    cubes: dict[Texture, list[int]] = {}
    for k in cube_items(view.scene, items):
        cubes.setdefault(records[k].texture, []).append(k)
    if not cubes:
        return passes
    direction, moves = _texture_directions(view, rays, index, point, normal)
    white = tuple(jnp.ones_like(c) for c in direction)
    colour = white
    for texture, textured in cubes.items():
        chosen = jnp.isin(jnp.asarray(index), np.array(textured)) & jnp.ones(white[0].shape, bool)
        found = when(any_pixel(chosen), partial(look_up_cube, texture, direction, moves), white)
        colour = tuple(jnp.where(chosen, new, old) for new, old in zip(found, colour, strict=True))
    return [tuple(c * t for c, t in zip(one, colour, strict=True)) for one in passes]


def _texture_directions(
    view: View, rays: CameraRays, index: Index, point: Vec, normal: Vec
) -> tuple[Vec, tuple[Vec, Vec]]:
    """Directions from the centre of the cube, and how they change to the next pixel to the right and upwards.

    MuJoCo takes the position in the shape before it is stretched to its size; where the texture is uniform, times the
    size. The ends of a capsule are half spheres that continue the stretched cylinder.

    Arguments as in `with_cubes`.
    """
    items = view.scene.items
    columns = np.array([HALF_SIZES.get(item.type, (0, 1, 2)) for item in items])
    sizes = jnp.maximum(jnp.take_along_axis(view.size, columns, 1), 1e-9)
    uniform = np.array([bool(item.texture and item.texture.uniform) for item in items])
    capsule = np.array([item.type == CAPSULE for item in items])
    gains = jnp.where(uniform[:, None], sizes, 1.0)

    def of_pixel(table: Any) -> Array:
        return jnp.asarray(table).at[index].get(mode="clip")

    size, gain, rotation = (of_pixel(table) for table in (sizes, gains, view.rotation))
    size, gain = ([table[..., k] for k in range(3)] for table in (size, gain))
    axes = [tuple(rotation[..., row, column] for row in range(3)) for column in range(3)]
    position = of_pixel(view.position)
    offset = sub(point, tuple(position[..., k] for k in range(3)))
    local = [dot(offset, axis) for axis in axes]
    beyond = jnp.where(of_pixel(capsule), jnp.maximum(jnp.abs(local[2]) - size[2], 0.0), 0.0)
    shape = [local[0] / size[0], local[1] / size[1]]
    shape.append((local[2] - jnp.sign(local[2]) * beyond) / size[2] + jnp.sign(local[2]) * beyond / size[0])
    stretch = (size[0], size[1], jnp.where(beyond > 0, size[0], size[2]))
    lens = view.scene.lens
    depth = dot(sub(point, rays.eye), rays.forward)
    width = rays.width_at(depth)
    forward = scale(width / depth, sub(point, rays.origin))
    tilt = jnp.minimum(dot(forward, normal), -1e-6 * width)
    moves = []
    for v, step in ((rays.right, lens.width), (rays.up, lens.height)):
        # a ray that moves by v at the hit's distance moves the hit by v - d (v.n) / (d.n)
        move = sub(scale(step * width, v), scale(step * width * dot(v, normal) / tilt, forward))
        moves.append(tuple(dot(move, axes[k]) * (gain[k] / stretch[k]) for k in range(3)))
    return tuple(shape[k] * gain[k] for k in range(3)), tuple(moves)


@lru_cache(maxsize=8)
def _cube_words(texture: Texture) -> tuple[np.ndarray, np.ndarray]:
    """`pack_levels` of a cube."""
    size = texture.width
    return pack_levels(cube_levels(np.frombuffer(texture.cube, np.uint8).reshape(6, size, size, 3)))


def look_up_cube(texture: Texture, direction: Vec, moves: tuple[Vec, Vec]) -> tuple[Float[Array, "*shape"], ...]:
    """Looks up a cube with GL's trilinear filter, without going on across the edges of a face.

    Args:
      texture: the texture.
      direction: in the axes of the cube, of any length.
      moves: how the direction changes from a pixel to its neighbours.

    Returns:
      Red, green and blue in 0..1.
    """
    texels, table = (jnp.asarray(part) for part in _cube_words(texture))
    face = face_of(direction, jnp)
    u, v = project(direction, face, jnp)
    _, _, out = on_face(direction, face, jnp)
    squares = []
    for move in moves:
        right, down, away = on_face(move, face, jnp)
        changes = (right - (2 * u - 1) * away, down - (2 * v - 1) * away)
        squares.append(sum(jnp.square(change / out * (0.5 * texture.width)) for change in changes))

    def sample(level: Array) -> list[Any]:
        start, _, size = (table[level, k] for k in range(3))
        return bilinear(texels, start + face * size * size, size, size, u, v, wrap=False)

    return trilinear(sample, len(table), jnp.maximum(*squares))
