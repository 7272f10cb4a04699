"""The renderer as a function: pure, batched, exported, the same for both kinds of data."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from covr_jax.render import Renderer
from covr_jax.render.renderer import _draw_batch


@pytest.fixture
def world(ball_world):
    """(renderer, MjData of 3 states, mjx.Data with leading axis 3)."""
    model, states = ball_world
    device_model = mjx.put_model(model)

    def place(qpos):
        return mjx.kinematics(device_model, mjx.make_data(device_model).replace(qpos=qpos))

    @jax.jit
    @jax.vmap
    def forward(qpos):
        data = place(qpos)
        return mjx.camlight(device_model, mjx.com_pos(device_model, data))

    batch = forward(jnp.stack([jnp.asarray(state.qpos, jnp.float32) for state in states]))
    return Renderer(model, 24, 32, samples=2), states, batch


def nearly_equal(picture, other):
    """The same up to one level of rounding, but for isolated pixels on a silhouette."""
    difference = np.abs(np.asarray(picture, int) - np.asarray(other, int)).max(-1)
    return (difference > 1).mean() < 0.003


def test_one_world(world):
    renderer, states, batch = world
    picture = renderer(states[0])
    assert picture.shape == (24, 32, 3) and picture.dtype == jnp.uint8
    assert picture.std() > 10
    np.testing.assert_array_equal(picture, renderer(states[0]))
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    np.testing.assert_array_equal(jax.jit(renderer)(one), renderer(one))


def test_mjx_and_mujoco_data_give_the_same_picture(world):
    renderer, states, batch = world
    for k, state in enumerate(states):
        assert nearly_equal(renderer(jax.tree.map(lambda leaf, k=k: leaf[k], batch)), renderer(state))


def test_batch_is_a_loop_is_a_vmap(world):
    renderer, _, batch = world
    pictures = renderer.batch(batch)
    assert pictures.shape == (3, 24, 32, 3) and pictures.dtype == jnp.uint8
    loop = np.stack([renderer(jax.tree.map(lambda leaf, k=k: leaf[k], batch)) for k in range(3)])
    assert nearly_equal(pictures, loop)
    assert nearly_equal(jax.vmap(renderer)(batch), loop)
    assert not nearly_equal(pictures[0], pictures[2])  # the worlds differ


@pytest.mark.parametrize("method", ["__call__", "batch"])
def test_exports_for_all_platforms(world, method):
    renderer, _, batch = world
    data = batch if method == "batch" else jax.tree.map(lambda leaf: leaf[0], batch)
    exported = jax.export.export(jax.jit(getattr(renderer, method)), platforms=("cpu", "cuda", "tpu"))(data)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.out_avals[0].dtype == jnp.uint8


def test_compiles_once(world):
    renderer, states, _ = world
    renderer(states[0])
    before = _draw_batch._cache_size()
    renderer(states[1])
    assert _draw_batch._cache_size() == before


def test_samples_are_means_of_more_rays(ball_world):
    """More visibility samples only change pixels on edges, and bring the edge nearer to the truth."""
    model, states = ball_world
    pictures = {n: np.asarray(Renderer(model, 24, 32, samples=n)(states[0]), float) for n in (1, 2, 4)}
    large = np.asarray(Renderer(model, 192, 256, samples=1)(states[0]), float)
    truth = large.reshape(24, 8, 32, 8, 3).mean((1, 3))
    error = {samples: np.square(picture - truth).mean() for samples, picture in pictures.items()}
    assert error[4] < error[2] < error[1]
    assert (pictures[1] == pictures[4]).all(-1).mean() > 0.75


def test_shadow_takes_the_light_of_its_lamp(ball_world):
    model, states = ball_world
    with_shadow = np.asarray(Renderer(model, 48, 64, samples=1)(states[2]), int)
    model.light_castshadow[:] = 0
    without = np.asarray(Renderer(model, 48, 64, samples=1)(states[2]), int)
    np.testing.assert_array_equal(without, Renderer(model, 48, 64, samples=1, shadows=False)(states[2]))
    darker = (with_shadow < without - 20).all(-1)
    assert 5 < darker.sum() < 400


def test_first_reflective_plane_mirrors(make_zoo):
    model, data = make_zoo()
    renderers = (Renderer(model, 72, 96, "main", samples=1, reflections=on) for on in (True, False))
    on, off = (np.asarray(renderer(data), int) for renderer in renderers)
    assert 50 < (on > off + 2).any(-1).sum() < 2000
    assert (on >= off).all()  # a mirror image only adds light


def test_camera_by_row_or_by_name(make_zoo):
    model, _ = make_zoo()
    scenes = {camera: Renderer(model, 12, 16, camera).scene for camera in ("main", "rider", 0, 1)}
    row = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "main")
    assert scenes[row] == scenes["main"] and scenes[1 - row] == scenes["rider"] != scenes["main"]
    assert scenes["rider"].turning and not scenes["main"].turning
