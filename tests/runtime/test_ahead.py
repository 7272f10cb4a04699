"""Programs that are compiled ahead of their first call: once, side by side, and without holding up a signal."""

from __future__ import annotations

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from covr_jax.runtime.ahead import Ahead, compiling
from covr_jax.runtime.kept import Program
from covr_jax.runtime.profiling import CompileLog
from covr_jax.types import Preempted


class Slow:
    """Stands where a jitted function does, and compiles until it is let go."""

    def __init__(self):
        self.begun, self.let_go = threading.Event(), threading.Event()

    given = ()

    def shapes(self, *_):
        return None

    def lower(self, *_):
        return self

    def compile(self):
        self.begun.set()
        assert self.let_go.wait(60.0)


@pytest.fixture
def slow():
    programs = Slow(), Slow()
    yield programs
    for program in programs:
        program.let_go.set()
    while compiling():
        time.sleep(0.001)


def test_a_call_does_not_compile_again():
    program = Program(jax.jit(lambda x, y: (x * y).sum()))
    x, y = jnp.arange(6.0), jnp.arange(6.0) + 1.0
    ahead = Ahead()
    shape = ahead.begin("product", program, jax.ShapeDtypeStruct((6,), jnp.float32), y)
    assert (shape.shape, shape.dtype) == ((), jnp.float32)
    ahead.wait("product")
    with CompileLog() as log:
        assert float(program(x, y)) == 70.0  # sum of i (i + 1), i to 5
        assert log.programs == 0


def test_what_cannot_be_traced_is_an_error_at_once():
    with pytest.raises(TypeError):
        Ahead().begin("impossible", Program(jax.jit(lambda x: x @ x)), jnp.zeros((2, 3)))


def test_the_caller_is_told_what_it_waits_for(slow, monkeypatch):
    monkeypatch.setattr("covr_jax.runtime.ahead._TOLD_AFTER_S", 0.0)
    told = []

    def tell(text):
        told.append(text)
        for program in slow:
            program.let_go.set()

    ahead = Ahead(tell)
    for name, program in zip(("physics", "picture"), slow, strict=True):
        ahead.begin(name, program)
    ahead.wait("physics", "picture", "what nobody began")
    assert told == ["compiling: physics, picture"]


def test_a_signal_need_not_wait_for_the_compiler(slow):
    ahead = Ahead(stop=lambda: "SIGTERM")
    ahead.begin("physics", slow[0])
    assert slow[0].begun.wait(60.0) and compiling()
    with pytest.raises(Preempted, match=r"^SIGTERM$"):
        ahead.wait("physics")
    assert not slow[0].let_go.is_set()


def test_a_signal_that_came_while_all_was_compiled_is_seen(slow):
    ahead = Ahead(stop=lambda: "SIGTERM")
    slow[0].let_go.set()
    ahead.begin("physics", slow[0])
    while compiling():
        time.sleep(0.001)
    with pytest.raises(Preempted, match=r"^SIGTERM$"):
        ahead.wait("physics")


def test_python_waits_for_a_compiler_that_is_at_work(slow):
    ahead = Ahead()
    assert not compiling()
    ahead.begin("physics", slow[0])
    assert compiling()
    slow[0].let_go.set()
    ahead.wait("physics")
    assert not compiling()
