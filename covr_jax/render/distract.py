"""Distractors for generalisation tests: other colours, other backgrounds, another camera, drawn anew for each episode.

In the manner of the DMControl Generalization Benchmark (Hansen and Wang 2021) and the Distracting Control Suite (Stone
et al. 2021), whose videos are replaced by moving waves of colour, so that nothing has to be loaded and every picture
is still a pure function of the pose, the look and the time.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from covr_jax.render.scene import Scene

Array = Any
WAVES = 4  # plane waves that make up a background
SPEED = 2.0  # radians per second, the most a wave moves


@dataclass(frozen=True)
class Distraction:
    """How strong each distractor is; 0 leaves the scene alone. Shares are of the way to a random colour."""

    items: float = 0.0
    floor: float = 0.0
    sky: float = 0.0
    waves: float = 0.0  # share of the sky that moving waves of colour replace
    angle: float = 0.0  # radians, the most the camera turns about each axis
    shift: float = 0.0  # metres per metre of extent, the most the camera moves along each axis
    hide_floor: bool = False  # whether the background shows through textured and reflective planes


DISTRACTORS = {
    "none": Distraction(),
    "color_easy": Distraction(items=0.25, floor=0.25, sky=0.25),
    "color_hard": Distraction(items=0.8, floor=0.8, sky=0.8),
    "background_easy": Distraction(waves=1.0),
    "background_hard": Distraction(waves=1.0, hide_floor=True),
    "camera_easy": Distraction(angle=0.035, shift=0.02),
    "camera_hard": Distraction(angle=0.105, shift=0.06),
}


class Appearance(NamedTuple):
    """What one episode looks like. K items."""

    colours: Array  # f32[K,3] rgb in 0..1 of the items
    checker: Array  # f32[2,3] what the two colours of a plane's texture are moved to
    sky: Array  # f32[3] what the sky is moved to
    waves: Array  # f32[WAVES,4]: waves per unit of the image plane right and up, phase, radians per second
    palette: Array  # f32[2,3] the waves' darkest and brightest colour
    turn: Array  # f32[3] radians about right, up, back
    shift: Array  # f32[3] metres along right, up, back
    time: Array  # scalar, seconds since the episode began


def draw_look(key: Array, scene: Scene, extent: float) -> Appearance:
    """A random look of the scene's distraction; the key is consumed. `extent` is the model's, in metres."""
    strength = DISTRACTORS[scene.distractors]
    item_key, floor_key, sky_key, wave_key, phase_key, palette_key, camera_key = jax.random.split(key, 7)
    own = jnp.asarray([item.colour for item in scene.items], jnp.float32).reshape(-1, 3)
    # one colour per colour: what looked alike still does
    kinds = {colour: row for row, colour in enumerate(dict.fromkeys(item.colour for item in scene.items))}
    rows = jnp.asarray([kinds[item.colour] for item in scene.items], jnp.int32)
    painted = jnp.asarray([item.texture is None for item in scene.items], jnp.float32).reshape(-1, 1)
    drawn = jax.random.uniform(item_key, (max(len(kinds), 1), 3))[rows]
    frequency = 6.0 * jax.random.normal(wave_key, (WAVES, 2))
    phase = jax.random.uniform(phase_key, (WAVES, 2), minval=-1.0)
    turn, shift = jax.random.uniform(camera_key, (2, 3), minval=-1.0)
    return Appearance(
        colours=own + strength.items * painted * (drawn - own),
        checker=0.5 * jax.random.uniform(floor_key, (2, 3)),
        sky=jax.random.uniform(sky_key, (3,)),
        waves=jnp.concatenate([frequency, jnp.pi * phase[:, :1], SPEED * phase[:, 1:]], 1),
        palette=jax.random.uniform(palette_key, (2, 3)),
        turn=strength.angle * turn,
        shift=strength.shift * extent * shift,
        time=jnp.zeros(()),
    )


def move_camera(look: Appearance, position: Array, rotation: Array) -> tuple[Array, Array]:
    """The camera's position f32[3] and rotation f32[3,3] (columns right, up, back) after the look's shift and turn."""
    position = position + (rotation * look.shift[None]).sum(-1)
    for axis in range(3):
        cosine, sine = jnp.cos(look.turn[axis]), jnp.sin(look.turn[axis])
        one, other = rotation[:, (axis + 1) % 3], rotation[:, (axis + 2) % 3]
        rotation = rotation.at[:, (axis + 1) % 3].set(cosine * one + sine * other)
        rotation = rotation.at[:, (axis + 2) % 3].set(cosine * other - sine * one)
    return position, rotation


def background(look: Appearance, strength: Distraction, sky: Array, x: Array, y: Array) -> Array:
    """int32[...]: packed 8-bit `sky` with the look's colour and waves; `x`, `y` are image plane coordinates."""
    height = 0.0
    for wave in range(WAVES):
        right, up, phase, speed = look.waves[wave]
        height = height + jnp.sin(2 * jnp.pi * (right * x + up * y) + phase + speed * look.time) / (2 * WAVES)
    channels = []
    for k, offset in enumerate((0, 8, 16)):
        level = ((sky >> offset) & 255).astype(jnp.float32)
        level = level + strength.sky * (255.0 * look.sky[k] - level)
        wave = 255.0 * (look.palette[0, k] + (0.5 + height) * (look.palette[1, k] - look.palette[0, k]))
        channels.append(jnp.round(level + strength.waves * (wave - level)).astype(jnp.int32) << offset)
    return channels[0] | channels[1] | channels[2]
