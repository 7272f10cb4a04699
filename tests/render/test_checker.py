"""Checker textures against a lookup texel by texel, and against OpenGL."""

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer
from covr_jax.render.checker import Axis, checker, count_levels, wave_words
from covr_jax.render.groups import pixel_order
from covr_jax.render.poses import Poses
from covr_jax.render.texture import halve
from covr_jax.render.view import view_of

FLOOR = """<mujoco><visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual><asset>
  <texture name="floor" type="2d" builtin="checker" rgb1="0 0 0" rgb2="1 1 1" width="{0}" height="{0}" {1}/>
  <material name="floor" texture="floor" texrepeat="40 40"/></asset>
  <worldbody><geom type="plane" size="40 40 40" material="floor"/>
  <camera name="eye" pos=".3 -3 1.5" xyaxes="1 .1 0 0 .35 1"/></worldbody></mujoco>"""
EDGE = 'mark="edge" markrgb="1 1 1"'


def image_of(width, height, edge):
    """f64[height,width] 1 in the cells of the first colour, 0 in the others and in the edge mark."""
    row, column = np.indices((height, width))
    image = (2 * row < height) == (2 * column < width)
    marked = np.minimum.reduce([row, column, height - 1 - row, width - 1 - column]) < edge
    return np.where(marked, 0.0, image)


def interpolate(image, x, y, wrap):
    """Bilinear lookup at texel coordinates, 0 at the centre of the first texel, pixel by pixel."""
    height, width = image.shape
    value = np.zeros(np.shape(x))
    for place in np.ndindex(value.shape):
        left, low = int(np.floor(x[place])), int(np.floor(y[place]))
        for column in (left, left + 1):
            for row in (low, low + 1):
                weight = (1 - abs(x[place] - column)) * (1 - abs(y[place] - row))
                inside = (
                    (row % height, column % width)
                    if wrap
                    else (np.clip(row, 0, height - 1), np.clip(column, 0, width - 1))
                )
                value[place] += weight * image[inside]
    return value


def trilinear(image, u, v, step):
    """GL's filter as the specification states it, with Mesa's mip levels."""
    levels = [image]
    while levels[-1].size > 1:
        height, width = levels[-1].shape
        down, across = max(height // 2, 1), max(width // 2, 1)
        row, column = np.indices((down, across)) + 0.5
        levels.append(interpolate(levels[-1], column * width / across - 0.5, row * height / down - 0.5, wrap=False))
    lod = np.clip(np.log2(step), 0, len(levels) - 1)
    values = [interpolate(one, u * one.shape[1] - 0.5, v * one.shape[0] - 0.5, wrap=True) for one in levels]
    return sum(np.maximum(0, 1 - abs(lod - k)) * value for k, value in enumerate(values))


@pytest.mark.parametrize(
    ("width", "height", "edge"), [(64, 64, 0), (100, 100, 0), (300, 300, 1), (37, 10, 1), (1, 1, 0)]
)
def test_checker_is_the_lookup_texel_by_texel(width, height, edge):
    random = np.random.default_rng(0)
    u, v = random.uniform(-3, 3, (2, 200))
    step = np.exp2(random.uniform(-2, 10, 200))
    levels = count_levels(width, height)
    tables = [np.zeros(5, np.uint32), *(wave_words(count, edge, levels) for count in (width, height))]
    starts = np.cumsum([len(table) for table in tables])
    axes = Axis(width, int(starts[0])), Axis(height, int(starts[1]))
    position = jnp.float32(u), jnp.float32(v)
    found = checker(np.concatenate(tables), axes, float(levels), position, jnp.float32(step**2))
    np.testing.assert_allclose(found, trilinear(image_of(width, height, edge), u, v, step), atol=1.2 / 255)


def test_half_of_an_odd_number_of_texels():
    np.testing.assert_allclose(halve(np.arange(4.0), 0), [0.5, 2.5])
    np.testing.assert_allclose(halve(np.arange(5.0), 0), [0.75, 3.25])
    np.testing.assert_allclose(halve(np.arange(3.0)[:, None], 0), [[1.0]])
    np.testing.assert_allclose(halve(np.array([[3.0]]), 1), [[3.0]])


@pytest.mark.parametrize("height", [8, 7])
def test_quads_are_counted_from_the_lower_left(height):
    model = mujoco.MjModel.from_xml_string(FLOOR.format(64, ""))
    scene = Renderer(model, height, 8).scene
    nothing = np.zeros((0, 3), np.float32)
    row, column = (part.reshape(-1) for part in pixel_order(height, 8))
    x = (column + 0.5) * scene.lens.width
    y = (height - 0.5 - row) * scene.lens.height
    eye, axes = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)
    poses = Poses(nothing, np.zeros((0, 3, 3)), eye, axes, np.zeros((0, 2)), np.zeros(0), nothing, nothing)
    view = view_of(scene, poses, None)
    middle = view.quad_middle(view.rays(x, y))
    real = np.arange(len(row)) % 16 // 4 == row % 4  # not a row that is repeated to fill a group
    np.testing.assert_allclose(middle.x[real], ((column // 2 * 2 + 1) * scene.lens.width)[real], rtol=1e-5)
    up = ((height - 1 - row) // 2 * 2 + 1) * scene.lens.height
    np.testing.assert_allclose(middle.y[real], up[real], rtol=1e-5)


CASES = [(100, "", 84), (300, EDGE, 84), (64, "", 83), (100, "", 256), (100, EDGE.replace("1 1 1", "1 0 0"), 84)]


@pytest.mark.parametrize(
    ("texels", "mark", "size"),
    [pytest.param(*case, marks=[] if case is CASES[0] else pytest.mark.slow) for case in CASES],
)
def test_black_and_white_floor_is_close_to_opengl(texels, mark, size, opengl, decibel):
    model = mujoco.MjModel.from_xml_string(FLOOR.format(texels, mark))
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert decibel(Renderer(model, size, size, samples=1)(data), opengl(model, size, size)(data)) >= 46.0
