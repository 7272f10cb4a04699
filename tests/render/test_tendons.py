"""Tendons around geoms and over pulleys, and which tendons hang or redden."""

from __future__ import annotations

import jax
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from covr_jax.render import Renderer
from covr_jax.render.poses import poses_of
from covr_jax.render.tendon import ARC, read_tendons, tendon_pose

WRAPPED = """<mujoco><asset><texture type="skybox" builtin="flat" rgb1=".3 .4 .5" width="8" height="8"/></asset>
<worldbody><light pos="0 -2 3" dir="0 .5 -1" castshadow="false"/>
  <geom name="drum" type="cylinder" size=".3 .2" euler="90 0 0" rgba=".3 .5 .8 1"/>
  <geom name="ball" type="sphere" size=".2" pos="1 0 .3" rgba=".8 .5 .3 1"/>
  <site name="a" pos="-.6 0 -.4" size=".02"/><site name="side" pos="0 0 .6" size=".02"/>
  <site name="up" pos="1 0 .8" size=".02"/>
  <body pos="0 0 -.8"><joint name="slide" type="slide" axis="1 0 0"/><geom size=".05"/>
    <site name="b" pos=".6 0 .4" size=".02"/><site name="c" pos=".3 0 .2" size=".02"/></body>
  <camera pos=".2 -3 .2" xyaxes="1 0 0 0 .05 1"/></worldbody>
<tendon><spatial name="rope" width=".03" rgba=".2 .8 .2 1"><site site="a"/><geom geom="drum" sidesite="side"/>
    <site site="b"/><geom geom="ball" sidesite="up"/><site site="up"/></spatial>
  <spatial name="halves" width=".02" rgba=".8 .2 .8 1"><site site="up"/><site site="a"/><pulley divisor="2"/>
    <site site="c"/><site site="side"/></spatial></tendon></mujoco>"""


def wrapped(position):
    model = mujoco.MjModel.from_xml_string(WRAPPED)
    data = mujoco.MjData(model)
    data.qpos[0] = position
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.slow
@pytest.mark.parametrize("position", [0.0, 1.5])
def test_wrapped_tendons_are_like_opengl(position, opengl, decibel):
    model, data = wrapped(position)
    image = np.asarray(Renderer(model)(data))
    without = mujoco.MjModel.from_xml_string(WRAPPED)
    without.tendon_rgba[:, 3] = 0.0
    assert decibel(image, opengl(model)(data)) >= 36.0 > decibel(Renderer(without)(data), opengl(model)(data))


def test_paths_are_mujocos():
    """The rope's length is MuJoCo's but for chords in place of arcs; a geom that it does not touch has no parts.

    The second tendon is two lines, from up to a and from c to side, with nothing between them.
    """
    model, data = wrapped(0.0)
    (rope, *_), (halves, *_) = read_tendons(model, 3)
    pose = tendon_pose(rope, data, np)
    assert rope.parts == 4 + 2 * ARC and halves.parts == 2
    assert 2 * pose.size[:, 1].sum() == pytest.approx(data.ten_length[0], rel=1e-3)
    drum = pose.centre[1 : 1 + ARC]
    angle = 2 * np.arctan2(0.255, 0.158) / ARC  # between its two points on the drum, see wrap_xpos
    np.testing.assert_allclose(np.linalg.norm(drum, axis=1), 0.3 * np.cos(angle / 2), rtol=1e-4)
    assert (drum[:, 2] > 0.15).all() and (pose.size[:, 0] == 0.03).all()
    ends = data.site_xpos[[model.site(name).id for name in ("up", "a", "c", "side")]]
    np.testing.assert_allclose(tendon_pose(halves, data, np).centre, [ends[:2].mean(0), ends[2:].mean(0)])
    model.geom_pos[0, 2] = -2.0  # the drum, out of the way
    mujoco.mj_forward(model, data)
    free = tendon_pose(rope, data, np)
    assert data.ten_wrapnum[0] == 5
    assert (free.size[1 : 1 + ARC] == 0).all() and (free.size[[1 + ARC, -1], 0] == 0.03).all()


def test_an_arc_of_more_than_half_a_turn():
    """Around a cylinder from below to below, over the side that the side site names, while it climbs."""
    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody><geom name="drum" type="cylinder" size=".3 .2"/>
      <site name="a" pos="-.2 -1 -.1"/><site name="side" pos="0 .6 0"/>
      <body><joint type="slide"/><geom size=".01"/><site name="b" pos=".2 -1 .1"/></body></worldbody>
      <tendon><spatial width=".01"><site site="a"/><geom geom="drum" sidesite="side"/><site site="b"/></spatial>
      </tendon></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    pose = tendon_pose(read_tendons(model, 3)[0][0], data, np)
    arc = pose.centre[1 : 1 + ARC]
    assert arc[:, 1].max() > 0.29 and data.wrap_xpos.reshape(-1, 3)[1, 1] < 0
    assert 2 * pose.size[:, 1].sum() == pytest.approx(data.ten_length[0], rel=5e-3)
    assert (np.diff(arc[:, 2]) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("position", [0.0, 1.5])
def test_mjx_and_mujoco_have_the_same_paths(position):
    model, data = wrapped(position)
    scene = Renderer(model).scene
    moved = mjx.make_data(model).replace(qpos=np.asarray(data.qpos, np.float32))
    poses = jax.jit(lambda d: poses_of(scene, mjx.forward(mjx.put_model(model), d)))(moved)
    for mine, theirs in zip(poses, poses_of(scene, data), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4)


def tendon(attributes="", extra="", parts='<site site="a"/><site site="b"/>'):
    model = mujoco.MjModel.from_xml_string(f"""<mujoco><worldbody><site name="a"/>
      <body pos="0 0 -.1"><freejoint/><geom size=".1"/><site name="b"/></body></worldbody>
      <tendon><spatial name="rope" {attributes}>{parts}</spatial></tendon>{extra}</mujoco>""")
    return read_tendons(model, 3)[0][0]


@pytest.mark.parametrize(
    ("attributes", "extra", "slack"),
    [
        ('range="0 .3"', "", 0.3),
        ('stiffness="1" springlength="0 .4"', "", 0.4),
        ('stiffness="1" springlength="0 .4" range="0 .3"', "", 0.4),
        ('range=".1 .3"', "", None),
        ('range="0 .3" damping="1"', "", None),
        ('range="0 .3" frictionloss="1"', "", None),
        ('range="0 .3"', '<actuator><motor tendon="rope"/></actuator>', None),
        ('range="0 .3"', '<option gravity="0 0 0"/>', None),
        ('range="0 .3"', '<option><flag gravity="disable"/></option>', None),
        ("", "", None),
    ],
)
def test_which_tendons_hang(attributes, extra, slack):
    assert tendon(attributes, extra).slack == slack


def test_which_tendons_redden():
    """As in MuJoCo: those of the default colour, without a material, towards the model's colour of constraints."""
    assert tendon('range="0 .3"').limit_colour == pytest.approx((0.9, 0.0, 0.0))
    assert tendon('range="0 .3"', '<visual><rgba constraint="0 1 0 1"/></visual>').limit_colour == (0.0, 1.0, 0.0)
    assert tendon('range="0 .3" rgba="1 1 0 1"').limit_colour is None
    assert tendon('range="0 .3" material="m"', '<asset><material name="m"/></asset>').limit_colour is None
    assert tendon().limit_colour is None
