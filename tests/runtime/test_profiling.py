"""The count of compiled programs, and every public name's docstring that the API reference is made of."""

from __future__ import annotations

import ast
from pathlib import Path

import jax
import jax.experimental.compilation_cache.compilation_cache as cache
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.runtime.profiling import CompileLog

PACKAGE = Path(__file__).parents[2] / "covr_jax"


def test_compiled_programs_are_counted_until_the_log_is_closed():
    function, small, large = jax.jit(lambda x: x * 3 + 1), np.zeros(3), np.zeros(4)
    with CompileLog() as log:
        assert log.programs == 0 and log.seconds == 0.0
        function(small)
        assert log.programs == 1 and log.seconds > 0.0
        once = log.seconds
        function(small)
        assert (log.programs, log.seconds) == (1, once)
        function(large)
        assert log.programs == 2 and log.seconds > once
    function(np.zeros(5))
    log.close()
    assert log.programs == 2
    assert log.metrics()["compile/programs"] == 2


def test_the_persistent_cache_is_told_from_compiling(tmp_path):
    function = jax.jit(lambda x: jnp.linalg.inv(x) @ jnp.sin(x) + 2)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    logs = []
    try:
        for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
            jax.config.update(name, value)
        cache.reset_cache()
        for _ in range(2):
            function.clear_cache()
            with CompileLog() as log:
                function(np.eye(3, dtype=np.float32))
            logs.append(log)
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)
        cache.reset_cache()
    cold, warm = logs
    assert (cold.programs, cold.cached, cold.saved) == (1, 0, 0.0)
    assert (warm.programs, warm.cached) == (1, 1)
    assert cold.cold_seconds == cold.seconds
    assert "1 of them from the cache" in str(warm)


def public(body, prefix=""):
    """Public functions, classes and methods of a module's or a class's body, by name."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module"
    assert [name for name, node in public(tree.body) if not ast.get_docstring(node)] == []
