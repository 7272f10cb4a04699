"""What never changes in a scene: an MjModel read once into a frozen, hashable record. NumPy only, no device work."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from covr_jax.render import sky
from covr_jax.render.tendon import Tendon, read_tendons
from covr_jax.render.texture import Texture, read_texture

Floats = tuple[float, ...]

PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)
SPHERE = int(mujoco.mjtGeom.mjGEOM_SPHERE)
CAPSULE = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
ELLIPSOID = int(mujoco.mjtGeom.mjGEOM_ELLIPSOID)
CYLINDER = int(mujoco.mjtGeom.mjGEOM_CYLINDER)
BOX = int(mujoco.mjtGeom.mjGEOM_BOX)
DRAWABLE = (PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX)
GROUPS = 3  # groups 0, 1 and 2 are drawn by default
ENDLESS = 1e4  # metres: half size that stands for MuJoCo's 0, endless
OUTPUTS = ("rgb", "depth", "segmentation")
OPAQUE = 0.995  # MuJoCo draws items with less alpha as transparent
DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)  # a geom with this colour shows its material's colour
SAMPLES = {  # (column, row) offsets inside the pixel; 4 is the rotated grid of GL's 4x multisampling, rows downwards
    1: ((0.5, 0.5),),
    2: ((0.25, 0.25), (0.75, 0.75)),
    4: ((0.375, 0.875), (0.875, 0.625), (0.125, 0.375), (0.625, 0.125)),
}


@dataclass(frozen=True)
class Item:
    """One thing to draw. Sizes are MuJoCo's half sizes in metres; colours are rgb in 0..1."""

    kind: str  # "geom", "site" or "tendon"; of a tendon, each capsule is one item, its half length comes with the pose
    index: int  # row of `kind` in the model
    type: int  # a value of mujoco.mjtGeom
    size: Floats
    bound: float  # radius of a ball around it, metres; 0 for a plane
    colour: Floats
    alpha: float
    emission: float
    specular: float
    shininess: float  # 0..1; the GL exponent is 128 times this
    reflectance: float
    texture: Texture | None

    def half(self, axis: int) -> float:
        """Half extent of a plane in metres; one of size 0 is endless."""
        return self.size[axis] if self.size[axis] > 0 else ENDLESS


@dataclass(frozen=True)
class Light:
    """Constants of a light. Where it is comes with the pose (see `poses`)."""

    index: int  # row in the model; -1 is the headlight
    directional: bool
    ambient: Floats
    diffuse: Floats
    specular: Floats
    attenuation: Floats
    cutoff: float  # degrees; 180 is no spot
    exponent: float
    shadow: bool
    mode: int  # a value of mujoco.mjtCamLight
    body: int
    target: int
    pose: tuple[Floats, Floats, Floats, Floats, Floats]  # pos, dir, pos0, poscom0, dir0


@dataclass(frozen=True)
class Scene:
    """Everything static about one picture: hashable and picklable, so it may be a static argument of `jax.jit`."""

    height: int
    width: int
    camera: int
    tangent: float  # of half the vertical field of view
    samples: tuple[Floats, ...]
    items: tuple[Item, ...]
    tendons: tuple[Tendon, ...]  # their items are the last ones, in this order
    lights: tuple[Light, ...]  # the headlight first
    mirror: int | None  # index into `items` of the one plane that reflects
    shadow_clip: float  # metres: half width of a directional light's shadow map
    shadow_scale: float  # share of a spot's cutoff that its shadow map covers
    near: float  # metres: what is closer to the camera's plane is cut away
    far: float  # metres: depth where nothing is
    output: str  # "rgb", "depth" or "segmentation"
    distractors: str  # a name of `distract.DISTRACTORS`
    backs: tuple[int, ...]  # planes that the camera may come behind
    sky: bytes  # u8[H,W,3], or u8[6,n,n,3] where the camera turns
    turning: bool  # whether the camera's orientation changes

    @property
    def pixel(self) -> float:
        """Width of a pixel on the image plane at distance 1."""
        return 2 * self.tangent / self.height

    @property
    def floors(self) -> tuple[int, ...]:
        """Items shaded as planes: those with a texture or a reflection, or else all planes."""
        planes = tuple(k for k in self.opaque if self.items[k].type == PLANE)
        return tuple(k for k in planes if self.items[k].texture or self.items[k].reflectance > 0) or planes

    @property
    def solids(self) -> tuple[int, ...]:
        """All other opaque items, plain planes among them."""
        return tuple(k for k in self.opaque if k not in self.floors)

    @property
    def opaque(self) -> tuple[int, ...]:
        """Items that hide what is behind them."""
        return tuple(k for k, item in enumerate(self.items) if item.alpha >= OPAQUE)

    @property
    def glass(self) -> tuple[int, ...]:
        """Items that do not."""
        return tuple(k for k, item in enumerate(self.items) if item.alpha < OPAQUE)

    @property
    def casters(self) -> tuple[int, ...]:
        """Items that throw shadows: all but planes."""
        return tuple(k for k, item in enumerate(self.items) if item.type != PLANE)


def compile_scene(
    model: mujoco.MjModel,
    height: int,
    width: int,
    camera: int | str,
    samples: int,
    shadows: bool,
    reflections: bool,
    output: str = "rgb",
    *,
    distractors: str = "none",
    hide_floor: bool = False,
    turning: bool = False,
) -> Scene:
    """Reads `model` once. `turning`: the camera will turn, whatever the model says.

    Raises ValueError for a bad size, camera, sample count or output, and for what cannot be drawn.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    if height < 1 or width < 1:
        raise ValueError(f"the picture must have at least one pixel, got height {height} and width {width}")
    if samples not in SAMPLES:
        raise ValueError(f"samples must be one of {sorted(SAMPLES)}, got {samples}")
    index = camera_index(model, camera)
    tangent = float(np.tan(np.deg2rad(model.cam_fovy[index]) / 2))
    tendons, tendon_items = _tendons(model)
    items = _items(model) + tendon_items
    if hide_floor:
        items = tuple(item for item in items if not (item.type == PLANE and (item.texture or item.reflectance > 0)))
    planes = [k for k, item in enumerate(items) if item.type == PLANE]
    mirrors = [k for k in planes if items[k].reflectance > 0 and items[k].alpha >= OPAQUE]
    turning = turning or _turns(model, index)
    if turning:
        backdrop = sky.sky_cube(model, 2 * tangent / height)
    else:
        backdrop = sky.sky_image(model, _camera_rotation(model, index), height, width, tangent)
    return Scene(
        height=height,
        width=width,
        camera=index,
        tangent=tangent,
        samples=SAMPLES[samples],
        items=items,
        tendons=tendons,
        lights=_lights(model, shadows),
        mirror=mirrors[0] if mirrors and reflections else None,
        shadow_clip=float(model.stat.extent * model.vis.map.shadowclip),
        shadow_scale=float(model.vis.map.shadowscale),
        near=float(model.stat.extent * model.vis.map.znear),
        far=float(model.stat.extent * model.vis.map.zfar),
        backs=tuple(k for k in planes if _may_be_behind(model, index, items[k])),
        output=output,
        distractors=distractors,
        sky=backdrop.tobytes(),
        turning=turning,
    )


def camera_index(model: mujoco.MjModel, camera: int | str) -> int:
    """Row of `camera` (a row or a name) in the model. Raises ValueError if there is none, or if it is orthographic."""
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


def _turns(model: mujoco.MjModel, camera: int) -> bool:
    """Whether the camera's orientation can change: on a moving body, unless it only follows the position."""
    mode = mujoco.mjtCamLight(int(model.cam_mode[camera]))
    if mode in (mujoco.mjtCamLight.mjCAMLIGHT_TRACK, mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM):
        return False
    return mode != mujoco.mjtCamLight.mjCAMLIGHT_FIXED or bool(model.body_weldid[model.cam_bodyid[camera]])


def _may_be_behind(model: mujoco.MjModel, camera: int, plane: Item) -> bool:
    """Whether the camera can look at the plane from behind.

    It cannot where both stand still, and it starts in front; or where it follows what the plane, which does not move,
    holds up, at a distance in front.
    """
    data = _initial(model)
    normal = data.geom_xmat[plane.index].reshape(3, 3)[:, 2]
    height = normal @ (data.cam_xpos[camera] - data.geom_xpos[plane.index])
    still = plane.kind == "geom" and model.body_weldid[model.geom_bodyid[plane.index]] == 0
    if not still or height <= 0:
        return True
    mode, body = mujoco.mjtCamLight(int(model.cam_mode[camera])), model.cam_bodyid[camera]
    follows = {
        mujoco.mjtCamLight.mjCAMLIGHT_TRACK: model.cam_pos0,
        mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM: model.cam_poscom0,
    }
    if mode in follows:
        holds = model.geom_contype[plane.index] or model.geom_conaffinity[plane.index]
        return not (holds and normal @ follows[mode][camera] >= 0)
    return bool(model.body_weldid[body] != 0)


def _initial(model: mujoco.MjModel) -> mujoco.MjData:
    """Poses of the model's initial state."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    return data


def _camera_rotation(model: mujoco.MjModel, camera: int) -> np.ndarray:
    """float64[3,3], columns right, up, back: the camera's orientation in the model's initial pose."""
    return _initial(model).cam_xmat[camera].reshape(3, 3).copy()


def _items(model: mujoco.MjModel) -> tuple[Item, ...]:
    if model.nskin:
        raise ValueError(f"skin '{model.skin(0).name}' cannot be drawn: skins are not supported")
    if model.nflex:
        raise ValueError(f"flex '{model.flex(0).name}' cannot be drawn: flexes are not supported")
    items = []
    for kind, count in (("geom", model.ngeom), ("site", model.nsite)):
        column = {name: getattr(model, f"{kind}_{name}") for name in ("group", "matid", "rgba", "size", "type")}
        for k in range(count):
            material = _material(model, int(column["matid"][k]), column["rgba"][k])
            if column["group"][k] >= GROUPS or material["alpha"] == 0:
                continue
            if column["type"][k] not in DRAWABLE:
                name, what = getattr(model, kind)(k).name, mujoco.mjtGeom(int(column["type"][k])).name
                raise ValueError(f"{kind} {k} ('{name}') cannot be drawn: type {what} is not supported")
            bound = float(model.geom_rbound[k]) if kind == "geom" else float(np.linalg.norm(column["size"][k]))
            items.append(
                Item(
                    kind=kind,
                    index=k,
                    type=int(column["type"][k]),
                    size=_floats(column["size"][k]),
                    bound=bound,
                    **material,
                )
            )
    return tuple(items)


def _tendons(model: mujoco.MjModel) -> tuple[tuple[Tendon, ...], tuple[Item, ...]]:
    tendons, items = [], []
    for tendon, material, rgba in read_tendons(model, GROUPS):
        values = _material(model, material, rgba)
        if values["alpha"] == 0:
            continue
        tendons.append(tendon)
        items += [
            Item(
                kind="tendon",
                index=tendon.index,
                type=CAPSULE,
                size=(tendon.width, 0.0, 0.0),
                bound=tendon.width,
                **values,
            )
        ] * tendon.parts
    return tuple(tendons), tuple(items)


def _material(model: mujoco.MjModel, material: int, rgba: np.ndarray) -> dict[str, Any]:
    own = tuple(float(c) for c in rgba)
    if material < 0:
        plain = {"emission": 0.0, "specular": 0.5, "shininess": 0.5, "reflectance": 0.0, "texture": None}
        return {"colour": own[:3], "alpha": own[3], **plain}
    rgba = own if own != DEFAULT_RGBA else _floats(model.mat_rgba[material])
    values = {
        name: float(getattr(model, f"mat_{name}")[material])
        for name in ("emission", "specular", "shininess", "reflectance")
    }
    roles = (int(mujoco.mjtTextureRole.mjTEXROLE_RGB), int(mujoco.mjtTextureRole.mjTEXROLE_RGBA))
    index = max(int(model.mat_texid[material][role]) for role in roles)
    texture = read_texture(model, material, index) if index >= 0 else None
    return {"colour": rgba[:3], "alpha": rgba[3], "texture": texture, **values}


def _lights(model: mujoco.MjModel, shadows: bool) -> tuple[Light, ...]:
    zero = (0.0, 0.0, 0.0)
    head = model.vis.headlight
    lights = []
    if head.active:
        lights.append(
            Light(
                index=-1,
                directional=True,
                ambient=_floats(head.ambient),
                diffuse=_floats(head.diffuse),
                specular=_floats(head.specular),
                attenuation=(1.0, 0.0, 0.0),
                cutoff=180.0,
                exponent=0.0,
                shadow=False,
                mode=0,
                body=0,
                target=0,
                pose=(zero,) * 5,
            )
        )
    directional = int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
    supported = (int(mujoco.mjtLightType.mjLIGHT_SPOT), directional)
    for k in range(model.nlight):
        if not model.light_active[k] or int(model.light_type[k]) not in supported:
            continue
        lights.append(
            Light(
                index=k,
                directional=int(model.light_type[k]) == directional,
                ambient=_floats(model.light_ambient[k]),
                diffuse=_floats(model.light_diffuse[k]),
                specular=_floats(model.light_specular[k]),
                attenuation=_floats(model.light_attenuation[k]),
                cutoff=float(model.light_cutoff[k]),
                exponent=float(model.light_exponent[k]),
                shadow=bool(model.light_castshadow[k]) and shadows,
                mode=int(model.light_mode[k]),
                body=int(model.light_bodyid[k]),
                target=int(model.light_targetbodyid[k]),
                pose=tuple(
                    _floats(getattr(model, f"light_{name}")[k]) for name in ("pos", "dir", "pos0", "poscom0", "dir0")
                ),
            )
        )
    return tuple(lights)


def _floats(row: np.ndarray) -> Floats:
    return tuple(float(value) for value in row)
