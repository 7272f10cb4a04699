"""What the model says about its cameras. NumPy only, no device work."""

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Float

from covr_jax.render.scene import Item


def camera_index(model: mujoco.MjModel, camera: int | str) -> int:
    """Index of a camera in the model.

    Args:
      model: the model.
      camera: index or name.

    Raises:
      ValueError: no such camera, or it is not a plain perspective camera.
    """
    names = [model.camera(k).name for k in range(model.ncam)]
    if isinstance(camera, str):
        if camera not in names:
            raise ValueError(f"the model has no camera named '{camera}'; it has {names}")
        camera = names.index(camera)
    if not 0 <= camera < model.ncam:
        raise ValueError(f"camera {camera} is out of range: the model has {model.ncam} camera(s), {names}")
    perspective = int(mujoco.mjtProjection.mjPROJ_PERSPECTIVE)
    if model.cam_projection[camera] != perspective or model.cam_sensorsize[camera].any():
        raise ValueError(f"camera {camera} ('{names[camera]}') is not a plain perspective camera given by fovy")
    return int(camera)


def can_turn(model: mujoco.MjModel, camera: int) -> bool:
    """Whether the camera's orientation can change: it is on a moving body and follows more than its position."""
    mode = mujoco.mjtCamLight(int(model.cam_mode[camera]))
    if mode in (mujoco.mjtCamLight.mjCAMLIGHT_TRACK, mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM):
        return False
    return mode != mujoco.mjtCamLight.mjCAMLIGHT_FIXED or bool(model.body_weldid[model.cam_bodyid[camera]])


def may_see_back(model: mujoco.MjModel, camera: int, plane: Item) -> bool:
    """Whether the camera can see the plane from behind.

    It cannot if the camera starts in front of a fixed plane, and either does not move or follows, at an offset to the
    front, a body that cannot fall through the plane.
    """
    data = _initial_data(model)
    normal = data.geom_xmat[plane.index].reshape(3, 3)[:, 2]
    height = normal @ (data.cam_xpos[camera] - data.geom_xpos[plane.index])
    fixed = plane.kind == "geom" and model.body_weldid[model.geom_bodyid[plane.index]] == 0
    if not fixed or height <= 0:
        return True
    mode, body = mujoco.mjtCamLight(int(model.cam_mode[camera])), model.cam_bodyid[camera]
    follows = {
        mujoco.mjtCamLight.mjCAMLIGHT_TRACK: model.cam_pos0,
        mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM: model.cam_poscom0,
    }
    if mode in follows:
        collides = model.geom_contype[plane.index] or model.geom_conaffinity[plane.index]
        return not (collides and normal @ follows[mode][camera] >= 0)
    return bool(model.body_weldid[body] != 0)


def _initial_data(model: mujoco.MjModel) -> mujoco.MjData:
    """Data with the poses of the model's initial state."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    return data


def initial_rotation(model: mujoco.MjModel, camera: int) -> Float[np.ndarray, "3 3"]:
    """The camera's orientation in the model's initial state; columns right, up, back."""
    return _initial_data(model).cam_xmat[camera].reshape(3, 3).copy()
