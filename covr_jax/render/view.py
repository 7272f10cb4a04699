"""One world as the stages see it: the camera at the origin, poses to index, items to visit."""

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

from covr_jax.render import scene as static
from covr_jax.render.distract import Appearance, move_camera
from covr_jax.render.poses import Poses
from covr_jax.render.raycast import Array, Hit, PinholeRays, Pose, Rays, Vec, intersect
from covr_jax.render.tendon import LIMIT_COLOUR

Meet = Callable[[], Hit]
ROLLED = 3  # from this many items of one type on, a CPU visits them in a loop: the program stays small
WORLDS = "worlds"  # name of the axis of the worlds that are drawn together
WORD = 31  # items of one loop


class Light(NamedTuple):
    """A light in the frame whose origin is the camera; scalars."""

    constants: static.Light
    position: Vec
    direction: Vec  # unit, the way the light shines


class View(NamedTuple):
    """Everything a stage needs of one world, in world axes with the camera at the origin."""

    scene: static.Scene
    position: Array  # f32[K,3]
    rotation: Array  # f32[K,3,3], columns are the item's axes
    size: Array  # f32[K,3], half sizes in metres
    colours: tuple[Vec, ...]  # one per item, rgb in 0..1
    lights: tuple[Light, ...]
    look: Appearance | None  # where there are distractors
    forward: Vec
    right: Vec
    up: Vec

    @property
    def bounds(self) -> Array:
        """f32[K] radius of a ball around each item, metres."""
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

    def rays(self, x: Array, y: Array) -> PinholeRays:
        """Rays of the camera through image plane coordinates `x` right and `y` up at distance 1."""
        return PinholeRays((0.0, 0.0, 0.0), self.forward, self.right, self.up, x, y)

    def spread(self, rays: PinholeRays) -> PinholeRays:
        """Rays [S,P] through the visibility samples of the pixels whose centres `rays` [P] pass."""
        offsets = (np.asarray(self.scene.samples, np.float32) - 0.5) * np.float32(self.scene.pixel)
        return rays._replace(x=rays.x + offsets[:, :1], y=rays.y - offsets[:, 1:])

    def pose(self, index: Array) -> Pose:
        """Pose of item `index`, a number or a traced scalar."""
        rotation = self.rotation[index]
        return Pose(vec(self.position[index]), tuple(vec(rotation[:, axis]) for axis in range(3)))

    def visit(
        self, rays: Rays, items: tuple[int, ...], step: Callable[[Any, Array, Meet], Any], carry: Any, wanted: Array
    ) -> Any:
        """Folds `step(carry, index, meet)` over `items`, type by type; `meet()` is the meeting of `rays` with the item.

        `wanted` bool[K] tells which items can matter to these rays: a CPU visits no other that no world wants, an
        accelerator visits all, so the step must come to the same result either way.
        """
        wanted = any_world(wanted)
        for kind in sorted({self.scene.items[k].type for k in items}):
            group = [k for k in items if self.scene.items[k].type == kind]
            if not one_by_one() or len(group) < ROLLED:
                for k in group:
                    size = vec(self.size[k]) if self.scene.items[k].kind == "tendon" else self.scene.items[k].size
                    meet = partial(intersect, rays, kind, size, self.pose(k))
                    if one_by_one():
                        carry = jax.lax.cond(wanted[k], partial(step, carry, k, meet), lambda carry=carry: carry)
                    else:
                        carry = step(carry, k, meet)
                continue
            for first in range(0, len(group), WORD):
                carry = self._visit_wanted(rays, kind, group[first : first + WORD], step, carry, wanted)
        return carry

    def _visit_wanted(
        self,
        rays: Rays,
        kind: int,
        group: list[int],
        step: Callable[[Any, Array, Meet], Any],
        carry: Any,
        wanted: Array,
    ) -> Any:
        """A loop over the wanted ones alone: they are the bits of a word, lowest first."""
        rows = jnp.asarray(group, jnp.int32)
        word = jnp.where(wanted[rows], jnp.left_shift(1, jnp.arange(len(group))), 0).sum(dtype=jnp.int32)

        def body(state: tuple[Array, Any]) -> tuple[Array, Any]:
            word, carry = state
            k = rows[jax.lax.population_count(~word & (word - 1))]
            carry = step(carry, k, partial(intersect, rays, kind, vec(self.size[k]), self.pose(k)))
            return word & (word - 1), carry

        return jax.lax.while_loop(lambda state: state[0] != 0, body, (word, carry))[1]


def vec(row: Array) -> Vec:
    """The three components of f32[3]."""
    return row[0], row[1], row[2]


def one_by_one() -> bool:
    """Whether tiles and items are drawn one after the other: on a CPU, whose cache holds little at a time."""
    return jax.default_backend() == "cpu"


def anywhere(mask: Array) -> Array:
    """bool: whether `mask` holds for any pixel of any world that is drawn together with this one."""
    return any_world(mask.any())


def any_world(mask: Array) -> Array:
    """`mask` or that of any world drawn together: one answer for all, so a conditional on it stays one."""
    return jax.lax.pmax(mask.astype(jnp.int32), WORLDS) > 0


def view_of(scene: static.Scene, poses: Poses, look: Appearance | None) -> View:
    """Moves the camera to the origin: floors span hundreds of metres, and float32 is sharp only near zero."""
    eye, axes = poses.camera_position, poses.camera_rotation
    if look is not None:
        eye, axes = move_camera(look, eye, axes)
    right, up, back = (vec(axes[:, axis]) for axis in range(3))
    forward = tuple(-b for b in back)
    lights = []
    for constants in scene.lights:
        if constants.index < 0:  # the headlight, always the first
            lights.append(Light(constants, (0.0, 0.0, 0.0), forward))
            continue
        row = len([light for light in lights if light.constants.index >= 0])
        lights.append(Light(constants, vec(poses.light_position[row] - eye), vec(poses.light_direction[row])))
    size = jnp.asarray([item.size for item in scene.items], jnp.float32).reshape(-1, 3)
    colours = [item.colour if look is None else vec(look.colours[k]) for k, item in enumerate(scene.items)]
    first = len(scene.items) - sum(tendon.parts for tendon in scene.tendons)
    for tendon, red in zip(scene.tendons, poses.tendon_red, strict=True):
        colour = tuple(c + red * (limit - c) for c, limit in zip(colours[first], LIMIT_COLOUR, strict=True))
        colours[first : first + tendon.parts] = [colour] * tendon.parts
        first += tendon.parts
    size = size.at[len(scene.items) - len(poses.tendon_half) :, 1].set(poses.tendon_half)
    return View(
        scene,
        poses.item_position - eye,
        poses.item_rotation,
        size,
        tuple(colours),
        tuple(lights),
        look,
        forward,
        right,
        up,
    )
