"""Programs that a later process takes without tracing them: the same numbers, and no other program's."""

from __future__ import annotations

import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from covr_jax.runtime import kept
from covr_jax.runtime.ahead import Ahead
from covr_jax.runtime.kept import Kept, Program, open_kept

X, Y = jnp.arange(6.0), jnp.arange(6.0) + 1.0


@pytest.fixture(autouse=True)
def no_cache():
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def made(given=0.0):
    def product(given, x, y, times=1):
        return {"sum": (x * y).sum() + given, "times": x * times}

    return Program(jax.jit(product, static_argnums=3), jnp.float32(given), static_argnums=(3,))


def begun(folder, program, *arguments):
    """The program after a start that keeps what it compiles in a folder, and the shapes it was told."""
    ahead = Ahead(kept=Kept(folder))
    shapes = ahead.begin("product", program, *arguments)
    ahead.wait("product")
    return program, shapes


def test_a_later_start_neither_traces_nor_compiles(tmp_path):
    _, traced = begun(tmp_path / "a", made(), X, Y, 2)
    program, shapes = begun(tmp_path / "a", Program(None, jnp.float32(7.0), static_argnums=(3,)), X, Y, 2)
    result = program(X, Y, 2)
    assert shapes == traced
    assert float(result["sum"]) == 77.0  # sum of i (i + 1), i to 5, and what is given now
    np.testing.assert_array_equal(result["times"], 2 * np.arange(6.0))


def test_calls_that_the_program_is_not_for_are_traced(tmp_path):
    begun(tmp_path, made(), X, Y, 2)
    program, _ = begun(tmp_path, made(), X, Y, 2)
    assert float(program(X[:3], Y[:3], 2)["sum"]) == 8.0  # another shape
    assert float(program(X, Y, 3)["times"][5]) == 15.0  # another static argument
    assert float(jax.jit(lambda x: program(x, Y, 2)["sum"])(X)) == 70.0  # a caller that is traced
    assert float(jax.grad(lambda x: program(x, Y, 2)["sum"])(X)[5]) == 6.0


def test_donation_is_kept(tmp_path):
    def make():
        return Program(jax.jit(lambda x: x + 1.0, donate_argnums=0))

    begun(tmp_path, make(), X)
    program, _ = begun(tmp_path, make(), X)
    x = jnp.arange(6.0)
    assert float(program(x)[5]) == 6.0 and x.is_deleted()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_not_used(tmp_path, damage):
    begun(tmp_path, made(), X, Y, 2)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[damage])
    assert Kept(tmp_path).load("product", (made().given, (X, Y, 2))) is None
    program, _ = begun(tmp_path, made(), X, Y, 2)
    assert float(program(X, Y, 2)["sum"]) == 70.0
    assert Kept(tmp_path).load("product", (program.given, (X, Y, 2)))  # it was kept anew


def test_a_program_that_xla_has_read_itself_is_not_kept(tmp_path, no_cache):
    """Kept, it would come back without its functions."""
    old = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    compilation_cache.reset_cache()
    begun(tmp_path / "written", made(), X, Y, 2)
    begun(tmp_path / "read", made(), X, Y, 2)
    jax.config.update("jax_compilation_cache_dir", old)
    assert (tmp_path / "written").exists() and not (tmp_path / "read").exists()


def test_a_program_that_calls_the_host_is_not_kept(tmp_path):
    def double(x):
        return jax.pure_callback(lambda x: 2 * np.asarray(x), jax.ShapeDtypeStruct((6,), jnp.float32), x)

    folder = tmp_path / "a"
    program, _ = begun(folder, Program(jax.jit(double)), X)
    assert float(program(X)[5]) == 10.0 and not folder.exists()


@pytest.mark.parametrize(("target", "stays"), [("lapack_spotrf_ffi", True), ("cu_threefry2x32", True), ("mine", False)])
def test_a_program_that_calls_a_library_of_others_is_not_kept(tmp_path, target, stays):
    """It may not be known to the next process, which would crash."""
    program = jax.jit(lambda x: x + 1.0).lower(X).compile()
    folder = tmp_path / "a"
    Kept(folder).save("sum", X, jax.ShapeDtypeStruct(X.shape, X.dtype), program, f"stablehlo.custom_call @{target}(%0)")
    assert folder.exists() == stays


def test_only_the_kinds_used_last_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_KINDS", 2)
    for number, name in enumerate("abc"):
        begun(tmp_path / name, made(), X, Y)
        os.utime(tmp_path / name, (number, number))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["b", "c"]


@pytest.fixture
def keeping(monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "_keeping", True)
    monkeypatch.delenv("COVR_JAX_KEPT")
    old = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield
    jax.config.update("jax_compilation_cache_dir", old)


def test_what_programs_are_made_of_tells_them_apart(keeping, monkeypatch, tmp_path):
    def where(*facts):
        return open_kept(*facts)._folder  # pyright: ignore[reportOptionalMemberAccess]

    base = where({"batch": 128})
    assert where({"batch": 128}) == base and base.parent == tmp_path / "programs"
    assert where({"batch": 256}) != base

    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_fast_math=true")
    assert where({"batch": 128}) != base
    monkeypatch.undo()
    monkeypatch.setattr(kept, "_keeping", True)
    monkeypatch.delenv("COVR_JAX_KEPT")
    assert where({"batch": 128}) == base

    source = tmp_path / "own.py"
    source.write_text("X = 1\n")
    monkeypatch.setitem(sys.modules, "own", types.SimpleNamespace(__file__=str(source)))
    with_own = where({"batch": 128})
    assert with_own != base
    source.write_text("X = 12\n")
    assert where({"batch": 128}) not in (base, with_own)


def test_nothing_is_kept_unless_a_command_says_so(keeping, monkeypatch):
    assert open_kept()
    monkeypatch.setenv("COVR_JAX_KEPT", "0")
    assert open_kept() is None
    monkeypatch.delenv("COVR_JAX_KEPT")
    monkeypatch.setattr(kept, "_keeping", False)
    assert open_kept() is None
