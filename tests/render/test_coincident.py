"""Surfaces that coincide: OpenGL adds up their light in the passes of lights with shadows."""

import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer

# only the light from above, without highlights, so that the colour of the top is the colour of the boxes
BOXES = """<mujoco><visual><headlight active="0"/></visual><worldbody>
  <light directional="true" pos="0 0 3" dir="0 0 -1" diffuse="1 1 1" specular="0 0 0" {shadow}/>
  <body><geom type="box" size=".5 .5 .1" rgba=".5 .1 0 1"/></body>
  <body><joint type="slide" axis="0 0 1"/><geom type="box" size=".5 .5 .1" rgba=".2 .3 0 1"/></body>
  <camera name="eye" pos="0 0 2"/></worldbody></mujoco>"""


@pytest.mark.parametrize(
    ("shadow", "height", "levels"),
    [
        ("", 0.0, (0.7, 0.4, 0)),
        pytest.param("", 0.01, (0.2, 0.3, 0), marks=pytest.mark.slow),
        pytest.param('castshadow="false"', 0.0, (0.2, 0.3, 0), marks=pytest.mark.slow),
    ],
)
def test_two_boxes_at_one_place(shadow, height, levels, opengl):
    model = mujoco.MjModel.from_xml_string(BOXES.format(shadow=shadow))
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    data.qpos[0] = height
    mujoco.mj_forward(model, data)
    image = np.asarray(Renderer(model, 8, 8, samples=1)(data))
    np.testing.assert_allclose(image[4, 4], 255 * np.array(levels), atol=1)
    np.testing.assert_allclose(image, opengl(model, 8, 8)(data), atol=2)
