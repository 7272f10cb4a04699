"""The torso against a convolution written out in NumPy. B batch, H W image, S stack, N filters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents.networks import make_networks

B, SIZE, S, N = 2, 7, 3, 4


def convolve(images, kernel, bias, stride):
    """VALID convolution and ReLU, window by window, in float64."""
    size = kernel.shape[0]
    side = (images.shape[1] - size) // stride + 1
    out = np.zeros((len(images), side, side, kernel.shape[-1]))
    for row in range(side):
        for column in range(side):
            window = images[:, row * stride : row * stride + size, column * stride : column * stride + size]
            out[:, row, column] = np.tensordot(window, kernel, 3) + bias
    return np.maximum(out, 0.0)


@pytest.mark.parametrize("basis", ["frames", "differences"])
@pytest.mark.parametrize("layers", [((3,), (1,)), ((2,), (2,)), ((3, 2), (2, 1)), ((2, 2), (2, 1))])
def test_a_torso_is_its_convolutions(basis, layers):
    kernels, strides = layers
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (B, SIZE, SIZE, 3 * S), dtype=np.uint8)
    torso = make_networks(
        1, num_filters=N, conv_kernels=kernels, conv_strides=strides, frame_basis=basis
    ).torso
    shapes = torso.init(jax.random.key(0), images)
    params = jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape), jnp.float32), shapes)
    seen = images / 255.0
    if basis == "differences":  # the changes between neighbours, counted double, and the newest frame
        old, middle, new = np.split(seen, S, axis=-1)
        seen = np.concatenate([2 * (middle - old), 2 * (new - middle), new], axis=-1)
    for index, stride in enumerate(strides):
        layer = {name: np.asarray(value, np.float64) for name, value in params[f"conv_{index}"].items()}
        seen = convolve(seen, layer["kernel"], layer["bias"], stride)
    np.testing.assert_allclose(torso.apply(params, images), seen.reshape(B, -1), rtol=1e-4, atol=1e-4)


def test_the_basis_changes_nothing_of_a_single_frame():
    image = np.random.default_rng(1).integers(0, 256, (B, SIZE, SIZE, 3), dtype=np.uint8)
    plain, changed = (
        make_networks(1, num_filters=N, conv_kernels=(3,), conv_strides=(2,), frame_basis=basis).torso
        for basis in ("frames", "differences")
    )
    params = plain.init(jax.random.key(2), image)
    np.testing.assert_array_equal(plain.apply(params, image), changed.apply(params, image))
