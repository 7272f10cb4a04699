"""Where everything is: the pose of every item, light and the camera, from mjx.Data or mujoco.MjData."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np

from covr_jax.render.scene import Light, Scene
from covr_jax.render.tendon import tendon_pose

Array = Any  # a jax.Array or numpy.ndarray


class Poses(NamedTuple):
    """One world, float32, world frame, metres. K items; L lights without the headlight, which rides on the camera."""

    item_position: Array  # f32[K,3]
    item_rotation: Array  # f32[K,3,3], columns are the item's axes
    camera_position: Array  # f32[3]
    camera_rotation: Array  # f32[3,3], columns right, up, back
    tendon_half: Array  # f32[N], half lengths of the items that are parts of tendons
    tendon_red: Array  # f32[number of tendons], how far the colour has turned to the limit's red
    light_position: Array  # f32[L,3]
    light_direction: Array  # f32[L,3], unit


def poses_of(scene: Scene, data: Any) -> Poses:
    """Gathers the poses from `data`, one world of mjx.Data or a mujoco.MjData after its positions were computed.

    MJX computes neither light positions nor directions, so they are derived from the body poses here for both kinds of
    data: one rule, one picture.
    """
    xp = np if isinstance(data, mujoco.MjData) else jnp
    rows = {kind: np.array([item.index for item in scene.items if item.kind == kind], int) for kind in ("geom", "site")}
    position = [data.geom_xpos[rows["geom"]], data.site_xpos[rows["site"]]]
    rotation = [data.geom_xmat[rows["geom"]].reshape(-1, 3, 3), data.site_xmat[rows["site"]].reshape(-1, 3, 3)]
    tendons = [tendon_pose(tendon, data, xp) for tendon in scene.tendons]
    for centre, axis, _, _ in tendons:
        position.append(centre)
        zero = xp.zeros_like(axis)
        rotation.append(xp.stack([zero, zero, axis], -1))  # a capsule shows only its axis
    half = [half for _, _, half, _ in tendons] or [xp.zeros(0)]
    red = [weight.reshape(1) for _, _, _, weight in tendons] or [xp.zeros(0)]
    lights = [light_pose(light, data, xp) for light in scene.lights if light.index >= 0]
    stack = (lambda rows: xp.stack(rows)) if lights else (lambda rows: xp.zeros((0, 3)))
    poses = Poses(
        item_position=xp.concatenate(position),
        item_rotation=xp.concatenate(rotation),
        camera_position=data.cam_xpos[scene.camera],
        camera_rotation=data.cam_xmat[scene.camera].reshape(3, 3),
        tendon_half=xp.concatenate(half),
        tendon_red=xp.concatenate(red),
        light_position=stack([position for position, _ in lights]),
        light_direction=stack([direction for _, direction in lights]),
    )
    return Poses(*(field.astype(np.float32) for field in poses))


def light_pose(light: Light | Any, data: Any, xp: Any) -> tuple[Array, Array]:
    """World position and unit direction of a light, by its ``mode``, ``body``, ``target`` and ``pose`` alone."""
    pos, direction, pos0, poscom0, direction0 = (np.asarray(value) for value in light.pose)
    body, rotation = data.xpos[light.body], data.xmat[light.body].reshape(3, 3)
    modes = mujoco.mjtCamLight
    if light.mode == int(modes.mjCAMLIGHT_TRACK):
        position, direction = body + pos0, xp.asarray(direction0)
    elif light.mode == int(modes.mjCAMLIGHT_TRACKCOM):
        position, direction = data.subtree_com[light.body] + poscom0, xp.asarray(direction0)
    else:
        position, direction = body + (rotation * pos).sum(-1), (rotation * direction).sum(-1)
    if light.mode == int(modes.mjCAMLIGHT_TARGETBODY):
        direction = data.xpos[light.target] - position
    elif light.mode == int(modes.mjCAMLIGHT_TARGETBODYCOM):
        direction = data.subtree_com[light.target] - position
    return position, direction / xp.sqrt(xp.maximum((direction**2).sum(), 1e-12))
