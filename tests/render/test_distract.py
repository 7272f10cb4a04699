"""Each distractor changes what its name says, and nothing else."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from covr_jax import envs
from covr_jax.render import Renderer
from covr_jax.render.distract import DISTRACTORS, Appearance, move_camera

SIZE = (48, 64)


@pytest.fixture(scope="module")
def scene():
    """A red and a blue ball over a mirroring checker under a sky: model, data, which pixels show what."""
    model = mujoco.MjModel.from_xml_string("""<mujoco><asset>
      <texture type="skybox" builtin="gradient" rgb1=".4 .6 .8" rgb2="0 0 0" width="64" height="64"/>
      <texture name="grid" type="2d" builtin="checker" rgb1=".1 .2 .3" rgb2=".2 .3 .4" width="100" height="100"/>
      <material name="grid" texture="grid" texrepeat="1 1" texuniform="true" reflectance=".2"/></asset><worldbody>
      <light pos="0 0 3" castshadow="false"/><geom type="plane" size="2 2 .5" material="grid"/>
      <geom type="sphere" size=".3" pos="-.5 0 .6" rgba="1 0 0 1"/>
      <geom type="sphere" size=".2" pos=".5 0 .5" rgba="0 0 1 1"/><geom size=".1" pos="0 0 1" rgba="0 0 1 1"/>
      <camera name="eye" pos="0 -3 1" xyaxes="1 0 0 0 .3 1"/></worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    objects = np.asarray(Renderer(model, *SIZE, output="segmentation")(data))[..., 0]
    return model, data, objects


def drawn(scene, name, seed=0, time=0.0):
    model, data, _ = scene
    renderer = Renderer(model, *SIZE, samples=1, distractors=name)
    appearance = renderer.sample_appearance(jax.random.key(seed))
    if appearance is not None:
        appearance = appearance._replace(time=jnp.float32(time))
    return np.asarray(renderer(data, appearance), int), appearance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["background_easy", "camera_easy", "color_hard"])  # the others vary the same parts
def test_an_appearance_depends_on_its_key_only(scene, name):
    plain, _ = drawn(scene, "none")
    one, other = drawn(scene, name, 1)[0], drawn(scene, name, 2)[0]
    np.testing.assert_array_equal(one, drawn(scene, name, 1)[0])
    assert np.abs(one - other).mean() > 1 and np.abs(one - plain).mean() > 1


@pytest.mark.slow
def test_background_easy_leaves_the_items_unchanged(scene):
    plain, image = drawn(scene, "none")[0], drawn(scene, "background_easy")[0]
    np.testing.assert_array_equal((plain != image).any(-1) & (scene[2] >= 0), False)
    assert (plain != image).any(-1)[scene[2] < 0].mean() > 0.99


@pytest.mark.slow
def test_background_hard_replaces_the_floor_too(scene):
    plain, image = drawn(scene, "none")[0], drawn(scene, "background_hard")[0]
    np.testing.assert_array_equal(plain[scene[2] > 0], image[scene[2] > 0])
    assert (plain != image).any(-1)[scene[2] <= 0].mean() > 0.99


@pytest.mark.slow
def test_only_waves_move(scene):
    for name in DISTRACTORS:
        moved = np.abs(drawn(scene, name, 3, 0.0)[0] - drawn(scene, name, 3, 1.0)[0]).any(-1)
        expected = {"background_easy": scene[2] < 0, "background_hard": scene[2] <= 0}.get(name)
        if expected is None:
            assert not moved.any()
        else:
            assert moved[expected].mean() > 0.8 and not moved[~expected].any()


@pytest.mark.slow
def test_items_of_equal_colour_keep_equal_colours(scene):
    _, appearance = drawn(scene, "color_hard")
    floor, red, blue, small = np.asarray(appearance.colours)
    np.testing.assert_array_equal(floor, [1, 1, 1])  # its texture changes instead
    np.testing.assert_array_equal(blue, small)
    assert np.abs(blue - red).max() > 0.05
    amount = DISTRACTORS["color_hard"].items
    assert ((red - (1 - amount) * np.array([1, 0, 0])) >= 0).all()  # 0.8 of the way to a colour in 0..1
    assert ((red - (1 - amount) * np.array([1, 0, 0])) <= amount).all()


def test_colours_by_hand(scene):
    """Sky and texture move by their share towards the appearance's colours."""
    plain = drawn(scene, "none")[0]
    image, appearance = drawn(scene, "color_easy")
    sky = scene[2] < 0
    share = DISTRACTORS["color_easy"].sky
    expected = plain[sky] + share * (255 * np.asarray(appearance.sky) - plain[sky])
    np.testing.assert_allclose(image[sky], expected, atol=0.51)


def test_camera_moves_by_hand():
    appearance = appearance_of(turn=(0.0, 0.0, np.pi / 2), shift=(1.0, 2.0, 3.0))
    rotation = jnp.asarray([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # looks along +y: right x, up z, back -y
    position, turned = move_camera(appearance, jnp.asarray([5.0, 5.0, 5.0]), rotation)
    np.testing.assert_allclose(position, [6, 2, 7], atol=1e-6)
    np.testing.assert_allclose(turned, [[0, -1, 0], [0, 0, -1], [1, 0, 0]], atol=1e-6)  # a quarter turn of the image
    tilted = move_camera(appearance_of(turn=(0.3, -0.2, 0.1)), jnp.zeros(3), rotation)[1]
    np.testing.assert_allclose(tilted.T @ tilted, np.eye(3), atol=1e-6)


def appearance_of(turn=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0)):
    zero = jnp.zeros(3)
    return Appearance(zero, zero, zero, zero, zero, jnp.asarray(turn), jnp.asarray(shift), jnp.zeros(()))


@pytest.mark.slow
def test_environments_sample_an_appearance_per_episode_and_env():
    plain, env = (envs.make("pendulum_swingup", 2, image_size=16, distractors=name) for name in ("none", "color_hard"))
    state, timestep = env.reset(jax.random.key(0))
    start, first = plain.reset(jax.random.key(0))
    np.testing.assert_array_equal(state.qpos, start.qpos)  # physics draws the same numbers with and without
    assert np.abs(np.asarray(timestep.observation, int) - np.asarray(first.observation, int)).mean() > 5
    assert np.abs(state.look.sky[0] - state.look.sky[1]).max() > 0
    sky = np.asarray(state.look.sky)
    state = state.replace(step_type=jnp.asarray([2, 1], jnp.int32))  # env 0 has ended
    state, _ = env.step(state, jnp.zeros((2, 1)))
    assert np.abs(state.look.sky[0] - sky[0]).max() > 0
    np.testing.assert_array_equal(state.look.sky[1], sky[1])


def test_unknown_distractor_is_refused(scene):
    with pytest.raises(ValueError, match=r"distractors must be one of none, color_easy, .*, got 'rain'"):
        Renderer(scene[0], distractors="rain")
