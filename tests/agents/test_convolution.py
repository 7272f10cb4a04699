"""The CPU's convolution against one written out in NumPy, and the cases that XLA computes instead.

Whole numbers, small enough that no sum rounds: everything is compared exactly. B batch, H W image, C channels, K kernel
side, N filters.
"""

from __future__ import annotations

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents.networks import convolution
from covr_jax.agents.networks.convolution import GRADIENTS, GRADIENTS_WITH_X, convolve
from covr_jax.runtime import cpu_kernels

EXACT = jax.lax.Precision.HIGHEST
COMPILER = any(map(shutil.which, cpu_kernels._COMPILERS))


@pytest.fixture
def other_machine(monkeypatch):
    """Clears the record of compiled kernels before and after the test."""
    cpu_kernels._targets.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    cpu_kernels._targets.cache_clear()


def operands(shape, side, filters, stride, dtype, seed=0):
    """Returns x, kernel, bias and the gradient of the output."""
    generator = np.random.default_rng(seed)
    batch, height, width, channels = shape
    out = (batch, (height - side) // stride + 1, (width - side) // stride + 1, filters)
    ranges = ((0, 4, shape), (-2, 3, (side, side, channels, filters)), (-3, 4, (filters,)), (-2, 3, out))
    x, *rest = (generator.integers(low, high, size) for low, high, size in ranges)
    return x.astype(dtype), *(each.astype(np.float32) for each in rest)


def numpy_convolution(x, kernel, bias, gradient, stride):
    """Returns y and the gradients of x, kernel and bias, window by window in float64."""
    x, kernel, bias, gradient = (np.asarray(each, np.float64) for each in (x, kernel, bias, gradient))
    side, y = len(kernel), np.zeros(gradient.shape)
    of_x, of_kernel = np.zeros(x.shape), np.zeros(kernel.shape)

    def windows():
        for row in range(y.shape[1]):
            for column in range(y.shape[2]):
                top, left = row * stride, column * stride
                yield (slice(None), row, column), (slice(None), slice(top, top + side), slice(left, left + side))

    for here, window in windows():
        y[here] = np.maximum(np.tensordot(x[window], kernel, 3) + bias, 0)
    gradient = gradient * (y > 0)
    for here, window in windows():
        of_kernel += np.tensordot(x[window], gradient[here], (0, 0))
        of_x[window] += np.tensordot(gradient[here], kernel, (1, 3))
    return y, of_x, of_kernel, gradient.sum((0, 1, 2))


def values_and_gradients(x, kernel, bias, gradient, stride, argnums):
    whole = (x, kernel, bias)

    def of(*chosen):
        given = dict(zip(argnums, chosen, strict=True))
        return convolve(*(given.get(i, each) for i, each in enumerate(whole)), stride, EXACT)

    y, pullback = jax.vjp(of, *(whole[i] for i in argnums))
    return y, *pullback(gradient)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_a_compiler_is_enough():
    assert convolution.has_kernel()


SHAPES = [
    ((2, 9, 9, 9), 3, 32, 2, np.uint8),  # a first layer
    ((2, 9, 10, 3), 4, 32, 4, np.uint8),  # windows that do not overlap, pixels left over
    ((3, 6, 7, 32), 3, 32, 1, np.float32),  # a layer further in
    ((1, 5, 16, 64), 3, 96, 1, np.float32),  # several tiles of filters and of channels
    ((2, 7, 6, 5), 2, 64, 1, np.float32),  # channels that do not fill a tile
    ((2, 9, 9, 32), 3, 32, 2, np.float32),  # XLA computes the gradient of x
    ((131, 3, 4, 32), 1, 32, 1, np.float32),  # more images than parts; a kernel of one pixel
    ((1, 3, 30, 32), 3, 32, 1, np.float32),  # one row out
    ((2, 9, 19, 9), 3, 16, 2, np.uint8),  # half a tile of filters
    ((2, 6, 17, 48), 3, 80, 1, np.float32),  # one tile and two, and half of one
    ((66, 19, 20, 32), 3, 32, 1, np.float32),  # more images than parts, each of more 2x2 tiles than are done at once
    ((2, 3, 3, 16), 3, 16, 1, np.float32),  # one output: the 2x2 tile reaches over both edges
    ((2, 6, 6, 32), 2, 32, 1, np.float32),  # XLA computes the gradient of x
    ((2, 7, 8, 32), 3, 32, 1, np.uint8),  # bytes further in
]


@pytest.mark.parametrize(("shape", "side", "filters", "stride", "dtype"), SHAPES)
def test_values_and_gradients_are_those_of_numpy(shape, side, filters, stride, dtype):
    given = operands(shape, side, filters, stride, dtype)
    argnums = (1, 2) if dtype == np.uint8 else (0, 1, 2)
    y, of_x, of_kernel, of_bias = numpy_convolution(*given, stride)
    expected = (y, of_kernel, of_bias) if dtype == np.uint8 else (y, of_x, of_kernel, of_bias)
    assert 0.2 < (y > 0).mean() < 0.9
    got = jax.jit(lambda *given: values_and_gradients(*given, stride, argnums))(*given)
    for one, two in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.abs(two).max() < 2**24  # what float32 holds exactly


def test_rounding_is_as_small_as_that_of_plain_sums():
    generator = np.random.default_rng(0)
    sizes = ((4, 21, 21, 32), (3, 3, 32, 32), (32,), (4, 19, 19, 32))
    given = [generator.normal(size=size).astype(np.float32) for size in sizes]
    expected = numpy_convolution(*given, 1)

    def errors():
        y, of_x, of_kernel, of_bias = values_and_gradients(*given, 1, (0, 1, 2))
        whole = zip((y, of_x, of_kernel, of_bias), expected, strict=True)
        return np.array([np.sqrt(np.mean(np.square(one - two)) / np.mean(np.square(two))) for one, two in whole])

    ours = errors()
    with cpu_kernels.left_out():
        theirs = errors()
    assert (ours < 4e-7).all() and (ours < 2 * theirs + 1e-7).all(), (ours, theirs)


def test_nan_stays_nan():
    x, kernel, bias, _ = operands((2, 5, 5, 32), 3, 32, 1, np.float32)
    x[1, 2, 2, 0] = np.nan
    y = convolve(x, kernel, bias, 1, EXACT)
    assert np.isnan(y[1]).all() and not np.isnan(y[0]).any()


def test_seeds_can_be_vmapped():
    many = [operands((2, 6, 6, 32), 3, 32, 1, np.float32, seed) for seed in range(3)]
    stacked = map(np.stack, zip(*many, strict=True))
    together = jax.vmap(lambda *given: values_and_gradients(*given, 1, (0, 1, 2)))(*stacked)
    for seed, given in enumerate(many):
        for one, two in zip(together, numpy_convolution(*given, 1), strict=True):
            np.testing.assert_array_equal(one[seed], two)


def test_concurrent_calls_do_not_deadlock():
    """Each call occupies threads that others' work is queued on."""
    given = operands((64, 20, 20, 32), 3, 32, 1, np.float32)
    function = jax.jit(lambda *given: values_and_gradients(*given, 1, (0, 1, 2)))
    expected = [np.asarray(each) for each in function(*given)]
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: [np.asarray(each) for each in function(*given)], range(24), timeout=300):
            for one, two in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_an_unused_gradient_is_not_computed():
    x, kernel, bias, gradient = operands((2, 6, 6, 32), 3, 32, 1, np.float32)

    def program(argnums):
        function = jax.jit(lambda *given: values_and_gradients(*given, 1, argnums))
        return function.lower(x, kernel, bias, gradient).as_text()

    assert GRADIENTS_WITH_X in program((0, 1, 2)) and GRADIENTS_WITH_X not in program((1, 2))
    assert f"@{GRADIENTS}(" in program((1, 2))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_program_for_another_platform_has_the_convolution_of_xla(platform):
    given = operands((2, 6, 6, 32), 3, 32, 1, np.float32)
    exported = jax.export.export(
        jax.jit(lambda *given: values_and_gradients(*given, 1, (0, 1, 2))), platforms=[platform]
    )(*given)
    text = exported.mlir_module()
    assert "covr_convolution" not in text and text.count("stablehlo.convolution") == 3


@pytest.mark.parametrize(("filters", "dtype"), [(24, jnp.float32), (32, jnp.bfloat16), (32, jnp.float64)])
def test_other_widths_and_types_are_left_to_xla(filters, dtype):
    x, kernel, bias, _ = operands((2, 6, 6, 32), 3, filters, 1, np.float32)
    with jax.enable_x64(dtype == jnp.float64):
        given = [jnp.asarray(each, dtype) for each in (x, kernel, bias)]
        text = jax.jit(lambda *given: convolve(*given, 1, EXACT)).lower(*given).as_text()
    assert "covr_convolution" not in text and "stablehlo.convolution" in text


@pytest.mark.parametrize("shape", [(0, 6, 6, 32), (2, 2, 6, 32)])
def test_no_images_and_no_windows_give_nothing(shape):
    _, kernel, bias, _ = operands((1, 6, 6, 32), 3, 32, 1, np.float32)
    y, pullback = jax.vjp(lambda *given: convolve(*given, 1, EXACT), np.zeros(shape, np.float32), kernel, bias)
    assert y.size == 0 and all((np.asarray(each) == 0).all() for each in pullback(y))


# ------------------------------------------------------------------------------------------ without


def test_without_a_compiler_xla_computes_the_same_with_one_warning(other_machine):
    other_machine.setattr(shutil, "which", lambda name: None)
    given = operands((3, 6, 7, 32), 3, 32, 1, np.float32)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\); install one") as said:
        for _ in range(2):
            got = values_and_gradients(*given, 1, (0, 1, 2))
    assert len(said) == 1
    for one, two in zip(got, numpy_convolution(*given, 1), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_a_compiler_that_fails_is_quoted(other_machine, tmp_path):
    other_machine.setenv("HOME", str(tmp_path))
    broken = tmp_path / "broken.cc"
    broken.write_text("int main( {")
    with pytest.warns(UserWarning, match=r"broken.cc.*says: .*error: "):
        assert not cpu_kernels.targets(broken)
    assert not list(tmp_path.rglob("*.so"))


def test_kernels_can_be_switched_off(other_machine, recwarn):
    other_machine.setenv("COVR_JAX_NATIVE", "0")
    assert not convolution.has_kernel() and not recwarn.list


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_a_damaged_library_is_compiled_again(other_machine, tmp_path):
    other_machine.setenv("HOME", str(tmp_path))
    source = tmp_path / "small.cc"
    source.write_text('extern "C" int one() { return 1; }')
    path = cpu_kernels._built(source)
    whole = path.read_bytes()
    for damaged in (whole[:1000], b"", bytes([whole[0] ^ 1]) + whole[1:]):
        path.write_bytes(damaged)  # it is not loaded yet: cutting a library in use would end this process
        assert cpu_kernels._built(source) == path and path.read_bytes() == whole
    path.with_suffix(".sha256").unlink()
    assert cpu_kernels._built(source) == path
    assert ctypes.CDLL(str(path)).one() == 1


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_a_library_is_compiled_once(other_machine, tmp_path):
    other_machine.setenv("HOME", str(tmp_path))
    source = tmp_path / "small.cc"
    source.write_text('extern "C" int one() { return 1; }')
    first = cpu_kernels._built(source)
    assert first.is_relative_to(tmp_path) and first.stat().st_size and len(list(first.parent.iterdir())) == 2
    other_machine.setattr(cpu_kernels, "_tuning", lambda: pytest.fail("compiled again"))
    assert cpu_kernels._built(source) == first
    for changed, text in ((source, 'extern "C" int one() { return 2; }'), (tmp_path / "part.h", "// of a source")):
        before = changed.read_text() if changed.exists() else ""
        changed.write_text(text)
        with pytest.raises(pytest.fail.Exception):
            cpu_kernels._built(source)
        changed.write_text(before)
