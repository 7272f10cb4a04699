"""Reading a model: what is drawn, how it looks, and what is refused in one clear line."""

import pickle
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from covr_jax.render import HostRenderer, Renderer
from covr_jax.render.poses import poses_of
from covr_jax.render.scene import PLANE

BODY = '<mujoco>{asset}<worldbody><camera name="eye" pos="0 0 3"/>{geom}</worldbody>{tail}</mujoco>'
TETRAHEDRON = '<asset><mesh name="t" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>'
HILLS = '<asset><hfield name="h" nrow="3" ncol="3" size="1 1 1 .1"/></asset>'


def read(geom='<geom type="sphere" size=".1"/>', asset="", tail=""):
    return mujoco.MjModel.from_xml_string(BODY.format(geom=geom, asset=asset, tail=tail))


def test_meshes_are_refused_by_name():
    model = read('<geom name="rock" type="mesh" mesh="t"/>', TETRAHEDRON)
    with pytest.raises(ValueError, match=r"geom 0 \('rock'\) cannot be drawn: type mjGEOM_MESH"):
        Renderer(model)


def test_height_fields_are_refused_by_name():
    with pytest.raises(ValueError, match=r"geom 0 \('hills'\) cannot be drawn: type mjGEOM_HFIELD"):
        Renderer(read('<geom name="hills" type="hfield" hfield="h"/>', HILLS))


def test_invisible_meshes_are_ignored():
    geom = '<geom type="mesh" mesh="t" group="3"/><geom type="mesh" mesh="t" rgba="1 1 1 0"/>'
    assert Renderer(read(geom, TETRAHEDRON)).scene.items == ()


@pytest.mark.parametrize(
    "camera, message",
    [
        (1, r"camera 1 is out of range: the model has 1 camera\(s\), \['eye'\]"),
        (-2, "camera -2 is out of range"),
        ("ear", r"no camera named 'ear'; it has \['eye'\]"),
    ],
)
def test_cameras_that_do_not_exist(camera, message):
    with pytest.raises(ValueError, match=message):
        Renderer(read(), camera=camera)
    with pytest.raises(ValueError, match=message):
        HostRenderer(read(), camera=camera)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"samples": 3}, r"samples must be one of \[1, 2, 4\], got 3"),
        ({"height": 0}, "at least one pixel"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Renderer(read(), **options)


def test_materials_follow_mujoco(make_zoo):
    model, _ = make_zoo()
    scene = Renderer(model).scene
    floor, box, cylinder = scene.items[:3]
    assert floor.type == PLANE and scene.mirror == 0 and scene.floors == (0,)
    np.testing.assert_allclose(floor.texture.first, [25 / 255, 51 / 255, 76 / 255])
    np.testing.assert_allclose(floor.texture.second, [51 / 255, 76 / 255, 102 / 255])
    assert floor.texture.edge == 1
    np.testing.assert_allclose(box.colour, [0.8, 0.3, 0.2], rtol=1e-6)  # its own, without a material
    np.testing.assert_allclose(cylinder.colour, [0.2, 0.6, 0.3], rtol=1e-6)  # the material's: its own is the default
    assert cylinder.emission == pytest.approx(0.2)
    assert scene.items[-1].kind == "site"


def test_lights_that_opengl_ignores_are_ignored(make_zoo):
    model, _ = make_zoo(light='<light type="point" pos="0 0 4"/><light type="directional" active="false"/><light/>')
    assert [light.index for light in Renderer(model, 8, 8).scene.lights] == [-1, 2]


def test_images_that_are_no_checker_become_their_mean():
    asset = """<asset><texture name="g" type="2d" builtin="gradient" rgb1="1 0 0" rgb2="0 0 1" width="64" height="64"/>
      <material name="g" texture="g"/></asset>"""
    texture = Renderer(read('<geom type="plane" size="1 1 1" material="g"/>', asset)).scene.items[0].texture
    assert texture.first == texture.second and 0.1 < texture.first[0] < 0.9


@pytest.mark.parametrize("mode", ["fixed", "track", "trackcom", "targetbody", "targetbodycom"])
def test_light_poses_are_mujocos(mode):
    target = 'target="other"' if mode.startswith("target") else ""
    model = read(f"""<body name="one" pos="0 0 1" euler="10 20 30"><freejoint/><geom size=".1"/>
      <light mode="{mode}" {target} pos=".3 .2 1" dir=".1 .2 -1"/>
      <body pos=".4 0 0"><joint axis="0 1 0"/><geom size=".2"/></body></body>
      <body name="other" pos="1 1 0"><freejoint/><geom size=".1" pos=".2 0 0"/></body>""")
    data = mujoco.MjData(model)
    data.qpos[:] += np.linspace(-0.4, 0.5, model.nq)
    mujoco.mj_forward(model, data)
    poses = poses_of(Renderer(model, 8, 8).scene, data)
    np.testing.assert_allclose(poses.light_position, data.light_xpos, atol=1e-6)
    np.testing.assert_allclose(poses.light_direction, data.light_xdir, atol=1e-6)


def test_scene_is_hashable_and_survives_pickling(make_zoo):
    model, _ = make_zoo()
    renderer = Renderer(model, 16, 16)
    copy = pickle.loads(pickle.dumps(renderer))
    assert copy.scene == renderer.scene and hash(copy.scene) == hash(renderer.scene)
    assert Renderer(model, 16, 16, shadows=False).scene != renderer.scene


def test_building_a_renderer_wakes_no_device():
    code = f"""import mujoco
from covr_jax.render import Renderer
Renderer(mujoco.MjModel.from_xml_string('''{BODY.format(geom='<geom size=".1"/>', asset="", tail="")}'''))
from jax._src import xla_bridge
assert not xla_bridge._backends, "a device was woken"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
