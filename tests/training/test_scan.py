"""The chunk as one scan, the accelerators' program, against the same pieces dispatched one by one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import runtime
from covr_jax.envs.stepper import JitStepper
from covr_jax.runtime.kept import Program
from covr_jax.training.chunk import dispatched_chunk, run_updates, update_period
from covr_jax.training.programs import Programs
from covr_jax.types import StepType

pytestmark = pytest.mark.xdist_group("training")

LOSSES = {f"losses/{name}" for name in ("critic", "actor", "alpha", "guidance")}
NAMES = LOSSES | {"sac/effective_guidance_weight"} | {f"sac/{name}" for name in ("alpha", "entropy", "q_mean")}


@pytest.fixture(scope="module")
def programs(tiny_config, make_programs):
    return make_programs(tiny_config)


@pytest.fixture(scope="module")
def plain(tiny_config):
    """Programs as on an accelerator: no piece has compile options of its own, so that they fit into one program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.backend, "on_cpu", lambda: False)
        return Programs(dataclasses.replace(tiny_config, env=dataclasses.replace(tiny_config.env, physics="mjx")))


@pytest.mark.slow
def test_the_scanned_chunk_equals_the_dispatched_one(programs, plain):
    state = programs.init()
    for _ in range(2):
        state = programs.chunk(state, learn=False).state
    copy = jax.tree.map(jnp.copy, state)
    # The two compositions are compared, not the optimiser: without it the big program compiles in seconds.
    options = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_backend_optimization_level": 0}
    scanned = jax.jit(plain.scanned, static_argnums=(1, 2), compiler_options=options)
    # Four cycles of two agent steps, over the end of an episode.
    together, metrics = scanned(copy, 4, True)
    stepper = JitStepper(plain.parts.env)
    apart, expected, _ = dispatched_chunk(programs.parts, programs.pieces, stepper, state, 4, True)
    assert (np.asarray(apart.replay.step_type[20:28]) == StepType.LAST).any()
    assert set(metrics) == set(expected) == NAMES
    for name in NAMES:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    one, two = jax.tree_util.tree_leaves_with_path(together), jax.tree.leaves(apart)
    for (path, a), b in zip(one, two, strict=True):
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        name = jax.tree_util.keystr(path)
        if a.dtype == np.uint8:  # colours are rounded to bytes; the two programs multiply and add in another order
            levels = np.abs(np.asarray(a, int) - np.asarray(b, int))
            assert levels.max() <= 1 and levels.mean() < 1e-3, name
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_scanned_chunk_can_be_exported_for_every_platform(plain):
    abstract = jax.eval_shape(plain.init)

    def is_key(x):
        return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    def unwrap(state):  # files know no key types
        return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)

    def wrap(state):
        return jax.tree.map(lambda like, x: jax.random.wrap_key_data(x) if is_key(like) else x, abstract, state)

    def chunk(state):
        state, metrics = plain.scanned(wrap(state), 1, True)
        return unwrap(state), metrics

    exported = jax.export.export(jax.jit(chunk), platforms=("cpu", "cuda", "tpu"))(jax.eval_shape(unwrap, abstract))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert len(exported.out_avals) == len(jax.tree.leaves(abstract)) + len(NAMES)


class Noted:
    """Stands where the record of programs that are compiled ahead does, and compiles nothing."""

    def __init__(self):
        self.arguments, self.waited = {}, []

    def begin(self, name, program, *arguments):
        self.arguments[name] = (program, *arguments)
        return program.shapes(*arguments) if isinstance(program, Program) else None

    def wait(self, *names):
        self.waited += names


@pytest.mark.slow
def test_the_chunks_that_are_compiled_ahead_are_those_that_are_called(plain, monkeypatch):
    """An accelerator compiles both chunks; that their shapes are those of the calls can be seen without compiling."""
    noted = Noted()
    monkeypatch.setattr(runtime, "on_cpu", lambda: False)
    monkeypatch.setattr(plain, "ahead", noted)
    monkeypatch.setattr(plain, "_ahead_of_calls", True)
    calls = []
    monkeypatch.setattr(plain, "_scanned", lambda *arguments: calls.append(arguments) or (arguments[0], {}))
    state = plain.init()
    for learn in (False, True):
        plain.chunk(state, learn=learn)
    names = ("chunk of random actions", "chunk of updates")
    assert [name for name in noted.waited if "chunk" in name] == [*names]
    for name, call in zip(names, calls, strict=True):
        program, *arguments = noted.arguments[name]
        assert program is plain._scanned and arguments[1:] == [*call[1:]]
        shapes, called = (jax.tree.map(jax.typeof, tree) for tree in (arguments[0], call[0]))
        assert shapes == called


@pytest.mark.parametrize(
    ("pattern", "period"), [((), 0), ((True,), 1), ((True, False) * 8, 2), ((True, False, True), 3), ((False,) * 4, 1)]
)
def test_the_period_of_an_actor_pattern(pattern, period):
    assert update_period(pattern) == period


@pytest.mark.slow
def test_scanned_updates_equal_unrolled_ones(programs, plain):
    """Six prioritised updates, of which every second moves the actor: three repetitions of a period of two."""
    state = programs.init()
    for _ in range(2):
        state = programs.chunk(state, learn=False).state
    pattern, results = (True, False) * 3, []
    for scan in (False, True):
        copy = jax.tree.map(jnp.copy, (state.learner, state.replay))

        def updates(learner, store, scan=scan):
            return run_updates(plain.pieces, learner, store, pattern, prioritised=True, scan=scan)

        options = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_backend_optimization_level": 0}
        results.append(jax.jit(updates, compiler_options=options)(*copy))
    (learner, store, metrics), (scanned, scanned_store, scanned_metrics) = results
    assert int(scanned.updates) == int(learner.updates) == 6
    assert set(metrics) == set(scanned_metrics) == NAMES
    for one, two in ((learner, scanned), (metrics, scanned_metrics), (store.priority, scanned_store.priority)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, two)
    assert (np.asarray(store.priority) != 1.0).any()
