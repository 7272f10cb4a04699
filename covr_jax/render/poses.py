"""Poses of the items, the lights and the camera, from mjx.Data or mujoco.MjData.

Letters: K items, L lights without the headlight, N capsules of tendons.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from covr_jax.render.scene import Scene
from covr_jax.render.tendon import tendon_pose


class Poses(NamedTuple):
    """Poses of one env in the world frame, float32, metres. The headlight is not among them."""

    item_position: Float[Array | np.ndarray, "K 3"]
    item_rotation: Float[Array | np.ndarray, "K 3 3"]  # columns are the item's axes
    camera_position: Float[Array | np.ndarray, " 3"]
    camera_rotation: Float[Array | np.ndarray, "3 3"]  # columns right, up, back
    tendon_size: Float[Array | np.ndarray, "N 2"]  # radii and half lengths of the capsules of tendons
    tendon_limit: Float[Array | np.ndarray, " tendons"]  # weight of the limit's colour in 0..1
    light_position: Float[Array | np.ndarray, "L 3"]
    light_direction: Float[Array | np.ndarray, "L 3"]  # unit


def poses_of(scene: Scene, data: Any) -> Poses:
    """Gathers the poses of one env.

    MJX computes neither light positions nor directions. They are derived from the body poses for both kinds of data,
    so that both give the same image.

    Args:
      scene: the scene.
      data: mjx.Data of one env, or mujoco.MjData, with positions computed.
    """
    xp = np if isinstance(data, mujoco.MjData) else jnp
    indices = {
        kind: np.array([item.index for item in scene.items if item.kind == kind], int) for kind in ("geom", "site")
    }
    position = [data.geom_xpos[indices["geom"]], data.site_xpos[indices["site"]]]
    rotation = [data.geom_xmat[indices["geom"]].reshape(-1, 3, 3), data.site_xmat[indices["site"]].reshape(-1, 3, 3)]
    tendons = [tendon_pose(tendon, data, xp) for tendon in scene.tendons]
    for tendon in tendons:
        position.append(tendon.centre)
        zero = xp.zeros_like(tendon.axis)
        rotation.append(xp.stack([zero, zero, tendon.axis], -1))  # a capsule shows only its axis
    size = [tendon.size for tendon in tendons] or [xp.zeros((0, 2))]
    limit = [tendon.limit.reshape(1) for tendon in tendons] or [xp.zeros(0)]
    lights = [light_pose(light, data, xp) for light in scene.lights if light.index >= 0]
    stack = (lambda rows: xp.stack(rows)) if lights else (lambda rows: xp.zeros((0, 3)))
    poses = Poses(
        item_position=xp.concatenate(position),
        item_rotation=xp.concatenate(rotation),
        camera_position=xp.asarray(scene.free[0]) if scene.free else data.cam_xpos[scene.camera],
        camera_rotation=xp.asarray(scene.free[1] if scene.free else data.cam_xmat[scene.camera]).reshape(3, 3),
        tendon_size=xp.concatenate(size),
        tendon_limit=xp.concatenate(limit),
        light_position=stack([position for position, _ in lights]),
        light_direction=stack([direction for _, direction in lights]),
    )
    return Poses(*(field.astype(np.float32) for field in poses))


def light_pose(
    light: Any, data: Any, xp: Any
) -> tuple[Float[Array | np.ndarray, " 3"], Float[Array | np.ndarray, " 3"]]:
    """Computes the position and the unit direction of a light in the world frame.

    Args:
      light: a `scene.Light`, or a record with its fields `mode`, `body`, `target` and `pose`.
      data: mjx.Data of one env, or mujoco.MjData, with positions computed.
      xp: numpy or jax.numpy, as in `data`.
    """
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
