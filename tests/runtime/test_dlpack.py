"""Each trap of crossing between JAX and Torch, measured again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from covr_jax.runtime.dlpack import to_jax, to_torch  # noqa: E402

DTYPES = ["uint8", "int8", "int32", "float16", "bfloat16", "float32", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_types_cross_both_ways(dtype):
    x = jnp.arange(-3, 9).reshape(3, 4).astype(dtype)
    there = to_torch(x)
    assert str(there.dtype) == f"torch.{dtype}" and tuple(there.shape) == (3, 4)
    back = to_jax(there)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(back.astype(jnp.float32)), np.asarray(x.astype(jnp.float32)))


def test_to_torch_lends_without_a_copy():
    x = jnp.arange(8.0)
    assert to_torch(x).data_ptr() == x.unsafe_buffer_pointer()


def test_to_torch_waits_for_the_value():
    slow = jax.jit(lambda a: jax.lax.fori_loop(0, 200, lambda _, b: jnp.tanh(b @ a), a))
    a = jnp.eye(200) * 0.5
    expected = np.asarray(slow(a))
    np.testing.assert_array_equal(to_torch(slow(a)).numpy(), expected)


def test_later_torch_writes_are_invisible_to_jax():
    source = torch.arange(8.0)
    x = to_jax(source)
    source.fill_(-1.0)
    np.testing.assert_array_equal(np.asarray(x), np.arange(8.0))
    assert x.unsafe_buffer_pointer() != source.data_ptr()


def test_memory_outlives_the_tensor():
    x = to_jax(torch.full((1000,), 3.0))
    junk = [torch.full((1000,), 7.0) for _ in range(50)]
    assert float(x.sum()) == 3000.0 and len(junk) == 50


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.complex128])
def test_types_that_jax_would_narrow_are_refused(dtype):
    with pytest.raises(TypeError, match="narrowed"):
        to_jax(torch.ones(3, dtype=dtype))


def test_gradients_are_cut():
    x = torch.ones(3, requires_grad=True)
    assert to_jax(x * 2).sum() == 6 and x.requires_grad


@pytest.mark.parametrize(
    "make",
    [lambda t: t[:, ::2], lambda t: t.t(), lambda t: t[0].expand(5, 6), lambda t: t[1:, 1:], lambda t: t[:0]],
)
def test_any_stride_arrives(make):
    t = make(torch.arange(24.0).reshape(4, 6))
    np.testing.assert_array_equal(np.asarray(to_jax(t)), t.numpy())


def test_lent_buffers_cannot_be_donated_until_the_view_is_dropped():
    step = jax.jit(lambda a: a + 1, donate_argnums=0)

    def pointer_kept(lend):
        x = jnp.ones((256, 256))
        pointer = x.unsafe_buffer_pointer()
        view = to_torch(x) if lend else None
        y = step(x)
        kept = y.unsafe_buffer_pointer() == pointer
        if view is not None:
            assert float(view.sum()) == 256 * 256  # the lender's data stay as they were
        return kept

    assert not pointer_kept(lend=True)
    assert pointer_kept(lend=False)
    x = jnp.ones((256, 256))
    pointer = x.unsafe_buffer_pointer()
    view = to_torch(x)
    del view
    assert step(x).unsafe_buffer_pointer() == pointer


def test_imported_arrays_may_be_donated_and_the_tensor_survives():
    t = torch.ones(64)
    y = jax.jit(lambda a: a * 2, donate_argnums=0)(to_jax(t))
    assert float(y.sum()) == 128 and float(t.sum()) == 64


def test_numpy_is_copied():
    a = np.arange(4, dtype=np.float32)
    a.setflags(write=False)
    t = to_torch(a)
    t[0] = 9.0
    assert a[0] == 0.0


def test_arrays_over_several_devices_come_through_the_host():
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()[:1]), ("x",))
    x = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec("x")))
    np.testing.assert_array_equal(to_torch(x).numpy(), np.arange(4.0))


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="key_data"):
        to_torch(jax.random.key(0))
    with pytest.raises(TypeError, match="concrete"):
        to_torch([1.0])
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda a: to_torch(a) is None or a)(jnp.ones(2))
    with pytest.raises(TypeError, match="expected a torch"):
        to_jax(np.ones(2))
