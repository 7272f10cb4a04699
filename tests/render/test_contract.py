"""Three renderers, one contract: calls, shapes, batching and poses mean the same for all."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from covr_jax.render import RENDERERS, HostRenderer, RendererError, make_renderer

# A ball and a lamp of its own, both afloat, over a lit floor. Two cameras.
XML = """<mujoco><worldbody><light pos="0 0 3" dir="0 0 -1" diffuse=".3 .3 .3"/>
  <geom type="plane" size="1 1 .5" rgba=".5 .6 .7 1"/>
  <body name="ball"><freejoint/><geom name="ball" type="sphere" size=".15" rgba=".9 .4 .2 1"/></body>
  <body name="lamp"><freejoint/><geom type="box" size=".03 .03 .03"/>
    <light mode="track" pos="0 0 .2" dir="0 0 -1" cutoff="30" exponent="1"/></body>
  <camera name="eye" pos="0 -2 1" xyaxes="1 0 0 0 .45 1"/><camera name="above" pos="0 0 3"/></worldbody></mujoco>"""
BALLS = ((-0.25, 0.0, 0.25), (0.0, 0.25, 0.5), (0.5, 0.0, 0.25))
LAMPS = ((0.0, 0.0, 1.0), (0.5, 0.0, 1.0), (-0.5, 0.25, 1.0))
HEIGHT, WIDTH, NUM_ENVS = 24, 32, 3
FLOOR = {"jax": 40.0, "warp": 20.5, "gl": np.inf}  # dB from OpenGL's image, each env; without the lamp: 16


class Case(NamedTuple):
    name: str
    renderer: Any
    draw: Any  # renderer.batch, compiled
    batch: mjx.Data  # of NUM_ENVS envs
    images: np.ndarray  # of them


@cache
def contract_case():
    """(model, MjData of each env, mjx.Data with leading axis NUM_ENVS)."""
    model = mujoco.MjModel.from_xml_string(XML)
    states = [state(model, ball, lamp) for ball, lamp in zip(BALLS, LAMPS, strict=True)]
    return model, states, stacked(model, states)


def state(model, ball, lamp):
    """MjData with the ball and the lamp there."""
    data = mujoco.MjData(model)
    data.qpos[:3], data.qpos[7:10] = ball, lamp
    mujoco.mj_forward(model, data)
    return data


def stacked(model, states):
    """mjx.Data with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(mjx.put_data(model, data) for data in states))


def made(name, *args, **options):
    """The renderer, or the reason why this machine cannot have it."""
    try:
        return make_renderer(name, *args, **options)
    except RendererError as error:
        if "not installed" in str(error) or "no off-screen OpenGL" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module", params=RENDERERS)
def case(request):
    model, _, batch = contract_case()
    renderer = made(request.param, model, HEIGHT, WIDTH, "eye", samples=4, num_envs=NUM_ENVS)
    draw = jax.jit(renderer.batch)
    return Case(request.param, renderer, draw, batch, np.asarray(draw(batch)))


@pytest.fixture(scope="module")
def golden():
    model, states, _ = contract_case()
    try:
        host = HostRenderer(model, HEIGHT, WIDTH, "eye")
    except RuntimeError as error:
        pytest.skip(str(error))
    images = np.stack([host(data) for data in states])
    host.close()
    return images


def one(batch, k):
    return jax.tree.map(lambda leaf: leaf[k], batch)


def agree(name, images, others):
    """Bit for bit; XLA, which compiles ours anew for each shape, may round once or tip a pixel on an edge."""
    if name == "jax":
        gap = np.abs(np.asarray(images, int) - np.asarray(others, int)).max(-1)
        assert (gap > 1).mean() < 0.003
    else:
        np.testing.assert_array_equal(images, others)


def test_a_batch_gives_a_uint8_image_per_env(case):
    assert case.images.shape == (NUM_ENVS, HEIGHT, WIDTH, 3) and case.images.dtype == np.uint8
    assert all(image.std() > 10 for image in case.images)
    for k in range(NUM_ENVS):
        others = np.abs(case.images[k].astype(int) - case.images[k - 1])
        assert (others.max(-1) > 20).mean() > 0.05  # every env has its own image


def test_equal_poses_give_equal_images(case):
    np.testing.assert_array_equal(case.draw(case.batch), case.images)


@pytest.mark.slow
def test_a_batch_is_a_loop_of_singles(case):
    single = jax.jit(case.renderer)
    images = np.stack([single(one(case.batch, k)) for k in range(NUM_ENVS)])
    assert images.dtype == np.uint8
    agree(case.name, images, case.images)


@pytest.mark.slow
def test_a_batch_is_a_vmap_of_singles(case):
    agree(case.name, jax.jit(jax.vmap(case.renderer))(case.batch), case.images)


@pytest.mark.slow
def test_inside_a_larger_program(case):
    """As environments draw: in a rolled loop whose poses change from step to step, none of them drawn late."""

    @jax.jit
    def program(batch):
        def step(batch, _):
            following = jax.tree.map(lambda leaf: jnp.roll(leaf, -1, axis=0), batch)
            return following, case.renderer.batch(batch)

        return jax.lax.scan(step, batch, None, length=2 * NUM_ENVS)[1]

    rolled = [np.roll(case.images, -k, axis=0) for k in range(2 * NUM_ENVS)]
    agree(case.name, program(case.batch), np.stack(rolled))


@pytest.mark.slow
def test_mujoco_data_give_the_same_image(case):
    _, states, _ = contract_case()
    agree(case.name, case.renderer(states[1]), case.images[1])


def test_a_geom_is_drawn_where_the_data_have_it(case):
    """What a task moves by hand: the ball of each env at the position of the next env's ball."""
    model, _, _ = contract_case()
    row = model.geom("ball").id
    moved = np.roll(np.asarray(case.batch.geom_xpos[:, row]), -1, axis=0)
    batch = case.batch.replace(geom_xpos=case.batch.geom_xpos.at[:, row].set(moved))
    by_hand = np.asarray(case.draw(batch))
    there = [state(model, ball, lamp) for ball, lamp in zip(np.roll(BALLS, -1, axis=0), LAMPS, strict=True)]
    np.testing.assert_array_equal(by_hand, case.draw(stacked(model, there)))
    for image, before in zip(by_hand, case.images, strict=True):
        assert (np.abs(image.astype(int) - before).max(-1) > 20).mean() > 0.01


def test_distance_from_opengl(case, golden, decibel):
    for image, reference in zip(case.images, golden, strict=True):
        if np.isinf(FLOOR[case.name]):
            np.testing.assert_array_equal(image, reference)
        else:
            assert decibel(image, reference) >= FLOOR[case.name]


@pytest.mark.slow
def test_cameras_by_index_or_by_name_and_sizes(case):
    model, _, batch = contract_case()
    draw = [made(case.name, model, 20, 30, camera, num_envs=NUM_ENVS).batch for camera in ("above", 1, 0)]
    by_name, by_index, eye = (np.asarray(jax.jit(function)(batch)) for function in draw)
    assert by_name.shape == (NUM_ENVS, 20, 30, 3)
    np.testing.assert_array_equal(by_name, by_index)
    assert (np.abs(by_name.astype(int) - eye).max(-1) > 20).mean() > 0.1


@pytest.mark.parametrize("name", RENDERERS)
def test_unknown_cameras_and_samples_are_refused(name):
    model, _, _ = contract_case()
    for camera in ("ear", 2, -2):
        with pytest.raises(ValueError, match="camera"):
            made(name, model, camera=camera)
    with pytest.raises((ValueError, RendererError), match="samples"):
        made(name, model, samples=3)


def test_an_unknown_renderer_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown renderer 'vulkan'; choose from jax, warp, gl"):
        make_renderer("vulkan", contract_case()[0])


def test_calls_from_many_threads(case):
    """An OpenGL context belongs to one thread; JAX may call from any."""
    with ThreadPoolExecutor(4) as pool:
        for images in pool.map(lambda _: np.asarray(case.draw(case.batch)), range(8)):
            np.testing.assert_array_equal(images, case.images)
