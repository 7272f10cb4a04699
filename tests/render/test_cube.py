"""Cube textures on solids, against values known by construction and against OpenGL."""

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer
from covr_jax.render.cube import face_of, on_face
from covr_jax.render.solid_texture import cube_items, look_up_cube
from covr_jax.render.texture import Texture

SOLIDS = {
    "sphere": 'type="sphere" size=".5"',
    "box": 'type="box" size=".5 .3 .4"',
    "ellipsoid": 'type="ellipsoid" size=".6 .35 .45"',
    "capsule": 'type="capsule" size=".25 .4"',
    "cylinder": 'type="cylinder" size=".3 .4"',
}
WORLD = """<mujoco><visual><quality numslices="{slices}" numstacks="{slices}"/></visual><asset>
  <texture name="marked" type="cube" builtin="flat" mark="{mark}" markrgb="1 1 1" random=".01" rgb1=".8 .6 .4"
    rgb2=".8 .6 .4" width="127" height="762"/>
  <material name="marked" texture="marked" texuniform="{uniform}"/></asset>
  <worldbody><light pos="1 -2 2" dir="-1 2 -2" castshadow="false"/>{floor}
  <geom {solid} euler="20 -35 10" rgba=".8 .6 .4 {alpha}" material="marked"/>
  <camera name="eye" pos="0 -2 .3" xyaxes="1 0 0 0 .15 1"/></worldbody></mujoco>"""


def world(solid, uniform="true", mark="cross", alpha=1, floor="", slices=28):
    return WORLD.format(solid=SOLIDS[solid], uniform=uniform, mark=mark, alpha=alpha, floor=floor, slices=slices)


def drawn(opengl, text, size=84):
    """Our image and OpenGL's."""
    model = mujoco.MjModel.from_xml_string(text)
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return Renderer(model, size, size, samples=1)(data), opengl(model, size, size)(data)


def test_lookup_knows_faces_rows_and_columns():
    """Texel values are face, row and column; the table of the GL specification says where they are."""
    face, row, column = np.indices((6, 4, 4))
    texels = np.stack([40 * face, 60 * row, 60 * column], -1).astype(np.uint8)
    texture = Texture((0.5,) * 3, (0.5,) * 3, 4, 24, 0, (1.0, 1.0), True, b"", texels.tobytes())
    directions = [(2, 0, 0), (-3, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 2), (0, 0, -1)]
    along_columns = [(0, 0, -1), (0, 0, 1), (1, 0, 0), (1, 0, 0), (1, 0, 0), (-1, 0, 0)]
    along_rows = [(0, -1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (0, -1, 0), (0, -1, 0)]
    for k in range(6):
        out = np.array(directions[k]) / np.abs(directions[k]).max()
        place = tuple(jnp.float32(out + 0.75 * np.array(along_columns[k]) - 0.25 * np.array(along_rows[k])))
        assert int(face_of(place, np)) == k
        np.testing.assert_allclose(on_face(place, np.int64(k), np), [0.75, -0.25, 1.0], atol=1e-6)
        still = (tuple(jnp.zeros(3)),) * 2
        np.testing.assert_allclose(np.array(look_up_cube(texture, place, still)) * 255, [40 * k, 60, 180], atol=1e-3)
        far = (tuple(100 * jnp.float32(along_rows[k])),) * 2
        np.testing.assert_allclose(np.array(look_up_cube(texture, place, far)) * 255, [40 * k, 90, 90], atol=1e-3)


def test_only_solids_with_more_than_one_colour_pay():
    flat = world("box", mark="none").replace('random=".01"', "")
    plane = '<geom type="plane" size="1 1 1" material="marked"/>'
    for text, expected in ((flat, ()), (world("box"), (0,)), (world("box", floor=plane), (1,))):
        scene = Renderer(mujoco.MjModel.from_xml_string(text), 8, 8).scene
        assert cube_items(scene, tuple(range(len(scene.items)))) == expected


@pytest.mark.parametrize(
    "solid", [pytest.param(name, marks=[] if name == "sphere" else pytest.mark.slow) for name in SOLIDS]
)
def test_cube_texture_is_close_to_opengl(solid, opengl, decibel):
    assert decibel(*drawn(opengl, world(solid))) >= 40.5


@pytest.mark.slow
@pytest.mark.parametrize("solid", ["box", "capsule"])
def test_cube_texture_on_a_fine_mesh_is_the_same(solid, opengl, decibel):
    assert decibel(*drawn(opengl, world(solid, uniform="false", slices=200))) >= 47.0


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 1])
def test_transparent_and_mirrored_cube_texture_is_close_to_opengl(alpha, opengl, decibel):
    floor = '<geom type="plane" size="3 3 .5" pos="0 0 -.6" material="mirror"/>'
    text = world("capsule", alpha=alpha, floor=floor)
    text = text.replace("</asset>", '<material name="mirror" rgba=".2 .3 .4 1" reflectance=".6"/></asset>')
    assert decibel(*drawn(opengl, text)) >= 40.0
