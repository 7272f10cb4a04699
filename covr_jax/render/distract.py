"""Distractors for generalisation tests: random colours, backgrounds and cameras, sampled for each episode.

Follows the DMControl Generalization Benchmark (Hansen and Wang 2021) and the Distracting Control Suite (Stone et al.
2021). Moving waves of colour replace their videos, so nothing is loaded and an image is a pure function of pose,
appearance and time. Letters: K items.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from covr_jax.render.scene import Scene

WAVES = 4  # plane waves of a background
SPEED = 2.0  # radians per second, the largest speed of a wave


@dataclass(frozen=True)
class Distraction:
    """Strength of each distractor; 0 changes nothing. Colours are interpolated towards random colours."""

    items: float = 0.0  # weight of the random colour in 0..1
    floor: float = 0.0  # the same, for textures of planes
    sky: float = 0.0  # the same, for the sky
    waves: float = 0.0  # weight of the moving waves over the sky, in 0..1
    angle: float = 0.0  # radians, the largest turn of the camera about each axis
    shift: float = 0.0  # the largest shift of the camera along each axis, divided by the model's extent
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
    """Random appearance of one episode."""

    colours: Float[Array, "K 3"]  # rgb in 0..1 of the items
    checker: Float[Array, "2 3"]  # target of the two colours of a plane's texture
    sky: Float[Array, " 3"]  # target of the sky's colour
    waves: Float[Array, "waves 4"]  # waves per unit of the image plane right and up, phase, radians per second
    palette: Float[Array, "2 3"]  # darkest and brightest colour of the waves
    turn: Float[Array, " 3"]  # radians about right, up, back
    shift: Float[Array, " 3"]  # metres along right, up, back
    time: Float[Array, ""]  # seconds since the episode began


def sample_appearance(key: Array, scene: Scene, extent: float) -> Appearance:
    """Samples the appearance of an episode for the scene's distractors.

    Args:
      key: PRNG key, consumed.
      scene: the scene.
      extent: of the model, metres.
    """
    strength = DISTRACTORS[scene.distractors]
    item_key, floor_key, sky_key, wave_key, phase_key, palette_key, camera_key = jax.random.split(key, 7)
    own = jnp.asarray([item.colour for item in scene.items], jnp.float32).reshape(-1, 3)
    # one random colour per colour: items of equal colour stay so
    palette = {colour: k for k, colour in enumerate(dict.fromkeys(item.colour for item in scene.items))}
    indices = jnp.asarray([palette[item.colour] for item in scene.items], jnp.int32)
    untextured = jnp.asarray([item.texture is None for item in scene.items], jnp.float32).reshape(-1, 1)
    random_colours = jax.random.uniform(item_key, (max(len(palette), 1), 3))[indices]
    frequency = 6.0 * jax.random.normal(wave_key, (WAVES, 2))
    phase = jax.random.uniform(phase_key, (WAVES, 2), minval=-1.0)
    turn, shift = jax.random.uniform(camera_key, (2, 3), minval=-1.0)
    return Appearance(
        colours=own + strength.items * untextured * (random_colours - own),
        checker=0.5 * jax.random.uniform(floor_key, (2, 3)),
        sky=jax.random.uniform(sky_key, (3,)),
        waves=jnp.concatenate([frequency, jnp.pi * phase[:, :1], SPEED * phase[:, 1:]], 1),
        palette=jax.random.uniform(palette_key, (2, 3)),
        turn=strength.angle * turn,
        shift=strength.shift * extent * shift,
        time=jnp.zeros(()),
    )


def move_camera(
    appearance: Appearance, position: Float[Array, " 3"], rotation: Float[Array, "3 3"]
) -> tuple[Float[Array, " 3"], Float[Array, "3 3"]]:
    """Shifts and turns the camera.

    Args:
      appearance: has the shift and the turn.
      position: of the camera, metres.
      rotation: of the camera; columns right, up, back.
    """
    position = position + (rotation * appearance.shift[None]).sum(-1)
    for axis in range(3):
        cosine, sine = jnp.cos(appearance.turn[axis]), jnp.sin(appearance.turn[axis])
        one, other = rotation[:, (axis + 1) % 3], rotation[:, (axis + 2) % 3]
        rotation = rotation.at[:, (axis + 1) % 3].set(cosine * one + sine * other)
        rotation = rotation.at[:, (axis + 2) % 3].set(cosine * other - sine * one)
    return position, rotation


def background(
    appearance: Appearance,
    strength: Distraction,
    sky: Int32[Array | np.ndarray, "*shape"],
    x: Float[Array | np.ndarray, "*shape"],
    y: Float[Array | np.ndarray, "*shape"],
) -> Int32[Array, "*shape"]:
    """Blends the colour and the waves of an appearance into the sky.

    Args:
      appearance: appearance of the episode.
      strength: weights of the colour and the waves.
      sky: packed colours, 8 bits a channel, red lowest.
      x: image plane coordinate to the right.
      y: image plane coordinate upwards.
    """
    height = 0.0
    for wave in range(WAVES):
        right, up, phase, speed = appearance.waves[wave]
        height = height + jnp.sin(2 * jnp.pi * (right * x + up * y) + phase + speed * appearance.time) / (2 * WAVES)
    channels = []
    for k, offset in enumerate((0, 8, 16)):
        level = ((sky >> offset) & 255).astype(jnp.float32)
        level = level + strength.sky * (255.0 * appearance.sky[k] - level)
        wave = 255.0 * (
            appearance.palette[0, k] + (0.5 + height) * (appearance.palette[1, k] - appearance.palette[0, k])
        )
        channels.append(jnp.round(level + strength.waves * (wave - level)).astype(jnp.int32) << offset)
    return channels[0] | channels[1] | channels[2]
