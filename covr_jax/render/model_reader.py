"""Reads an MjModel into a `Scene`. NumPy only, no device work."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from dataclasses import replace
from typing import Any

import mujoco
import numpy as np

from covr_jax.render import sky
from covr_jax.render.camera import (
    Camera,
    CameraSetup,
    can_turn,
    initial_data,
    initial_rotation,
    may_see_back,
    read_camera,
)
from covr_jax.render.poses import poses_of
from covr_jax.render.scene import (
    CAPSULE,
    DRAWABLE,
    OPAQUE,
    OUTPUTS,
    PLANE,
    SAMPLES,
    TOGETHER,
    Haze,
    Item,
    Light,
    Scene,
)
from covr_jax.render.tendon import Tendon, read_tendons
from covr_jax.render.texture import read_texture
from covr_jax.render.vector import Floats

GROUPS = 3  # groups 0, 1 and 2 are drawn by default
DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)  # a geom with this colour shows its material's colour


def compile_scene(
    model: mujoco.MjModel,
    height: int,
    width: int,
    camera: Camera,
    samples: int,
    shadows: bool,
    reflections: bool,
    output: str = "rgb",
    *,
    distractors: str = "none",
    hide_floor: bool = False,
    turning: bool = False,
) -> Scene:
    """Reads everything static about an image from `model`.

    Args:
      model: the model.
      height: image height in pixels.
      width: image width in pixels.
      camera: index or name of a camera, -1 for the model's free camera, or a free camera.
      samples: visibility samples per pixel, a key of SAMPLES.
      shadows: whether lights with `castshadow` cast shadows.
      reflections: whether the first reflective plane mirrors the scene.
      output: one of OUTPUTS.
      distractors: a name of `distract.DISTRACTORS`.
      hide_floor: whether to leave out textured and reflective planes.
      turning: whether the camera will turn even if it cannot in the model.

    Raises:
      ValueError: a bad size, camera, sample count or output, or something in the model that cannot be drawn.
    """
    _check_options(height, width, samples, output)
    setup = read_camera(model, camera, height, width)
    items, tendons = _read_items(model, hide_floor)
    turning = turning or can_turn(model, setup)
    scene = Scene(
        height=height,
        width=width,
        camera=setup.index,
        free=setup.free,
        lens=setup.lens,
        samples=SAMPLES[samples],
        items=items,
        tendons=tendons,
        lights=_read_lights(model, shadows),
        mirror=_read_mirror(items) if reflections else None,
        shadow_clip=float(model.stat.extent * model.vis.map.shadowclip),
        shadow_scale=float(model.vis.map.shadowscale),
        near=float(model.stat.extent * model.vis.map.znear),
        far=float(model.stat.extent * model.vis.map.zfar),
        backfaces=tuple(k for k, item in enumerate(items) if item.type == PLANE and may_see_back(model, setup, item)),
        output=output,
        distractors=distractors,
        haze=_read_haze(model, items),
        sky=_read_sky(model, setup, height, width, turning),
        turning=turning,
    )
    return replace(scene, coincident=_read_coincident(model, scene))


def _read_coincident(model: mujoco.MjModel, scene: Scene) -> tuple[tuple[int, int], ...]:
    """Pairs of solids that coincide in the model's initial state, where a light casts shadows."""
    if not any(light.shadow for light in scene.lights):
        return ()
    poses = poses_of(scene, initial_data(model))
    sizes = np.array([item.size for item in scene.items], np.float32).reshape(-1, 3)
    sizes[len(sizes) - len(poses.tendon_size) :, :2] = poses.tendon_size
    kinds = np.array([item.type for item in scene.items])[:, None]
    values = np.concatenate([kinds, sizes, poses.item_position, poses.item_rotation.reshape(-1, 9)], 1)
    lengths = np.where([item.kind == "tendon" for item in scene.items], sizes[:, 1], sizes[:, 0])
    there = np.array([k for k in scene.solids if scene.items[k].type != PLANE and lengths[k] > TOGETHER], int)
    pairs = []
    for place, first in enumerate(there):
        later = there[place + 1 :]
        same = np.abs(values[later] - values[first]).max(1) < TOGETHER
        pairs += [(int(first), int(last)) for last in later[same]]
    return tuple(pairs)


def _read_sky(model: mujoco.MjModel, camera: CameraSetup, height: int, width: int, turning: bool) -> bytes:
    """The skybox as `Scene.sky` holds it: an image, or a cube if the camera can turn."""
    if turning:
        return sky.sky_cube(model, camera.lens).tobytes()
    return sky.sky_image(model, initial_rotation(model, camera), height, width, camera.lens).tobytes()


def _read_haze(model: mujoco.MjModel, items: tuple[Item, ...]) -> Haze | None:
    """The haze over the first infinite plane, if there is one, and a skybox."""
    infinite = [k for k, item in enumerate(items) if item.type == PLANE and item.size[:2] == (0.0, 0.0)]
    if not infinite or not sky.has_skybox(model):
        return None
    return Haze(
        item=infinite[0],
        colour=_floats(model.vis.rgba.haze[:3]),
        ring=float(model.vis.map.haze),
        reach=sky.REACH * float(model.stat.extent * model.vis.map.zfar),
        pieces=int(model.vis.quality.numslices),
    )


def _is_floor(item: Item) -> bool:
    return bool(item.type == PLANE and (item.texture or item.reflectance > 0))


def _check_options(height: int, width: int, samples: int, output: str) -> None:
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    if height < 1 or width < 1:
        raise ValueError(f"the image must have at least one pixel, got height {height} and width {width}")
    if samples not in SAMPLES:
        raise ValueError(f"samples must be one of {sorted(SAMPLES)}, got {samples}")


def _read_items(model: mujoco.MjModel, hide_floor: bool) -> tuple[tuple[Item, ...], tuple[Tendon, ...]]:
    """All items, and the tendons, whose items are the last."""
    tendons, tendon_items = _read_tendons(model)
    shapes = tuple(item for item in _read_shapes(model) if not (hide_floor and _is_floor(item)))
    return shapes + tendon_items, tendons


def _read_mirror(items: tuple[Item, ...]) -> int | None:
    """The first plane that reflects."""
    planes = (k for k, item in enumerate(items) if item.type == PLANE)
    return next((k for k in planes if items[k].reflectance > 0 and items[k].alpha >= OPAQUE), None)


def _read_shapes(model: mujoco.MjModel) -> tuple[Item, ...]:
    """Items of the visible geoms and sites."""
    if model.nskin:
        raise ValueError(f"skin '{model.skin(0).name}' cannot be drawn: skins are not supported")
    if model.nflex:
        raise ValueError(f"flex '{model.flex(0).name}' cannot be drawn: flexes are not supported")
    items = []
    for kind, count in (("geom", model.ngeom), ("site", model.nsite)):
        column = {name: getattr(model, f"{kind}_{name}") for name in ("group", "matid", "rgba", "size", "type")}
        for k in range(count):
            material = _read_material(model, int(column["matid"][k]), column["rgba"][k])
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


def _read_tendons(model: mujoco.MjModel) -> tuple[tuple[Tendon, ...], tuple[Item, ...]]:
    """The visible tendons and their capsules."""
    tendons, items = [], []
    for tendon, material, rgba in read_tendons(model, GROUPS):
        values = _read_material(model, material, rgba)
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


def _read_material(model: mujoco.MjModel, material: int, rgba: np.ndarray) -> dict[str, Any]:
    """Fields of `Item` that a material (-1: none) and the item's own rgba determine."""
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


def _read_lights(model: mujoco.MjModel, shadows: bool) -> tuple[Light, ...]:
    """The headlight and the active lights of the types that MuJoCo's OpenGL draws."""
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
                pose=((0.0, 0.0, 0.0),) * 5,
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
