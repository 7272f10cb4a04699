"""Networks: the torso against a convolution written out in NumPy, initialisation, precision.

B batch, H W image, S stack, N filters.
"""

from __future__ import annotations

import copy
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents.networks import delta_orthogonal, init_networks, make_networks
from covr_jax.agents.networks.convolution import bias_relu
from covr_jax.agents.networks.layers import orthogonal

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
@pytest.mark.parametrize("kernels_and_strides", [((3,), (1,)), ((2,), (2,)), ((3, 2), (2, 1)), ((2, 2), (2, 1))])
def test_a_torso_is_its_convolutions(basis, kernels_and_strides):
    kernels, strides = kernels_and_strides
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (B, SIZE, SIZE, 3 * S), dtype=np.uint8)
    torso = make_networks(1, num_filters=N, conv_kernels=kernels, conv_strides=strides, frame_basis=basis).torso
    shapes = torso.init(jax.random.key(0), images)
    params = jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape), jnp.float32), shapes)
    x = images / 255.0
    if basis == "differences":  # the changes between neighbours, counted double, and the newest frame
        old, middle, new = np.split(x, S, axis=-1)
        x = np.concatenate([2 * (middle - old), 2 * (new - middle), new], axis=-1)
    for index, stride in enumerate(strides):
        layer = {name: np.asarray(value, np.float64) for name, value in params[f"conv_{index}"].items()}
        x = convolve(x, layer["kernel"], layer["bias"], stride)
    np.testing.assert_allclose(torso.apply(params, images), x.reshape(B, -1), rtol=1e-4, atol=1e-4)


def test_the_basis_changes_nothing_of_a_single_frame():
    image = np.random.default_rng(1).integers(0, 256, (B, SIZE, SIZE, 3), dtype=np.uint8)
    plain, changed = (
        make_networks(1, num_filters=N, conv_kernels=(3,), conv_strides=(2,), frame_basis=basis).torso
        for basis in ("frames", "differences")
    )
    params = plain.init(jax.random.key(2), image)
    np.testing.assert_array_equal(plain.apply(params, image), changed.apply(params, image))


# --------------------------------------------------------------- initialisation


def test_a_batch_of_matrices_is_drawn_one_by_one():
    """Two factorisations of batches at the same time wait for each other's threads, and for ever on two cores."""
    keys, shape = jax.random.split(jax.random.key(0), 3), (12, 8)
    draw = orthogonal(2.0)
    jaxpr = str(jax.make_jaxpr(jax.vmap(lambda key: draw(key, shape)))(keys))
    assert re.findall(r"f32\[([0-9,]+)\] \w+:\S+ = qr\[", jaxpr) == ["12,8"]
    drawn = jax.jit(jax.vmap(lambda key: draw(key, shape)))(keys)
    for key, matrix in zip(keys, drawn, strict=True):
        np.testing.assert_array_equal(matrix, nn.initializers.orthogonal(2.0)(key, shape))
        np.testing.assert_allclose(matrix.T @ matrix, 4.0 * np.eye(8), atol=1e-5)


def test_delta_orthogonal_is_orthogonal_at_the_centre_and_zero_elsewhere():
    kernel = np.array(delta_orthogonal(jax.random.key(0), (3, 3, 9, 32)))
    centre = kernel[1, 1]
    np.testing.assert_allclose(centre @ centre.T, 2.0 * np.eye(9), atol=1e-5)  # the ReLU gain, squared
    kernel[1, 1] = 0.0
    assert (kernel == 0.0).all()
    square = np.asarray(delta_orthogonal(jax.random.key(1), (3, 3, 32, 32)))[1, 1]
    np.testing.assert_allclose(square.T @ square, 2.0 * np.eye(32), atol=1e-5)


def test_log_std_stays_in_its_range():
    networks = make_networks(2, num_filters=3, feature_dim=5, hidden_dim=8, log_std_range=(-10.0, 2.0))
    params = networks.actor.init(jax.random.key(0), jnp.zeros((1, 7)))
    features = np.random.default_rng(0).normal(size=(16, 7)).astype(np.float32)
    for bias, expected in ((100.0, 2.0), (-100.0, -10.0), (0.0, -4.0)):
        changed = copy.deepcopy(params)
        last = changed["head"]["Dense_2"]
        changed["head"]["Dense_2"] = {
            "kernel": last["kernel"] * (bias == 100.0),
            "bias": jnp.full_like(last["bias"], bias),
        }
        np.testing.assert_allclose(networks.actor.apply(changed, features)[1], expected, atol=1e-5)


# -------------------------------------------------------------------- precision


def forward(precision, seed=3):
    """Torso features, the policy's mean and log_std, and Q values of one set of weights and images."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (B, 16, 16, 3 * S), dtype=np.uint8)
    action = generator.uniform(-1, 1, (B, 2)).astype(np.float32)
    networks = make_networks(
        2, num_filters=8, conv_kernels=(4, 3), conv_strides=(4, 1), feature_dim=16, hidden_dim=64, precision=precision
    )
    params = init_networks(networks, jax.random.key(seed), images, action)
    features = networks.torso.apply(params["torso"], images)
    mean, log_std = networks.actor.apply(params["actor"], features)
    return params, [features, mean, log_std, networks.critic.apply(params["critic"], features, action)]


@pytest.mark.slow
def test_bfloat16_rounds_the_products_and_nothing_else():
    params, exact = forward("float32")
    same, rounded = forward("bfloat16")
    assert [x.dtype for x in rounded] == [jnp.bfloat16, jnp.float32, jnp.float32, jnp.float32]
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(one, two)
        assert two.dtype == jnp.float32
    for one, two in zip(exact, rounded, strict=True):
        gap = np.abs(np.asarray(one) - np.asarray(two, np.float32)).max() / np.abs(one).max()
        assert 1e-4 < gap < 0.03  # a product of bf16 numbers is off by up to 2^-8, and there are five in a row


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="CPUs multiply float32 exactly at any setting")
def test_each_convolution_has_channels_of_its_own():
    torso = make_networks(1, num_filters=(2, 5), conv_kernels=(3, 2), conv_strides=(2, 2)).torso
    images = jnp.zeros((1, 9, 9, 3), jnp.uint8)
    params = torso.init(jax.random.key(0), images)
    assert [params[f"conv_{i}"]["kernel"].shape for i in (0, 1)] == [(3, 3, 3, 2), (2, 2, 2, 5)]
    assert torso.apply(params, images).shape == (1, 2 * 2 * 5)


def test_on_cpu_tf32_is_float32():
    for one, two in zip(forward("float32")[1], forward("tf32")[1], strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_the_programs_ask_for_their_precision(precision):
    """In the program given to the compiler, which on GPUs decides between float32 and TF32."""
    networks = make_networks(1, num_filters=N, conv_kernels=(3, 2), conv_strides=(2, 2), precision=precision)
    images = jnp.zeros((B, SIZE, SIZE, 3), jnp.uint8)
    params = init_networks(networks, jax.random.key(0), images, jnp.zeros((B, 1)))

    def loss(params):
        features = networks.torso.apply(params["torso"], images)
        mean, _ = networks.actor.apply(params["actor"], features)
        return networks.critic.apply(params["critic"], features, mean).sum()

    lines = jax.jit(jax.grad(loss)).lower(params).as_text().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line or "stablehlo.convolution" in line]
    highest = [line for line in products if "HIGHEST" in line]
    assert len(products) > 15 and len(highest) == (len(products) if precision == "float32" else 0)


def test_a_rectified_sum_has_relus_gradient():
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.integers(-2, 3, (3, 4, 5, N)), jnp.float32)  # many sums are exactly zero
    bias, weight = jnp.asarray([0.0, 1.0, -1.0, 2.0]), jnp.asarray(generator.normal(size=x.shape), jnp.float32)
    ours, plain = (
        jax.value_and_grad(lambda x, b: (f(x, b) * weight).sum(), argnums=(0, 1))(x, bias)  # noqa: B023
        for f in (bias_relu, lambda x, b: jax.nn.relu(x + b[None, None, None]))
    )
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert (ours[1][0][x + bias == 0] == 0).all()
