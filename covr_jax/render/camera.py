"""Cameras: those of a model, and MuJoCo's free camera. NumPy only, no device work."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from covr_jax.render.scene import Item, Lens
from covr_jax.render.vector import Floats

FREE = -1  # the index that stands for the model's default free camera, as in mujoco.Renderer


@dataclass(frozen=True)
class FreeCamera:
    """A camera that stands in the world and looks at a point; None: MuJoCo's default for the model."""

    lookat: Floats | None = None  # metres; the centre of the model
    distance: float | None = None  # from `lookat`, metres; 1.5 times the model's extent
    azimuth: float | None = None  # of the direction of sight about the vertical axis, degrees
    elevation: float | None = None  # of the direction of sight over the horizontal plane, degrees

    def of(self, model: mujoco.MjModel) -> mujoco.MjvCamera:
        """Returns MuJoCo's record of this camera."""
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, camera)
        for name in ("lookat", "distance", "azimuth", "elevation"):
            if (value := getattr(self, name)) is not None:
                setattr(camera, name, value)
        return camera


Camera = int | str | FreeCamera  # index or name of a camera of the model, FREE, or a free camera


@dataclass(frozen=True)
class CameraSetup:
    """What is static about a camera."""

    index: int  # in the model; FREE for a free camera
    lens: Lens
    free: tuple[Floats, Floats] | None  # position and rotation (columns right, up, back), row by row, of a free camera


def as_mujoco(model: mujoco.MjModel, camera: Camera) -> mujoco.MjvCamera:
    """Returns MuJoCo's record of a camera.

    Args:
      model: the model.
      camera: index or name, FREE, or a free camera.

    Raises:
      ValueError: no such camera.
    """
    if isinstance(camera, FreeCamera) or camera == FREE:
        return (camera if isinstance(camera, FreeCamera) else FreeCamera()).of(model)
    names = [model.camera(k).name for k in range(model.ncam)]
    if isinstance(camera, str):
        if camera not in names:
            raise ValueError(f"the model has no camera named '{camera}'; it has {names}")
        camera = names.index(camera)
    if not 0 <= camera < model.ncam:
        raise ValueError(
            f"camera {camera} is out of range: the model has {model.ncam} camera(s), {names}; -1 is the free camera"
        )
    record = mujoco.MjvCamera()
    record.type, record.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
    return record


def read_camera(model: mujoco.MjModel, camera: Camera, height: int, width: int) -> CameraSetup:
    """Reads a camera.

    Args:
      model: the model.
      camera: index or name, FREE, or a free camera.
      height: of the image, pixels.
      width: of the image, pixels.

    Raises:
      ValueError: no such camera.
    """
    record = as_mujoco(model, camera)
    free = record.type == mujoco.mjtCamera.mjCAMERA_FREE
    index = FREE if free else int(record.fixedcamid)
    return CameraSetup(index, _read_lens(model, record, height, width), _stand(record) if free else None)


def _read_lens(model: mujoco.MjModel, camera: mujoco.MjvCamera, height: int, width: int) -> Lens:
    """The part of the image plane that is seen: given by fovy, or by focal lengths and a sensor."""
    index = int(camera.fixedcamid)
    given = camera.type == mujoco.mjtCamera.mjCAMERA_FIXED
    perspective = int(mujoco.mjtProjection.mjPROJ_PERSPECTIVE)
    orthographic = bool(model.cam_projection[index] != perspective if given else model.vis.global_.orthographic)
    if orthographic or not (given and model.cam_sensorsize[index].any()):
        fovy = float(model.cam_fovy[index]) if given else float(model.vis.global_.fovy)
        pixel = (fovy if orthographic else 2 * float(np.tan(np.deg2rad(fovy) / 2))) / height
        return Lens(pixel, pixel, 0.0, 0.0, orthographic)
    across, upward, clip = (np.zeros((2, 1), np.float32) for _ in range(3))
    mujoco.mjv_cameraFrustum(upward, across, clip, model, camera)
    (left, right), (top, bottom) = ((side.ravel() / clip[0]).tolist() for side in (across, upward))
    return Lens((left + right) / width, (top + bottom) / height, (right - left) / 2, (top - bottom) / 2)


def _stand(camera: mujoco.MjvCamera) -> tuple[Floats, Floats]:
    """Position and rotation of a free camera."""
    azimuth, elevation = np.deg2rad(camera.azimuth), np.deg2rad(camera.elevation)
    level = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    vertical = np.array([0.0, 0.0, 1.0])
    forward = np.cos(elevation) * level + np.sin(elevation) * vertical
    up = np.cos(elevation) * vertical - np.sin(elevation) * level
    rotation = np.stack([np.cross(forward, up), up, -forward], -1)
    return tuple(np.asarray(camera.lookat) - camera.distance * forward), tuple(rotation.ravel())


def can_turn(model: mujoco.MjModel, camera: CameraSetup) -> bool:
    """Whether the camera's orientation can change: it is on a moving body and follows more than its position."""
    if camera.free:
        return False
    mode = mujoco.mjtCamLight(int(model.cam_mode[camera.index]))
    if mode in (mujoco.mjtCamLight.mjCAMLIGHT_TRACK, mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM):
        return False
    return mode != mujoco.mjtCamLight.mjCAMLIGHT_FIXED or bool(model.body_weldid[model.cam_bodyid[camera.index]])


def may_see_back(model: mujoco.MjModel, camera: CameraSetup, plane: Item) -> bool:
    """Whether the camera can see the plane from behind.

    It cannot if the camera starts in front of a fixed plane, and either does not move or follows, at an offset to the
    front, a body that cannot fall through the plane.
    """
    data = initial_data(model)
    normal = data.geom_xmat[plane.index].reshape(3, 3)[:, 2]
    position = camera.free[0] if camera.free else data.cam_xpos[camera.index]
    height = normal @ (np.asarray(position) - data.geom_xpos[plane.index])
    fixed = plane.kind == "geom" and model.body_weldid[model.geom_bodyid[plane.index]] == 0
    if not fixed or height <= 0:
        return True
    if camera.free:
        return False
    mode, body = mujoco.mjtCamLight(int(model.cam_mode[camera.index])), model.cam_bodyid[camera.index]
    follows = {
        mujoco.mjtCamLight.mjCAMLIGHT_TRACK: model.cam_pos0,
        mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM: model.cam_poscom0,
    }
    if mode in follows:
        collides = model.geom_contype[plane.index] or model.geom_conaffinity[plane.index]
        return not (collides and normal @ follows[mode][camera.index] >= 0)
    return bool(model.body_weldid[body] != 0)


def initial_data(model: mujoco.MjModel) -> mujoco.MjData:
    """Data with the poses of the model's initial state."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    mujoco.mj_tendon(model, data)
    return data


def initial_rotation(model: mujoco.MjModel, camera: CameraSetup) -> Float[np.ndarray, "3 3"]:
    """The camera's orientation in the model's initial state; columns right, up, back."""
    if camera.free:
        return np.array(camera.free[1]).reshape(3, 3)
    return initial_data(model).cam_xmat[camera.index].reshape(3, 3).copy()
