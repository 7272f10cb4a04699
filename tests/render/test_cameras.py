"""Cameras besides those that are given by fovy: MuJoCo's free camera, and lenses with a sensor."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from covr_jax.render import FreeCamera, Renderer
from covr_jax.render.camera import read_camera

WORLD = """<mujoco><visual><headlight ambient=".4 .4 .4" diffuse=".8 .8 .8" specular=".1 .1 .1"/></visual><asset>
  <texture name="sky" type="skybox" builtin="gradient" rgb1=".4 .6 .8" rgb2="0 0 0" width="128" height="128"/>
  <texture name="grid" type="2d" builtin="checker" rgb1=".1 .2 .3" rgb2=".2 .3 .4" width="300" height="300"/>
  <material name="grid" texture="grid" texrepeat="1 1" texuniform="true" reflectance=".2"/></asset>
<worldbody><light pos="0 0 4" dir="0 0 -1" diffuse=".7 .7 .7"/>
  <geom type="plane" size="2 2 .2" material="grid"/>
  <geom type="box" size=".2 .3 .15" pos="-.6 .2 .4" euler="20 30 10" rgba=".8 .3 .2 1"/>
  <geom type="capsule" size=".1 .2" pos=".5 -.2 .4" euler="50 30 10" rgba=".8 .8 .2 1"/>
  <body pos="0 .5 .5"><freejoint/><geom type="ellipsoid" size=".3 .2 .1" rgba=".2 .3 .8 1"/></body>
  {camera}</worldbody></mujoco>"""
LENS = """<camera name="lens" pos="0 -3 1.6" xyaxes="1 0 0 0 .45 1" resolution="100 84" sensorsize="0.010 0.0084"
  focal="0.011 0.009" principal="0.001 -0.0007"/>"""


def world(camera=""):
    model = mujoco.MjModel.from_xml_string(WORLD.format(camera=camera))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize(
    ("camera", "xml", "shape"),
    [
        pytest.param(
            FreeCamera(lookat=(0.2, 0.1, 0.3), distance=2.5, azimuth=37.0, elevation=-20.0),
            "",
            (60, 90),
            marks=pytest.mark.slow,
        ),
        pytest.param("lens", LENS, (84, 100), marks=pytest.mark.slow),
    ],
    ids=["free", "lens"],
)
def test_like_opengl(opengl, decibel, camera, xml, shape):
    model, data = world(xml)
    image = np.asarray(Renderer(model, *shape, camera)(data))
    reference = opengl(model, *shape, camera)(data)
    assert image.shape == reference.shape == (*shape, 3)
    assert decibel(image, reference) >= 36.0


def test_the_default_free_camera_is_that_of_mujoco_renderer():
    """It stands 1.5 extents from the centre, to the south and 45 degrees above."""
    model, _ = world()
    setup = read_camera(model, -1, 84, 84)
    position, rotation = np.array(setup.free[0]), np.array(setup.free[1]).reshape(3, 3)
    offset = 1.5 * model.stat.extent * np.sqrt(0.5)
    np.testing.assert_allclose(position - model.stat.center, [0.0, -offset, offset], atol=1e-9)
    half = 0.5**0.5
    np.testing.assert_allclose(rotation, [[1, 0, 0], [0, half, -half], [0, half, half]], atol=1e-9)
    assert setup.lens.height == pytest.approx(2 * np.tan(np.deg2rad(22.5)) / 84)


def test_a_lens_with_a_sensor():
    """0.0084 m of 84 pixels in front of a focal length of 0.009 m; the principal point is beside the middle."""
    lens = read_camera(world(LENS)[0], "lens", 84, 100).lens
    assert lens.width == pytest.approx(1e-4 / 0.011, rel=1e-5) and lens.height == pytest.approx(1e-4 / 0.009, rel=1e-5)
    assert lens.x == pytest.approx(0.001 / 0.011, rel=1e-5) and lens.y == pytest.approx(0.0007 / 0.009, rel=1e-5)


RIDING = """<body pos="0 -2 2"><freejoint/><geom size=".01" rgba="0 0 0 0"/>
  <camera name="flat" projection="orthographic" fovy="2" euler="50 0 0"/></body>"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("camera", "xml", "shape"),
    [
        ("flat", RIDING, (84, 84)),  # a camera that turns
        (-1, "", (84, 84)),
    ],
    ids=["turning", "free"],
)
def test_orthographic_cameras_are_like_opengl(opengl, decibel, camera, xml, shape):
    """The free camera's extent is the model's fovy in metres."""
    model, data = world(xml)
    if camera == -1:
        model.vis.global_.orthographic, model.vis.global_.fovy = 1, 3.0
    image = np.asarray(Renderer(model, *shape, camera)(data))
    assert decibel(image, opengl(model, *shape, camera)(data)) >= 36.0


def test_orthographic_depth_is_along_the_axis():
    """A floor 3 m below a camera that looks down is 3 m away in every pixel; a box on it 2.5 m."""
    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody><geom type="plane" size="9 9 1"/>
      <geom type="box" size=".5 .5 .25" pos=".5 0 .25"/>
      <camera projection="orthographic" fovy="2" pos="0 0 3"/></worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    depth = np.asarray(Renderer(model, 8, 8, output="depth")(data))
    expected = np.full((8, 8), 3.0)
    expected[2:6, 4:] = 2.5  # x in 0..1, y in -0.5..0.5
    np.testing.assert_allclose(depth, expected, rtol=1e-5)
