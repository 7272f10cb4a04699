"""One env as the drawing stages see it, with the camera at the origin.

Letters: E envs, K items, P pixels, S samples of a pixel.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covr_jax import runtime
from covr_jax.render import scene as static
from covr_jax.render.distract import Appearance, move_camera
from covr_jax.render.poses import Poses
from covr_jax.render.raycast import Hit, Pose, intersect
from covr_jax.render.rays import CameraRays, ParallelRays, PinholeRays, Rays
from covr_jax.render.vector import Block, Vec, vec

HitFn = Callable[[], Hit]
SIDE = 4  # pixels along an edge of a group
ENV_AXIS = "envs"  # name of the vmapped axis
MIN_LOOP_ITEMS = 3  # from this many items of one type on, a CPU visits them in a loop, which keeps the program small
MAX_LOOP_ITEMS = 31  # bits of a word


class Light(NamedTuple):
    """A light in world axes with the camera at the origin, as scalars."""

    constants: static.Light
    position: Vec
    direction: Vec  # unit, in which the light shines


class View(NamedTuple):
    """Everything that a drawing stage needs of one env, in world axes with the camera at the origin."""

    scene: static.Scene
    position: Float[Array, "K 3"]
    rotation: Float[Array, "K 3 3"]  # columns are the item's axes
    size: Float[Array, "K 3"]  # half sizes in metres
    colours: tuple[Vec, ...]  # one per item, rgb in 0..1
    lights: tuple[Light, ...]
    appearance: Appearance | None  # None without distractors
    forward: Vec
    right: Vec
    up: Vec

    @property
    def bounds(self) -> Float[Array, " K"]:
        """Radius of the bounding ball of each item in metres."""
        kind = np.array([item.type for item in self.scene.items])
        first, second, third = vec(self.size.T)
        square = jnp.where(kind == static.CYLINDER, 0.0, third * third) + first * first + second * second
        ball = jnp.where(kind == static.CAPSULE, first + second, jnp.sqrt(square))
        ball = jnp.where(kind == static.SPHERE, first, ball)
        planes = {
            k: item.half(0) ** 2 + item.half(1) ** 2
            for k, item in enumerate(self.scene.items)
            if item.type == static.PLANE
        }
        return ball.at[np.array(list(planes), int)].set(np.sqrt(np.array(list(planes.values()), np.float32)))

    def rays(self, x: Block, y: Block) -> CameraRays:
        """Rays of the camera.

        Args:
          x: coordinate to the right on the image plane, see `scene.Lens`.
          y: the same, upwards.
        """
        kind = ParallelRays if self.scene.lens.orthographic else PinholeRays
        return kind((0.0, 0.0, 0.0), self.forward, self.right, self.up, x, y)

    def spread(self, rays: CameraRays) -> CameraRays:
        """Rays through the visibility samples of pixels.

        Args:
          rays: [P] rays through the pixel centres.

        Returns:
          [S,P] rays.
        """
        lens = self.scene.lens
        offsets = (np.asarray(self.scene.samples, np.float32) - 0.5) * np.float32([lens.width, lens.height])
        return rays._replace(x=rays.x + offsets[:, :1], y=rays.y - offsets[:, 1:])

    def quad_middle(self, rays: CameraRays) -> CameraRays:
        """Rays through the middle of the 2 x 2 pixels that GL shades together, counted from the image's lower left.

        Args:
          rays: through the pixel centres of whole groups of pixels, [P].
        """
        pixel = np.arange(np.size(rays.x)) % (SIDE * SIDE)
        right = np.float32(0.5 - pixel % 2) * np.float32(self.scene.lens.width)
        up = np.float32((pixel // SIDE + self.scene.height) % 2 - 0.5) * np.float32(self.scene.lens.height)
        return rays._replace(x=rays.x + right, y=rays.y + up)

    def pose(self, index: int | Int[Array, ""]) -> Pose:
        """Pose of item `index`."""
        rotation = self.rotation[index]
        return Pose(vec(self.position[index]), tuple(vec(rotation[:, axis]) for axis in range(3)))

    def together(self, first: int, last: int) -> Bool[Array, ""]:
        """Whether two items coincide."""
        values = (self.position, self.rotation, self.size)
        return jnp.all(jnp.stack([jnp.abs(v[first] - v[last]).max() < static.TOGETHER for v in values]))

    def visit(
        self,
        rays: Rays,
        items: tuple[int, ...],
        step: Callable[[Any, Any, HitFn], Any],
        carry: Any,
        candidates: Bool[Array, " K"],
    ) -> Any:
        """Folds a step over items, type by type.

        Args:
          rays: the rays.
          items: indices of the items.
          step: from carry, item index and a function that intersects `rays` with the item, to the next carry.
          carry: the first carry.
          candidates: items that can change the carry. A CPU skips items that are candidates in no env, an accelerator
            visits all of them.

        Returns:
          The last carry.
        """
        candidates = any_env(candidates)
        for kind in sorted({self.scene.items[k].type for k in items}):
            group = [k for k in items if self.scene.items[k].type == kind]
            if not one_by_one() or len(group) < MIN_LOOP_ITEMS:
                for k in group:
                    get_hit = partial(self._hit, rays, k)
                    if one_by_one():
                        carry = when(candidates[k], partial(step, carry, k, get_hit), carry)
                    else:
                        carry = step(carry, k, get_hit)
                continue
            for first in range(0, len(group), MAX_LOOP_ITEMS):
                carry = self._visit_in_loop(rays, kind, group[first : first + MAX_LOOP_ITEMS], step, carry, candidates)
        return carry

    def _hit(self, rays: Rays, k: int) -> Hit:
        """Intersects rays with an item; called where the hit is needed, so that a branch takes arrays, not scalars."""
        item = self.scene.items[k]
        return intersect(rays, item.type, vec(self.size[k]) if item.kind == "tendon" else item.size, self.pose(k))

    def _visit_in_loop(
        self,
        rays: Rays,
        kind: int,
        group: list[int],
        step: Callable[[Any, Any, HitFn], Any],
        carry: Any,
        candidates: Array,
    ) -> Any:
        """Visits the candidates of a group in a loop. They are the bits of a word, lowest first."""
        indices = jnp.asarray(group, jnp.int32)
        word = jnp.where(candidates[indices], jnp.left_shift(1, jnp.arange(len(group))), 0).sum(dtype=jnp.int32)

        def body(state: tuple[Array, Any]) -> tuple[Array, Any]:
            word, carry = state
            k = indices[jax.lax.population_count(~word & (word - 1))]
            carry = step(carry, k, partial(intersect, rays, kind, vec(self.size[k]), self.pose(k)))
            return word & (word - 1), carry

        return jax.lax.while_loop(lambda state: state[0] != 0, jax.jit(body), (word, carry))[1]


def one_by_one() -> bool:
    """Whether tiles and items are processed one after the other: on a CPU, whose cache is small."""
    return runtime.on_cpu()


def when(condition: Bool[Array, ""], function: Callable[[], Any], otherwise: Any) -> Any:
    """``function()`` where a condition holds that is the same for all envs, else ``otherwise``, of the same structure.

    A cond or a loop is traced several times by the vmap around it, and those within it several times for each. What is
    jitted is traced once.
    """
    return jax.lax.cond(condition, jax.jit(function), lambda: otherwise)


def any_pixel(mask: Bool[Array, " ..."]) -> Bool[Array, ""]:
    """Whether `mask` holds for any pixel of any env of the batch."""
    return any_env(mask.any())


def any_env(mask: Bool[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Logical or of `mask` over the envs of the batch. It is not batched, so a `cond` on it stays a `cond`."""
    return jax.lax.pmax(mask.astype(jnp.int32), ENV_AXIS) > 0


def view_of(scene: static.Scene, poses: Poses, appearance: Appearance | None) -> View:
    """Makes the view of one env, see `View`.

    The camera moves to the origin because floors span hundreds of metres and float32 is precise only near zero.

    Args:
      scene: the scene.
      poses: poses of the env.
      appearance: appearance of the episode; None without distractors.
    """
    eye, axes = poses.camera_position, poses.camera_rotation
    if appearance is not None:
        eye, axes = move_camera(appearance, eye, axes)
    right, up, back = (vec(axes[:, axis]) for axis in range(3))
    forward = tuple(-b for b in back)
    lights = []
    for constants in scene.lights:
        if constants.index < 0:  # the headlight, always the first
            lights.append(Light(constants, (0.0, 0.0, 0.0), forward))
            continue
        k = len([light for light in lights if light.constants.index >= 0])
        lights.append(Light(constants, vec(poses.light_position[k] - eye), vec(poses.light_direction[k])))
    size = jnp.asarray([item.size for item in scene.items], jnp.float32).reshape(-1, 3)
    colours = [item.colour if appearance is None else vec(appearance.colours[k]) for k, item in enumerate(scene.items)]
    first = len(scene.items) - sum(tendon.parts for tendon in scene.tendons)
    for tendon, weight in zip(scene.tendons, poses.tendon_limit, strict=True):
        if (limit := tendon.limit_colour) is not None:
            colour = tuple(c + weight * (end - c) for c, end in zip(colours[first], limit, strict=True))
            colours[first : first + tendon.parts] = [colour] * tendon.parts
        first += tendon.parts
    size = size.at[len(scene.items) - len(poses.tendon_size) :, :2].set(poses.tendon_size)
    return View(
        scene,
        poses.item_position - eye,
        poses.item_rotation,
        size,
        tuple(colours),
        tuple(lights),
        appearance,
        forward,
        right,
        up,
    )
