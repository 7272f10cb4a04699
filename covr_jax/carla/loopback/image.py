"""Images of the loopback world: ground by look-up, vehicles and walkers as boxes; light, fog and rain by weather.

The images are schematic, but they show what a driver needs: lanes, their marks, the road's edge, other road users.
Letters: H, W image size in px, N pixels that see the ground. Lengths in m.
"""

from __future__ import annotations

import functools
import math
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from PIL import Image, ImageDraw

from covr_jax.carla.loopback.actors import Actor
from covr_jax.carla.loopback.ground import Ground
from covr_jax.carla.loopback.wire import Transform

# by surface type, see ``ground``
_COLOURS = np.array([(70, 120, 50), (85, 85, 88), (110, 105, 95), (165, 160, 150), (235, 235, 235)], np.float32)
_SKY, _CLOUDS, _FOG = (np.array(colour, np.float32) for colour in ((130, 180, 230), (150, 155, 160), (185, 188, 190)))
_CLOTHES, _SKIN, _LIGHTS = (220, 40, 160), (235, 190, 150), (200, 30, 25)
_NEAR = 0.4  # m from the camera; faces nearer than this are not drawn


class Light(NamedTuple):
    """Effects of the weather on an image."""

    brightness: float
    sky: Float[np.ndarray, " 3"]  # RGB in 0..255
    fog_per_m: float
    rain: float  # share of pixels with a drop
    wet: float  # share by which the road is darker


def light_of(weather: list[float]) -> Light:
    """Computes the light from the client's weather parameters.

    Args:
      weather: fields of carla.WeatherParameters in order; clouds, rain, wetness and fog in 0..100, the sun's altitude
        in degrees.
    """
    clouds, rain, wet, altitude, fog = weather[0], weather[1], weather[2], weather[5], weather[6]
    sun = min(1.0, max(0.0, math.sin(math.radians(altitude)) * 1.5 + 0.1))
    brightness = (0.25 + 0.75 * sun) * (1.0 - 0.25 * clouds / 100)
    sky = _SKY + (_CLOUDS - _SKY) * clouds / 100
    return Light(brightness, sky, fog / 100 * 0.08 + rain / 100 * 0.006, rain / 100 * 0.02, 0.35 * max(wet, rain) / 100)


class Rays(NamedTuple):
    """Ground points seen by the pixels of one camera."""

    focal: float  # px
    below: Bool[np.ndarray, "H W"]  # pixels that see the ground
    ahead: Float64[np.ndarray, " N"]  # m in the camera's axes
    right: Float64[np.ndarray, " N"]
    distance: Float32[np.ndarray, " N"]


@functools.lru_cache(32)
def rays_of(width: int, height: int, fov: float, pitch: float, above: float) -> Rays:
    """Computes the rays of a camera.

    Args:
      width: px.
      height: px.
      fov: horizontal field of view in degrees.
      pitch: degrees, positive upwards.
      above: height over the ground in m.
    """
    focal = width / (2.0 * math.tan(math.radians(fov) / 2.0))
    u = (np.arange(width) + 0.5 - width / 2)[None] / focal
    v = (np.arange(height) + 0.5 - height / 2)[:, None] / focal
    c, s = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
    forward, up = np.broadcast_to(c + v * s, (height, width)), np.broadcast_to(s - v * c, (height, width))
    below = up < -1e-3
    scale = max(above, 0.1) / -up[below]
    ahead, right = scale * forward[below], scale * np.broadcast_to(u, (height, width))[below]
    return Rays(focal, below, ahead, right, np.hypot(ahead, right).astype(np.float32))


class SceneRenderer:
    """Renders camera images of the loopback world."""

    def __init__(self, ground: Ground):
        self._ground = ground

    def render(
        self, pose: Transform, width: int, height: int, fov: float, weather: list[float], bodies: list[Actor]
    ) -> UInt8[np.ndarray, "H W 4"]:
        """Renders one image in CARLA's channel order, BGRA.

        Args:
          pose: the camera's pose; its roll is ignored, and the raindrops are seeded with it.
          width: px.
          height: px.
          fov: horizontal field of view in degrees.
          weather: see ``light_of``.
          bodies: vehicles and walkers except the one that carries the camera.
        """
        light = light_of(weather)
        (x, y, z), (pitch, yaw, _) = pose
        rays = rays_of(width, height, fov, round(pitch, 3), round(z, 3))
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        surface = self._ground.surface_at(x + rays.ahead * c - rays.right * s, y + rays.ahead * s + rays.right * c)
        colours = _COLOURS * np.array([1.0, 1.0 - light.wet, 1.0 - light.wet, 1.0, 1.0], np.float32)[:, None]
        canvas = np.empty((height, width, 3), np.float32)
        horizon = _mix(light.sky, _FOG, min(1.0, light.fog_per_m * 40.0))
        canvas[~rays.below] = horizon
        far = _fog_share(light, rays.distance)[:, None]
        canvas[rays.below] = colours[surface] * (1.0 - far) + _FOG * far
        image = Image.fromarray((canvas * light.brightness).astype(np.uint8))
        _draw_bodies(ImageDraw.Draw(image), pose, rays.focal, (width, height), light, bodies)
        rgb = np.asarray(image)
        if light.rain > 0.0:
            seed = zlib.crc32(np.array(pose).tobytes())
            drops = np.random.default_rng(seed).random((height, width)) < light.rain
            rgb = np.where(drops[..., None], np.uint8(200 * light.brightness), rgb)
        bgra = np.full((height, width, 4), 255, np.uint8)
        bgra[..., :3] = rgb[..., ::-1]
        return bgra


def _draw_bodies(
    draw: ImageDraw.ImageDraw,
    pose: Transform,
    focal: float,
    size: tuple[int, int],
    light: Light,
    bodies: list[Actor],
) -> None:
    """Draws the faces of all bodies, the most distant ones first."""
    (x, y, z), (pitch, yaw, _) = pose
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    cp, sp = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
    faces = []
    for body in bodies:
        for corners, colour in _faces(body, (x, y)):
            offset = corners - (x, y, z)
            flat = offset[:, 0] * c + offset[:, 1] * s
            ahead, up = flat * cp + offset[:, 2] * sp, offset[:, 2] * cp - flat * sp
            if ahead.max() < _NEAR:
                continue
            ahead = np.maximum(ahead, _NEAR)
            right = offset[:, 1] * c - offset[:, 0] * s
            u, v = size[0] / 2 + focal * right / ahead, size[1] / 2 - focal * up / ahead
            faces.append((float(ahead.mean()), list(zip(u.tolist(), v.tolist(), strict=True)), colour))
    for distance, corners, colour in sorted(faces, key=lambda face: -face[0]):
        fogged = _mix(np.array(colour, np.float32), _FOG, float(_fog_share(light, distance))) * light.brightness
        draw.polygon(corners, fill=tuple(int(part) for part in fogged))


def _fog_share(light: Light, distance: Float32[np.ndarray, "*shape"] | float) -> Float[np.ndarray, "*shape"]:
    """Share of fog in the colour of something at a distance in m."""
    return np.asarray(1.0 - np.exp(-light.fog_per_m * np.asarray(distance, np.float32)))


def _mix(colour: Float[np.ndarray, " 3"], other: Float[np.ndarray, " 3"], share: float) -> Float[np.ndarray, " 3"]:
    return colour * (1.0 - share) + other * share


def _faces(body: Actor, eye: tuple[float, float]) -> list[tuple[Float[np.ndarray, "4 3"], tuple[int, ...]]]:
    """Corners and colours of the upright faces of a body that are turned to the eye at (x, y); the rear has lights."""
    length, width, height, _ = body.size
    (x, y, z), (_, yaw, _) = body.transform
    bottom = z - height / 2 if body.is_walker else z
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    paint = _CLOTHES if body.is_walker else tuple(int(part) for part in body.attribute("color", "60,60,160").split(","))
    faces = []
    for (nx, ny), shade in (((1, 0), 0.9), ((-1, 0), 0.8), ((0, 1), 0.65), ((0, -1), 0.65)):
        ends = [(nx - ny, ny + nx), (nx + ny, ny - nx)]
        plan = np.array(
            [
                (x + ex * length / 2 * c - ey * width / 2 * s, y + ex * length / 2 * s + ey * width / 2 * c)
                for ex, ey in ends
            ]
        )
        outward = (nx * c - ny * s, nx * s + ny * c)
        if (eye[0] - plan[0, 0]) * outward[0] + (eye[1] - plan[0, 1]) * outward[1] <= 0:
            continue
        colour = tuple(int(part * shade) for part in paint)
        faces.append((_wall(plan, bottom, bottom + height), colour))
        if body.is_walker:
            faces.append((_wall(plan, bottom + 0.85 * height, bottom + height), _SKIN))
        elif nx < 0:
            faces.append((_wall(plan, bottom + 0.45 * height, bottom + 0.65 * height), _LIGHTS))
    return faces


def _wall(plan: Float[np.ndarray, "2 2"], bottom: float, top: float) -> Float[np.ndarray, "4 3"]:
    """Corners of the vertical rectangle over a line from (x0, y0) to (x1, y1)."""
    (x0, y0), (x1, y1) = plan
    return np.array([(x0, y0, bottom), (x1, y1, bottom), (x1, y1, top), (x0, y0, top)])
