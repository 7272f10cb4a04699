"""Image augmentations against NumPy slices. B batch, H W image, C channels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import augment, make_learner, make_method
from covr_jax.agents.methods.drq import margin_for, random_shifts
from covr_jax.agents.methods.rad import random_crop, random_translate
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.config import AugmentConfig, ConfigError, SACConfig


def random_images(seed, batch=5, size=6, channels=4):
    # No zeros, so that an image differs from the canvas everywhere.
    return np.random.default_rng(seed).integers(1, 256, (batch, size, size, channels), dtype=np.uint8)


def offset_in(canvas):
    """(row, column) of the first pixel that is not black."""
    lit = np.asarray(canvas).max(-1) > 0
    return int(lit.any(1).argmax()), int(lit.any(0).argmax())


def test_translate_puts_each_image_at_its_own_offset():
    images, offsets = random_images(0), np.array([[0, 0], [3, 1], [1, 3], [3, 3], [2, 0]])
    expected = np.zeros((5, 9, 9, 4), np.uint8)
    for image, canvas, (row, column) in zip(images, expected, offsets, strict=True):
        canvas[row : row + 6, column : column + 6] = image
    result = augment.translate(images, offsets, 9)
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(result, expected)


def test_crop_cuts_each_image_at_its_own_offset():
    images, offsets = random_images(1), np.array([[0, 0], [2, 1], [1, 2], [2, 2], [0, 2]])
    expected = [image[row : row + 4, column : column + 4] for image, (row, column) in zip(images, offsets, strict=True)]
    result = augment.crop(images, offsets, 4)
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(result, np.stack(expected))


def test_cropping_a_translated_image_gives_it_back():
    images = random_images(2)
    offsets = augment.random_offsets(jax.random.key(0), 5, 7)
    np.testing.assert_array_equal(augment.crop(augment.translate(images, offsets, 13), offsets, 6), images)


@pytest.mark.parametrize("margin", [0, 1, 8])
def test_offsets_are_uniform_from_zero_to_the_margin_inclusive(margin):
    draws = 20_000
    offsets = np.asarray(augment.random_offsets(jax.random.key(margin), draws, margin))
    assert offsets.shape == (draws, 2)
    cells = (margin + 1) ** 2
    counts = np.bincount(offsets[:, 0] * (margin + 1) + offsets[:, 1], minlength=cells)
    assert len(counts) == cells and counts.min() > 0
    chi2 = ((counts - draws / cells) ** 2 / (draws / cells)).sum()
    assert chi2 <= (cells - 1) + 5 * np.sqrt(2 * (cells - 1))  # rows and columns jointly: independent, too


def test_rad_translates_an_observation_and_its_successor_alike():
    observation, following = random_images(3, batch=64), random_images(4, batch=64)
    augmentation = random_translate(6, 10)
    (one,), (two,) = augmentation.augment(jax.random.key(1), observation, following)
    assert one.shape == two.shape == (64, 10, 10, 4)
    offsets = [offset_in(canvas) for canvas in one]
    assert offsets == [offset_in(canvas) for canvas in two]
    assert len(set(offsets)) > 10
    np.testing.assert_array_equal(augment.translate(observation, np.array(offsets), 10), one)
    np.testing.assert_array_equal(augment.translate(following, np.array(offsets), 10), two)


def test_rads_code_places_the_centre_of_an_image_and_explores_with_all_of_it():
    """8 pixels, of which the central 4 are placed on a canvas of 8; the same offset for the successor."""
    images = np.arange(1, 129, dtype=np.uint8).reshape(2, 8, 8, 1)
    augmentation = random_translate(8, 8, center_crop=4)
    expected = np.zeros_like(images)
    expected[:, 2:6, 2:6] = images[:, 2:6, 2:6]
    np.testing.assert_array_equal(augmentation.center(images), expected)
    np.testing.assert_array_equal(augmentation.explore(images), images)
    seen = set()
    for seed in range(40):
        (one,), (two,) = augmentation.augment(jax.random.key(seed), images, images[::-1])
        for row in range(2):
            corner = np.argwhere(np.asarray(one[row, ..., 0])).min(0)
            seen.add(tuple(corner.tolist()))
            placed = tuple(slice(start, start + 4) for start in corner)
            np.testing.assert_array_equal(one[row][placed], images[row, 2:6, 2:6])
            np.testing.assert_array_equal(two[row][placed], images[1 - row, 2:6, 2:6])
            assert (np.asarray(one[row]) > 0).sum() == 16
    assert {corner for pair in seen for corner in pair} == set(range(5))


def test_a_learner_explores_with_raw_images_and_is_evaluated_on_placed_ones():
    method = make_method("rad", AugmentConfig("translate", center_crop=8), 12, "translate")
    config = SACConfig(hidden_dim=8, feature_dim=4, num_filters=2, conv_kernels=(1,), conv_strides=(1,))
    learner = make_learner(1, 1e-3, method, config)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8))
    state, key = learner.init(jax.random.key(0), images[:1], jnp.zeros((1, 1))), jax.random.key(1)
    inside = images.at[:, 2:10, 2:10].set(0)  # what is left is the border, which placing cuts off
    black = jnp.zeros_like(images)
    np.testing.assert_array_equal(learner.act(state, inside), learner.act(state, black))
    assert (learner.act(state, inside, key) != learner.act(state, black, key)).all()


def test_rad_crops_an_observation_and_its_successor_independently():
    row, column = np.indices((6, 6)) + 1
    coordinates = np.stack([row, column], -1).astype(np.uint8)
    images = np.broadcast_to(coordinates, (400, 6, 6, 2))
    one, two = (np.asarray(x)[:, 0, 0] for (x,) in random_crop(6, 4).augment(jax.random.key(2), images, images))
    equal = (one == two).all(-1).mean()
    assert abs(equal - 1 / 9) < 5 * np.sqrt(1 / 9 * 8 / 9 / 400)


@pytest.mark.parametrize(("size", "canvas", "offset"), [(6, 10, 2), (6, 9, 1), (6, 6, 0), (100, 108, 4)])
def test_acting_puts_the_image_at_the_centre(size, canvas, offset):
    images = random_images(5, batch=2, size=size)
    result = np.asarray(random_translate(size, canvas).center(images))
    assert result.shape == (2, canvas, canvas, 4)
    np.testing.assert_array_equal(result[:, offset : offset + size, offset : offset + size], images)
    assert result.astype(int).sum() == images.astype(int).sum()


@pytest.mark.parametrize(("size", "window", "offset"), [(6, 4, 1), (6, 3, 1), (6, 6, 0), (100, 84, 8)])
def test_acting_cuts_the_window_from_the_centre(size, window, offset):
    images = random_images(6, batch=2, size=size)
    result = random_crop(size, window).center(images)
    np.testing.assert_array_equal(result, images[:, offset : offset + window, offset : offset + window])


def test_shift_repeats_the_border():
    images, offsets = random_images(10), np.array([[0, 0], [4, 1], [2, 2], [1, 4], [3, 0]])
    expected = np.empty_like(images)
    for image, out, (row, column) in zip(images, expected, offsets, strict=True):
        for r in range(6):
            for c in range(6):  # the pixel that many to the right and below, or the border's
                out[r, c] = image[np.clip(r + row - 2, 0, 5), np.clip(c + column - 2, 0, 5)]
    result = augment.shift(images, offsets, 2)
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(result[2], images[2])


def test_drq_shifts_every_copy_of_every_image_independently():
    row, column = np.indices((42, 42))
    images = np.broadcast_to(np.stack([row, column], -1).astype(np.uint8), (300, 42, 42, 2))
    views = random_shifts(42, copies=2).augment(jax.random.key(3), images, images)
    assert [len(part) for part in views] == [2, 2]
    moves = [np.asarray(view, int)[:, 20, 20] - 20 for part in views for view in part]
    for number, one in enumerate(moves):
        assert set(one.ravel().tolist()) == {-2, -1, 0, 1, 2}  # 4 pixels of 84
        for two in moves[:number]:
            assert abs((one == two).all(-1).mean() - 1 / 25) < 5 * np.sqrt(1 / 25 * 24 / 25 / 300)


@pytest.mark.parametrize(("size", "margin"), [(84, 4), (42, 2), (48, 2), (12, 1), (5, 1)])
def test_the_margin_is_the_published_share(size, margin):
    assert margin_for(size) == margin


def test_random_convolution_is_that_of_svea():
    """sigmoid(k * x) window by window: one kernel N(0, 1) per image, for all frames of its stack, border repeated."""
    images, key = random_images(11, batch=3, size=5, channels=6), jax.random.key(4)
    kernels = np.asarray(jax.random.normal(key, (3, 3, 3, 3, 3)), np.float64)  # image, row, column, colour, new colour
    exact = np.empty(images.shape)
    padded = np.pad(images / 255.0, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for number, row, column, frame in np.ndindex(3, 5, 5, 2):
        window = padded[number, row : row + 3, column : column + 3, 3 * frame : 3 * frame + 3]
        new = np.tensordot(window, kernels[number], 3)
        exact[number, row, column, 3 * frame : 3 * frame + 3] = 255 / (1 + np.exp(-new))
    result = augment.random_conv(key, images)
    assert result.dtype == jnp.uint8
    np.testing.assert_allclose(np.asarray(result, float), exact, rtol=0, atol=0.5 + 1e-3)  # rounded to bytes
    assert np.ptp(exact) > 100


def test_the_second_view_of_svea_is_the_first_one_convolved():
    method = make_method("svea", AugmentConfig(), 12, "translate")
    observation, following = random_images(12, size=12, channels=6), random_images(13, size=12, channels=6)
    (mild, strong), (after,) = method.augmentation.augment(jax.random.key(5), observation, following)
    np.testing.assert_array_equal(strong, augment.random_conv(jax.random.split(jax.random.key(5))[1], mild))
    for view, image in ((mild, observation), (after, following)):  # every value is one of the image's
        np.testing.assert_array_equal(np.sort(np.unique(view)), np.intersect1d(view, image))


def test_intensity_multiplies_each_image():
    images, strength = random_images(14), np.array([1.0, 0.5, 1.1, 0.9, 2.0], np.float32)
    result = augment.intensity(images, strength)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, images / 255 * strength[:, None, None, None], rtol=1e-6)


def test_no_augmentation_changes_nothing():
    observation, following = random_images(7), random_images(8)
    augmentation = no_augmentation()
    (one,), (two,) = augmentation.augment(jax.random.key(0), observation, following)
    for result, expected in ((one, observation), (two, following), (augmentation.center(observation), observation)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("task_default", "size", "image", "expected"),
    [("translate", None, 100, 108), ("crop", None, 100, 84), ("translate", 44, 40, 44), ("crop", 30, 40, 30)],
)
def test_sizes_of_the_methods(task_default, size, image, expected):
    augmentation = make_method("rad", AugmentConfig(size=size), image, task_default).augmentation
    assert augmentation.center(random_images(9, batch=1, size=image)).shape == (1, expected, expected, 4)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "rad",
            AugmentConfig(kind="translate", size=39),
            "translate needs augment.size >= env.image_size, got 39 < 40",
        ),
        ("rad", AugmentConfig(kind="crop", size=41), "crop needs 1 <= augment.size <= env.image_size"),
        ("rad", AugmentConfig(kind="none"), "rad without an augmentation is another method"),
        ("sac", AugmentConfig(kind="crop"), "sac uses no augmentation"),
        ("sac", AugmentConfig(size=12), "sac keeps the images' size; drop --augment.size 12"),
        ("drq", AugmentConfig(size=12), "drq keeps the images' size; drop --augment.size 12"),
        ("rainbow", AugmentConfig(), "unknown method 'rainbow'; choose from sac, rad"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(method, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_method(method, options, 40, "translate")
    assert "\n" not in str(caught.value)


def test_crop_to_nothing_is_refused():
    with pytest.raises(ValueError, match="crop needs"):
        random_crop(10, 0)


@pytest.mark.parametrize("augmentation", [random_translate(10, 12), random_crop(10, 8)])
@pytest.mark.parametrize("size", [8, 12])
def test_images_of_another_size_are_refused(augmentation, size):
    """Of larger ones the upper left corner would be taken for the whole."""
    images = np.zeros((2, size, size, 3), np.uint8)
    key = jax.random.key(0)
    for call in (
        lambda: augmentation.center(images),
        lambda: augmentation.random(key, images),
        lambda: augmentation.augment(key, images, images),
    ):
        with pytest.raises(ValueError, match=rf"^the method was made for images of 10 pixels, got \[{size}, {size}\]$"):
            call()
