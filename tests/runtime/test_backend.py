"""What the process and the compiler are told, seen in their effects."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import runtime

FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from covr_jax import runtime
if sys.argv[1] == "configured":
    runtime.configure()

def work(x, y):  # three buffers of 32 MB at once, of which one could be made
    one, two, three = (x[k] @ y for k in range(3))
    return jnp.sum(one * two * three)

work = runtime.jit(work, often=True)
x, y = jnp.ones((3, 2048, 8)), jnp.ones((8, 4096))
counts = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(work(x, y))
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(counts[20:])[10])  # by then each of XLA's threads has kept its buffers
"""


def faults_of_a_call(how):
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set up")
def test_freed_buffers_stay_in_the_process():
    pages = 96 * 2**20 // 4096
    assert faults_of_a_call("as it is") > 0.9 * pages and faults_of_a_call("configured") < 0.01 * pages


@pytest.mark.skipif(not runtime.on_cpu(), reason="a CPU matter")
def test_a_standalone_function_is_called_not_copied_into_its_consumers():
    def halves(x):
        return jnp.tanh(x) * 0.5

    def consumers(function):
        return lambda x: (function(x).T.reshape(2, -1), function(x) @ x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)), jnp.float32)
    alone, merged = (runtime.jit(consumers(f)).lower(x).compile() for f in (runtime.no_inline(halves), halves))
    assert " call(" in alone.as_text() and " call(" not in merged.as_text()
    for one, two in zip(alone(x), merged(x), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    abroad = jax.export.export(jax.jit(consumers(runtime.no_inline(halves))), platforms=["cuda"])(x).mlir_module()
    assert "inlineable" not in abroad


def test_a_standalone_function_can_be_differentiated_and_mapped():
    function = runtime.no_inline(lambda x, y: jax.nn.relu(x * y))
    x, y = jnp.asarray([[1.0, -2.0], [3.0, 4.0]]), jnp.asarray([2.0, 3.0])
    np.testing.assert_array_equal(jax.vmap(function, in_axes=(0, None))(x, y), [[2.0, 0.0], [6.0, 12.0]])
    np.testing.assert_array_equal(jax.grad(lambda x: function(x, y).sum())(x[0]), [2.0, 0.0])


def test_what_is_called_rarely_gives_the_same_numbers(monkeypatch):
    def draw(key):
        return jnp.linalg.qr(jax.random.normal(key, (8, 8)))[0] @ jnp.arange(8.0)

    key = jax.random.key(3)
    np.testing.assert_allclose(runtime.jit(draw, rarely=True)(key), runtime.jit(draw)(key), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(jax, "jit", lambda function, **options: options.get("compiler_options", {}))
    effort = [runtime.jit(draw, rarely=rarely).get("xla_backend_optimization_level") for rarely in (True, False)]
    assert effort == ([0, None] if runtime.on_cpu() else [None, None])


def test_jax_takes_what_torch_leaves_of_a_gpu(monkeypatch):
    """JAX reads the variable when its backend starts; the user's own stays."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert runtime.share_gpu(0.6) == pytest.approx(0.38)
    assert runtime.share_gpu(0.2) == pytest.approx(0.38) == float(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"])


def test_what_xla_says_of_large_buffers_is_not_shown():
    """An update at the paper's size has buffers that cannot be cut up, and XLA warns of each."""
    code = """
from covr_jax.commands import cli
cli.import_quietly(warp=False)
import jax, jax.numpy as jnp
from covr_jax import runtime
runtime.configure()
large = jax.ShapeDtypeStruct((15_000_000,), jnp.float32)
runtime.jit(lambda x: jnp.sort(x + 1.0)[:3] * jnp.sort(x - 1.0)[-3:], often=True).lower(large).compile()
"""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}  # what is cached is not compiled, and says nothing
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
