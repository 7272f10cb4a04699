"""Transparent items and backs of planes: MuJoCo's own image, and its rule worked out by hand."""

import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer

SCENE = """<mujoco><visual><headlight ambient=".4 .4 .4" diffuse=".8 .8 .8" specular=".1 .1 .1"/></visual><asset>
  <texture name="grid" type="2d" builtin="checker" rgb1=".1 .2 .3" rgb2=".2 .3 .4" width="300" height="300"/>
  <material name="grid" texture="grid" texrepeat="1 1" texuniform="true" reflectance=".4"/></asset>
<worldbody><light pos="0 0 4" dir="0 0 -1" diffuse=".7 .7 .7"/><geom type="plane" size="2 2 .2" material="grid"/>
  <geom type="sphere" size=".3" pos="-.4 0 .5" rgba=".9 .2 .2 .5"/>
  <geom type="sphere" size=".3" pos="0 .5 .6" rgba=".2 .9 .2 .4"/>
  <geom type="sphere" size=".2" pos=".5 0 .5" rgba=".2 .2 .9 1"/>
  <geom type="box" size=".2 .02 .2" pos=".4 -.7 .5" rgba=".9 .9 .2 .7"/>
  <camera name="front" pos="0 -3 1.6" xyaxes="1 0 0 0 .45 1"/>
  <camera name="below" pos="0 -2 -1" xyaxes="1 0 0 0 -.35 1"/></worldbody></mujoco>"""
# only ambient light, so that a colour is just a colour
PANES = """<mujoco><visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual><worldbody>
  <camera name="eye" pos="0 0 0" xyaxes="1 0 0 0 0 1"/>
  <geom type="box" size="9 .1 9" pos="0 5 0" rgba="0 0 1 1"/>
  <geom type="box" size="{pane} .1 {pane}" pos="0 3 0" rgba="0 1 0 .25"/>{near}</worldbody></mujoco>"""


def image_of(xml, camera, size=(96, 128), **options):
    model = mujoco.MjModel.from_xml_string(xml)
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data, np.asarray(Renderer(model, *size, camera, samples=1, **options)(data))


@pytest.mark.slow
@pytest.mark.parametrize("camera, threshold", [("front", 36.0), ("below", 41.0)])
def test_like_opengl(camera, threshold, opengl, decibel):
    model, data, image = image_of(SCENE, camera)
    assert decibel(image, opengl(model, 96, 128, camera)(data)) >= threshold


def test_one_pane_is_drawn_twice():
    _, _, image = image_of(PANES.format(near="", pane=3), "eye", (3, 3))
    np.testing.assert_allclose(image[1, 1], [0, 255 * (1 - 0.75**2), 255 * 0.75**2], atol=1)


@pytest.mark.parametrize("pane, order", [(0.5, "RGGR"), (3, "GRRG")])
def test_two_panes_front_to_back_and_back_again(pane, order, opengl):
    """In front is whose bounding ball comes nearer: the large pane's does, although it is further away."""
    near = '<geom type="box" size=".3 .1 .3" pos="0 1 0" rgba="1 0 0 .5"/>'
    model, data, image = image_of(PANES.format(near=near, pane=pane), "eye", (3, 3))
    colour = np.array([0.0, 0.0, 1.0])
    for name in order:
        alpha, drawn = {"R": (0.5, (1, 0, 0)), "G": (0.25, (0, 1, 0))}[name]
        colour = (1 - alpha) * colour + alpha * np.array(drawn)
    np.testing.assert_allclose(image[1, 1], 255 * colour, atol=1)
    np.testing.assert_allclose(image[1, 1], opengl(model, 3, 3, "eye")(data)[1, 1], atol=2)


def test_panes_behind_a_wall_are_hidden():
    wall = '<geom type="box" size="3 .1 3" pos="0 2 0" rgba="1 1 1 1"/>'
    _, _, image = image_of(PANES.format(near=wall, pane=3), "eye", (3, 3))
    np.testing.assert_array_equal(image[1, 1], [255, 255, 255])


def test_what_is_too_near_is_cut_away(opengl):
    near = '<geom type="sphere" size=".003" pos="0 .005 0" rgba="1 1 1 1"/>'
    model, data, image = image_of(PANES.format(near=near, pane=3), "eye", (9, 9))
    assert model.stat.extent * model.vis.map.znear > 0.005
    np.testing.assert_allclose(image[4, 4], opengl(model, 9, 9, "eye")(data)[4, 4], atol=1)
    assert image[4, 4, 0] == 0


def test_planes_that_a_camera_cannot_see_from_behind(make_zoo):
    model, _ = make_zoo()
    assert Renderer(model, 8, 8, "main").scene.backfaces == ()
    assert Renderer(model, 8, 8, "rider").scene.backfaces == (0,)  # it rides on a ball that may fall off the floor
    following = """<mujoco><worldbody><geom type="plane" size="1 1 1" {contact}/><body pos="0 0 1"><freejoint/>
      <geom size=".1"/><camera mode="trackcom" pos="0 -1 {height}"/></body></worldbody></mujoco>"""
    for height, contact, backs in ((0.5, "", ()), (-0.5, "", (0,)), (0.5, 'contype="0" conaffinity="0"', (0,))):
        model = mujoco.MjModel.from_xml_string(following.format(height=height, contact=contact))
        assert Renderer(model, 8, 8).scene.backfaces == backs


def test_shares_of_panes_are_samples(opengl):
    """A pane of half a pixel hides half of what it hides of a whole one."""
    edge = '<geom type="box" size="1 .1 3" pos="1 1 0" rgba="1 0 0 .5"/>'  # covers the right half of the middle
    model = mujoco.MjModel.from_xml_string(PANES.format(near=edge, pane=0.01))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    image = np.asarray(Renderer(model, 3, 3, "eye", samples=4)(data), float)
    np.testing.assert_allclose(image[0, 1, 0], 255 * 0.75 / 2, atol=1)
    np.testing.assert_allclose(image[0, 2, 0], 255 * 0.75, atol=1)
    np.testing.assert_allclose(image[0], opengl(model, 3, 3, "eye")(data)[0], atol=2)
