"""How frames are read and written: the same bytes, by operations that no compiler answers with a copy of the ring."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.replay import storage

SLOTS, ENVS, SIDE = 7, 3, 4
ROW = 3 * SIDE**2
FRAMES = np.random.default_rng(0).integers(0, 256, (SLOTS, ENVS, ROW), dtype=np.uint8)
SLOT, ENV = np.array([[0, 6, 3], [6, 6, 0]], np.int32), np.array([[2, 0, 1], [0, 2, 0]], np.int32)


def read(frame, slot, env_id, whole):
    return storage.read_frames(frame, slot, env_id, whole=whole)


def lowered(platform, whole):
    shapes = jax.ShapeDtypeStruct(FRAMES.shape, jnp.uint8), *[jax.ShapeDtypeStruct((6,), jnp.int32)] * 2
    return jax.export.export(jax.jit(read, static_argnums=3), platforms=[platform])(*shapes, whole).mlir_module()


@pytest.mark.parametrize("reader", [storage._gathered, storage._one_by_one])
def test_both_ways_of_reading_give_the_frames(reader):
    got = jax.jit(reader)(jnp.asarray(FRAMES), SLOT.ravel(), ENV.ravel())
    np.testing.assert_array_equal(got, FRAMES[SLOT.ravel(), ENV.ravel()])
    whole = read(jnp.asarray(FRAMES), SLOT, ENV, whole=True)
    np.testing.assert_array_equal(whole, FRAMES[SLOT, ENV].reshape(2, 3, SIDE, SIDE, 3))


@pytest.mark.parametrize(
    ("platform", "whole", "loops"),
    [("tpu", True, True), ("tpu", False, False), ("cuda", True, False), ("cpu", True, False)],
)
def test_a_tpu_reads_frame_by_frame_where_the_ring_is_whole(platform, whole, loops):
    text = lowered(platform, whole)
    assert ("stablehlo.while" in text) == loops
    assert ("stablehlo.gather" in text or "stablehlo.dynamic_gather" in text) == (not loops)


def test_writing_is_no_scatter():
    text = jax.jit(storage.write_frames).lower(FRAMES, 5, np.zeros((ENVS, SIDE, SIDE, 3), np.uint8)).as_text()
    assert "dynamic_update_slice" in text and "scatter" not in text
    newest = np.random.default_rng(1).integers(0, 256, (ENVS, SIDE, SIDE, 3), dtype=np.uint8)
    expected = FRAMES.copy()
    expected[5] = newest.reshape(ENVS, ROW)
    np.testing.assert_array_equal(storage.write_frames(jnp.asarray(FRAMES), jnp.int32(5), newest), expected)
