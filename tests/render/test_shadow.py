"""Shadows: of directional lights, whose position bounds MuJoCo's shadow map, and of transparent items around others."""

from itertools import product

import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer

SLOW = pytest.mark.slow
BALLS = """<mujoco><worldbody><light directional="true" pos="0 0 1" dir=".1 0 -1"/>
  <geom type="plane" size="3 3 .5" rgba=".8 .8 .8 1"/>
  <geom type="sphere" size=".2" pos="-.8 0 {low}"/><geom type="capsule" size=".1 .2" pos=".8 0 {high}"/>
  <camera name="eye" pos="0 -4 1.6" xyaxes="1 0 0 0 .4 1"/></worldbody></mujoco>"""


def drawn(low, high, **options):
    """The model, its data, and our image."""
    model = mujoco.MjModel.from_xml_string(BALLS.format(low=low, high=high))
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data, np.asarray(Renderer(model, 48, 64, samples=1, **options)(data), int)


@pytest.mark.slow
def test_only_what_is_before_a_directional_light_casts_a_shadow():
    _, _, image = drawn(0.5, 1.5)
    _, _, without = drawn(0.5, 1.5, shadows=False)
    darker = (image < without - 20).all(-1)
    assert darker[:, :32].sum() > 5 and not darker[:, 32:].any()


@pytest.mark.slow
@pytest.mark.parametrize(("low", "high"), [(0.5, 1.5), (1.05, 0.9)])
def test_directional_light_is_close_to_opengl(low, high, opengl, decibel):
    model, data, image = drawn(low, high)
    assert decibel(image, opengl(model, 48, 64)(data)) >= 40.0


SHELL = """<mujoco><worldbody><light {light} pos="0 0 2" dir="0 0 -1"/>
  <geom type="{kind}" size=".3 .3 .3" rgba=".2 .9 .2 .3"/><geom size=".15"/>
  <camera name="eye" pos="0 -2 1" xyaxes="1 0 0 0 .45 1"/></worldbody></mujoco>"""
FIRST_TIER = ("sphere", 'directional="true"')
CASES = product(("sphere", "cylinder", "box"), ('directional="true"', 'cutoff="80"'))


@pytest.mark.parametrize(("kind", "light"), [pytest.param(*c, marks=[] if c == FIRST_TIER else SLOW) for c in CASES])
def test_what_is_inside_of_something_transparent_is_in_its_shadow(kind, light, opengl, decibel):
    model = mujoco.MjModel.from_xml_string(SHELL.format(kind=kind, light=light))
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    image = np.asarray(Renderer(model, 24, 32, samples=1)(data))
    assert decibel(image, opengl(model, 24, 32)(data)) >= 40.0
