"""Haze over infinite planes: MuJoCo's own image, and where its band lies, worked out by hand."""

import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer

WORLD = """<mujoco><visual><rgba haze="1 .2 .1 1"/><map zfar="20"/><quality numslices="64"/></visual>
<statistic extent="1"/><asset>{sky}</asset><worldbody>
  <geom type="plane" size="{size}" rgba=".2 .5 .2 1" pos="3 2 .5" euler="0 0 20"/>
  <geom type="sphere" size=".4" pos=".5 0 1.5" rgba=".2 .2 .9 1"/>
  <camera name="eye" pos="0 -3 {height}" xyaxes="1 0 0 0 {up} 1"/></worldbody></mujoco>"""
SKY = '<texture type="skybox" builtin="flat" rgb1=".3 .3 .8" width="8" height="8"/>'


def model_of(size="0 0 .5", sky=SKY, up=0.05, height=1.5):
    """A ball over an infinite plane under a blue sky that begins 14 m away."""
    return mujoco.MjModel.from_xml_string(WORLD.format(size=size, sky=sky, up=up, height=height))


def drawn(samples=1, **options):
    """The model, its data, and our image."""
    model = model_of(**options)
    model.vis.quality.offsamples = 0 if samples == 1 else samples
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data, np.asarray(Renderer(model, 48, 64, samples=samples)(data))


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 4])
def test_like_opengl(samples, opengl, decibel):
    model, data, image = drawn(samples)
    assert decibel(image, opengl(model, 48, 64)(data)) >= 50.0


@pytest.mark.slow
def test_like_opengl_from_behind_the_plane(opengl, decibel):
    """There is no haze."""
    model, data, image = drawn(up=-0.3, height=-1)
    assert decibel(image, opengl(model, 48, 64)(data)) >= 50.0


def test_it_is_full_where_the_plane_ends_and_fades_upwards_and_downwards():
    """The plane ends at 0.7 of the far distance, 14 m; seen from 1 m above it the sky begins there."""
    _, _, image = drawn(up=0)
    column = image[:, 2].astype(int)  # left of the sphere
    focus = 24 / np.tan(np.deg2rad(22.5))
    slope = (np.arange(48) + 0.5 - 24) / focus * np.cos(np.arctan(29.5 / focus))  # downwards, over the ground
    full = int(np.argmin(np.abs(slope - 1 / 14)))
    np.testing.assert_allclose(column[full], [255, 51, 26], atol=10)
    assert column[full, 0] == column[:, 0].max()
    near = slope > 1 / (14 * 0.7)
    assert column[:24, 2].min() == column[:24, 2].max() and near.any()  # over the horizon there is only sky
    np.testing.assert_array_equal(column[near][1:], np.broadcast_to(column[-1], column[near][1:].shape))


@pytest.mark.parametrize("options", [{"sky": ""}, {"size": "9 9 .5"}, {"size": "0 9 .5"}])
def test_only_infinite_planes_under_a_skybox_have_it(options):
    assert Renderer(model_of(**options), 8, 8).scene.haze is None
