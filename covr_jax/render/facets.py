"""The normals by which OpenGL lights balls, capsules and cylinders, which MuJoCo draws as many flat facets.

A sample of a pixel shows one facet, whose colour is continued in its plane to the pixel's centre. Inside of a surface
that makes no difference. At a silhouette it does, and items thinner than a few pixels have nothing but silhouettes: the
facets that the samples see lie around the side, far from what the ray through the centre hits. Diffuse light is linear
in the normal and is continued; highlights, which are not, are those of the facets. Letters: P pixels.
"""

# pyright: reportArgumentType=false, reportReturnType=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from covr_jax.render.rays import ParallelRays, PinholeRays
from covr_jax.render.scene import CAPSULE, CYLINDER, SPHERE, Lens
from covr_jax.render.vector import Block, Index, Vec, add, dot, pick, pick_vec, scale, sub, unit
from covr_jax.render.view import View

CameraRays = PinholeRays | ParallelRays
_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_ZERO = (0.0, 0.0, 0.0)
_STEEPEST = float(np.sin(np.pi / 28))  # cosine of the facet nearest to a silhouette, of MuJoCo's 28 around a circle


class Normals(NamedTuple):
    """By which pixels are lit."""

    seen: Vec  # unit; of what the samples see
    continued: Vec  # of any length; to the pixel's centre

    @classmethod
    def flat(cls, normal: Vec) -> Normals:
        """Of a plane, given its unit normal."""
        return cls(normal, normal)


def lit_normals(view: View, rays: CameraRays, items: tuple[int, ...], index: Index, t: Block, normal: Vec) -> Normals:
    """The normals by which pixels are lit.

    Args:
      view: the env.
      rays: through the pixels' centres.
      items: item indices that may occur in `index`.
      index: item index.
      t: ray parameter where the ray hits the item.
      normal: of the item there, as `raycast.Hit` has it.
    """
    scene = view.scene
    shapes = {k: scene.items[k].type in (SPHERE, CAPSULE, CYLINDER) for k in items}
    if len(scene.samples) == 1 or not any(shapes.values()):
        return Normals.flat(unit(normal))
    tendons = [k for k in items if scene.items[k].kind == "tendon"]  # whose sizes are the env's
    radius = pick(index, {k: scene.items[k].size[0] if turns else 0.0 for k, turns in shapes.items()})
    if tendons:
        radius = pick(index, {k: view.size[k, 0] if k in tendons else radius for k in items})
    long = {k: scene.items[k].type in (CAPSULE, CYLINDER) for k in items}
    axis = pick_vec(index, {k: view.pose(k).axes[2] if turns else _ZERO for k, turns in long.items()})
    # A side turns about the axis, a capsule's cap in all directions, and a cylinder's lid is flat.
    at_side = jnp.abs(dot(normal, axis)) < 1e-3 * radius
    axis = tuple(jnp.where(at_side, a, 0.0) for a in axis)
    lids = {k: scene.items[k].type == CYLINDER for k in items}
    if any(lids.values()):
        radius = jnp.where(pick(index, lids) & ~at_side, 0.0, radius)
    turned = mean_facet(scene.lens, scene.samples, rays, t, normal, jnp.maximum(radius, 1e-9), axis)
    return Normals(
        *(
            tuple(jnp.where(radius > 0, new, old) for new, old in zip(found, unit(normal), strict=True))
            for found in turned
        )
    )


def mean_facet(
    lens: Lens,
    samples: tuple[tuple[float, float], ...],
    rays: CameraRays,
    t: Block,
    normal: Vec,
    radius: Block,
    axis: Vec,
) -> Normals:
    """The mean of the facets that the samples of a pixel see of a round surface.

    With u the offset of a ray from the middle of the circle of normals, in radii, the facet at u_j has the normal
    (u_j, sqrt(1 - u_j^2)), across and towards the viewer. Continued in its plane to the pixel's u, that is
    (u, (1 - u u_j) / sqrt(1 - u_j^2)).

    Args:
      lens: of the camera.
      samples: their places in a pixel, 0..1 to the right and down.
      rays: through the pixels' centres.
      t: ray parameter where they hit the item.
      normal: of the item there, as long as the radius.
      radius: m.
      axis: direction of a side, 0 where the surface turns in all directions.
    """
    slope, inverse = rays.along(axis), 1.0 / radius
    front = unit(tuple(slope * axis[k] - rays.along(_AXES[k]) for k in range(3)))  # the normal nearest to the viewer
    across = scale(inverse, sub(normal, scale(dot(normal, front), front)))
    offset, right, up = dot(across, across), dot(across, rays.right), dot(across, rays.up)
    # Inner products of the image's directions, without what leads towards the viewer or along a side.
    (rf, ra), (uf, ua) = ((dot(v, front), dot(v, axis)) for v in (rays.right, rays.up))
    rr, ru, uu = 1.0 - rf * rf - ra * ra, -rf * uf - ra * ua, 1.0 - uf * uf - ua * ua
    width = rays.width_at(t) * inverse  # of the image plane, in radii
    nothing = jnp.zeros_like(offset)
    count, moved_right, moved_up, towards, continued = nothing, nothing, nothing, nothing, nothing
    for x, y in samples:
        dx, dy = (x - 0.5) * lens.width * width, (0.5 - y) * lens.height * width
        step = dx * right + dy * up  # u (u_j - u)
        square = offset + 2.0 * step + dx * dx * rr + 2.0 * dx * dy * ru + dy * dy * uu  # u_j^2
        seen = square < 1.0
        height = jnp.sqrt(jnp.maximum(1.0 - square, _STEEPEST**2))
        count = count + jnp.where(seen, 1.0, 0.0)
        moved_right, moved_up = moved_right + jnp.where(seen, dx, 0.0), moved_up + jnp.where(seen, dy, 0.0)
        towards = towards + jnp.where(seen, height, 0.0)
        continued = continued + jnp.where(seen, (1.0 - offset - step) / height, 0.0)
    share, alone = 1.0 / jnp.maximum(count, 1.0), jnp.sqrt(jnp.maximum(1.0 - offset, 0.0))
    towards, continued = (jnp.where(count > 0, share * total, alone) for total in (towards, continued))
    aside_right = sub(rays.right, add(scale(rf, front), scale(ra, axis)))
    aside_up = sub(rays.up, add(scale(uf, front), scale(ua, axis)))
    moved = add(scale(share * moved_right, aside_right), scale(share * moved_up, aside_up))
    return Normals(unit(add(add(across, moved), scale(towards, front))), add(across, scale(continued, front)))
