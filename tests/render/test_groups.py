"""Groups of pixels: their order, the lists that a CPU works through, and what may be skipped."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer, groups, pipeline, plane, reflection, renderer, view
from covr_jax.render.poses import poses_of

NUM_ENVS = 3


@pytest.fixture
def accelerator(monkeypatch):
    """Switches to the code path of an accelerator: one tile, no lists."""

    def switch():
        for module in (groups, renderer, view):
            monkeypatch.setattr(module, "one_by_one", lambda: False)

    return switch


@pytest.mark.parametrize(("height", "width"), [(84, 84), (5, 7), (1, 1), (33, 130)])
def test_drawing_order_and_back(height, width):
    row, column = groups.pixel_order(height, width)
    assert row.shape[1] % groups.GROUP == 0
    np.testing.assert_array_equal(
        groups.to_image(row * width + column, height, width), np.arange(height * width).reshape(height, width)
    )


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.02, 0.3), (0.001, 1.0, 0.0)])
def test_every_pixel_that_needs_the_stage_gets_it(shares):
    generator, pixels = np.random.default_rng(0), 130 * groups.GROUP  # two whole chunks and a bit
    mask = jnp.asarray(generator.random((NUM_ENVS, pixels)) < np.array(shares)[:, None])
    data = jnp.asarray(generator.normal(size=(NUM_ENVS, 2, pixels)).astype(np.float32))
    shift = jnp.arange(pixels, dtype=jnp.float32)  # the same for all envs

    def apply(mask, data):
        return groups.masked_apply(mask, lambda a, b: 2 * a + b, (data, shift), jnp.full((2, pixels), -1.0))

    found = np.asarray(jax.jit(jax.vmap(apply, axis_name=view.ENV_AXIS))(mask, data))
    expected = np.where(mask[:, None], 2 * data + shift, -1.0)
    needed = np.repeat(np.asarray(mask).reshape(NUM_ENVS, -1, groups.GROUP).any(-1), groups.GROUP, axis=1)
    np.testing.assert_array_equal(
        found[np.broadcast_to(mask[:, None], found.shape)], expected[np.broadcast_to(mask[:, None], found.shape)]
    )
    assert (found[np.broadcast_to(~needed[:, None], found.shape)] == -1).all()


def image_of(model, data, **options):
    """uint8[2,H,W,3] of one state twice: compiled anew, as modules may have been changed."""
    scene = Renderer(model, 44, 52, **options).scene
    poses = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), poses_of(scene, data))
    return np.asarray(jax.jit(partial(renderer.draw_batch.__wrapped__, scene))(poses, None))


@pytest.mark.slow
def test_accelerator_path_draws_the_same_image(make_zoo, accelerator):
    """Up to a rounding here and there: other programs, the same formulas."""
    model, data = make_zoo()
    lists = image_of(model, data).astype(int)
    accelerator()
    difference = np.abs(image_of(model, data) - lists)
    assert (difference > 0).mean() < 1e-3 and difference.max() <= 2
    assert len(np.unique(lists)) > 100


@pytest.mark.slow
def test_culling_changes_no_image(make_zoo, monkeypatch):
    model, data = make_zoo()
    usual = image_of(model, data)
    everywhere = jnp.ones(groups.pixel_order(44, 52)[0].size // groups.GROUP, bool)
    monkeypatch.setattr(pipeline, "may_be_shadowed", lambda view, x, y: dict.fromkeys(view.scene.floors, everywhere))
    monkeypatch.setattr(
        pipeline, "may_be_visible", lambda view, rays, x, y: jnp.stack([everywhere] * len(view.scene.items))
    )
    monkeypatch.setattr(reflection, "may_intersect", lambda rays, x, y, centre, radius: jnp.ones(radius.shape, bool))
    everything = image_of(model, data)
    assert np.abs(usual.astype(int) - everything).max() <= 1 and (usual != everything).mean() < 1e-3


def test_shadows_are_traced_near_the_items_only(make_zoo):
    """A ball over the middle of a large floor, seen from above: its shadow lies inside, most of the floor is clear."""
    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody><light pos="0 0 4" dir="0 0 -1"/>
      <geom type="plane" size="3 3 .1"/><geom type="sphere" size=".3" pos="0 0 1"/>
      <camera pos="0 0 6" fovy="45"/></worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    scene = Renderer(model, 40, 40).scene
    env = view.view_of(scene, poses_of(scene, data), None)
    _, x, y = pipeline.pixel_grid(scene)
    shadowed = plane.may_be_shadowed(env, groups.by_group(x.reshape(-1)), groups.by_group(y.reshape(-1)))
    image = np.asarray(jnp.broadcast_to(shadowed[0][:, None], (len(shadowed[0]), groups.GROUP))).reshape(x.shape)
    image = np.asarray(groups.to_image(image, 40, 40))
    # the shadow has radius 4/3 x .3 = .4 m, and a pixel is 6 x 2 tan(22.5 deg) / 40 = .124 m: 3.2 pixels
    row, column = np.indices((40, 40)) - 19.5
    assert image[np.hypot(row, column) < 3.2].all()
    assert not image[np.hypot(row, column) > 16].any()


@pytest.mark.slow
def test_four_quads_are_lit_like_other_planes(monkeypatch):
    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody><light pos=".5 .2 2" dir="-.1 0 -1" exponent="3"/>
      <geom type="plane" size="2 2 10" rgba=".5 .6 .7 1"/><camera pos="0 -3 2" xyaxes="1 0 0 0 .6 1"/>
      </worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    usual = image_of(model, data)
    monkeypatch.setattr(plane, "is_coarse", lambda item: False)
    assert np.abs(usual.astype(int) - image_of(model, data)).max() <= 1
