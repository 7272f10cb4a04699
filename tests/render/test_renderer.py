"""The renderer as a pure function: repeated, compiled, exported; what samples, shadows and mirrors change."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from covr_jax.render import Renderer
from covr_jax.render.renderer import draw_batch


@pytest.fixture
def renderer_and_states(ball_world):
    """(renderer, MjData of 3 states, mjx.Data with leading axis 3)."""
    model, states = ball_world
    device_model = mjx.put_model(model)

    def kinematics(qpos):
        return mjx.kinematics(device_model, mjx.make_data(device_model).replace(qpos=qpos))

    @jax.jit
    @jax.vmap
    def forward(qpos):
        data = kinematics(qpos)
        return mjx.camlight(device_model, mjx.com_pos(device_model, data))

    batch = forward(jnp.stack([jnp.asarray(state.qpos, jnp.float32) for state in states]))
    return Renderer(model, 24, 32, samples=2), states, batch


@pytest.mark.slow
def test_one_env_gives_the_same_uint8_image_with_and_without_jit(renderer_and_states):
    renderer, states, batch = renderer_and_states
    image = renderer(states[0])
    assert image.shape == (24, 32, 3) and image.dtype == jnp.uint8
    assert image.std() > 10
    np.testing.assert_array_equal(image, renderer(states[0]))
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    np.testing.assert_array_equal(jax.jit(renderer)(one), renderer(one))


def test_exports_for_all_platforms(renderer_and_states):
    renderer, _, batch = renderer_and_states
    exported = jax.export.export(jax.jit(renderer.batch), platforms=("cpu", "cuda", "tpu"))(batch)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.out_avals[0].dtype == jnp.uint8


def test_another_state_does_not_compile_again(renderer_and_states):
    renderer, states, _ = renderer_and_states
    renderer(states[0])
    before = draw_batch._cache_size()
    renderer(states[1])
    assert draw_batch._cache_size() == before


@pytest.mark.slow
def test_more_samples_reduce_the_error_on_edges(ball_world):
    """More visibility samples only change pixels on edges, and bring the edge nearer to the truth."""
    model, states = ball_world
    images = {n: np.asarray(Renderer(model, 24, 32, samples=n)(states[0]), float) for n in (1, 2, 4)}
    large = np.asarray(Renderer(model, 192, 256, samples=1)(states[0]), float)
    truth = large.reshape(24, 8, 32, 8, 3).mean((1, 3))
    error = {samples: np.square(image - truth).mean() for samples, image in images.items()}
    assert error[4] < error[2] < error[1]
    assert (images[1] == images[4]).all(-1).mean() > 0.75


@pytest.mark.slow
def test_shadow_removes_the_light_of_its_source(ball_world):
    model, states = ball_world
    with_shadow = np.asarray(Renderer(model, 48, 64, samples=1)(states[2]), int)
    model.light_castshadow[:] = 0
    without = np.asarray(Renderer(model, 48, 64, samples=1)(states[2]), int)
    np.testing.assert_array_equal(without, Renderer(model, 48, 64, samples=1, shadows=False)(states[2]))
    darker = (with_shadow < without - 20).all(-1)
    assert 5 < darker.sum() < 400


@pytest.mark.slow
def test_first_reflective_plane_adds_a_mirror_image(make_zoo):
    model, data = make_zoo()
    renderers = (Renderer(model, 72, 96, "main", samples=1, reflections=on) for on in (True, False))
    on, off = (np.asarray(renderer(data), int) for renderer in renderers)
    assert 50 < (on > off + 2).any(-1).sum() < 2000
    assert (on >= off).all()  # a mirror image only adds light


def test_camera_by_index_or_by_name(make_zoo):
    model, _ = make_zoo()
    scenes = {camera: Renderer(model, 12, 16, camera).scene for camera in ("main", "rider", 0, 1)}
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "main")
    assert scenes[index] == scenes["main"] and scenes[1 - index] == scenes["rider"] != scenes["main"]
    assert scenes["rider"].turning and not scenes["main"].turning
