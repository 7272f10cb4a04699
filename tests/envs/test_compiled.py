"""Tasks with pixels as a compiled program: compiled once, strong types, exported for every platform."""

from __future__ import annotations

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.types import StepType
from tests.support.pairs import NUM_ENVS, SIZE, compiled

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST
PLATFORMS = ("cpu", "cuda", "tpu")
STRONG = (jnp.float32, jnp.int32, jnp.uint8, jax.random.key(0).dtype)
DRAWN = ("reacher_easy", "walker_walk", "ball_in_cup_catch")
SOON = np.arange(NUM_ENVS) % 2 == 0  # the envs whose episode ends two steps later


@contextmanager
def compilations():
    """Events of JAX for what is traced, lowered or compiled inside."""
    seen = []

    def listen(event, seconds, **_):
        if event.startswith("/jax/core/compile/"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def actions(env, seed):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (NUM_ENVS, env.action_dim)).astype(np.float32))


def test_compilations_are_counted():
    with compilations() as seen:
        jax.jit(lambda x: x + 1)(np.zeros(3))
    assert any("backend_compile" in event for event in seen)


# With the goal and the string that they alone have, these stand for all tasks.
@pytest.fixture(params=["cartpole_swingup", *(pytest.param(t, marks=pytest.mark.slow) for t in DRAWN)])
def task(request):
    return compiled(request.param, "mujoco")


@pytest.fixture
def portable():
    """A task whose program holds no call of the host."""
    return compiled("reacher_easy", "mjx")


def test_nothing_is_compiled_after_the_first_step(task):
    """Over the end of an episode in every other env; arrays returned before do not change."""
    moves = [actions(task.env, seed) for seed in range(4)]
    state, timestep = task.pixels.reset(jax.random.key(0))
    start = np.array(state.qpos)
    state = state.replace(step_count=jnp.asarray(np.where(SOON, 998, 0).astype(np.int32)))
    steps, copies, positions = [timestep], [np.array(timestep.observation)], []
    for index, move in enumerate(moves):
        with compilations() as seen:
            state, timestep = task.pixels.step(state, move)
        assert index == 0 or seen == []
        steps.append(timestep)
        copies.append(np.array(timestep.observation))
        positions.append(np.array(state.qpos))
    kinds = np.stack([step.step_type for step in steps])
    assert kinds[:, SOON].T.tolist() == [[FIRST, MID, LAST, FIRST, MID]] * SOON.sum()
    assert (kinds[1:, ~SOON] == MID).all()
    assert (positions[2] != start).any(1).all()  # the new starts are not the first ones
    for step, copy in zip(steps, copies, strict=True):
        np.testing.assert_array_equal(step.observation, copy)
    memory = [step.observation.unsafe_buffer_pointer() for step in steps] + [state.stack.unsafe_buffer_pointer()]
    assert len(set(memory)) == len(memory)
    pieces = task.pixels._initial, task.pixels._advance, task.pixels._observe
    assert [piece._jitted._cache_size() for piece in pieces] == [1, 1, 1]


def test_every_array_has_a_strong_small_type(task):
    state, first = task.pixels.reset(jax.random.key(0))
    for leaf in jax.tree.leaves((state, first, *task.pixels.step(state, actions(task.env, 0)))):
        assert leaf.dtype in STRONG and not jax.typeof(leaf).weak_type and leaf.size > 0


@pytest.mark.slow
def test_reset_and_step_can_be_exported_for_every_platform(portable):
    key, action = jax.random.key(0), jax.ShapeDtypeStruct((NUM_ENVS, portable.env.action_dim), jnp.float32)
    state, timestep = jax.eval_shape(portable.env.reset, key)
    reset = jax.export.export(jax.jit(portable.env.reset), platforms=PLATFORMS)(key)
    step = jax.export.export(jax.jit(portable.env.step), platforms=PLATFORMS)(state, action)
    assert reset.platforms == step.platforms == PLATFORMS
    assert timestep.observation.shape == (NUM_ENVS, SIZE, SIZE, 9)
    # What reset returns is what step takes and returns: the state keeps its shapes and types.
    expected = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((state, timestep))]
    for exported in (reset, step):
        assert [(aval.shape, aval.dtype) for aval in exported.out_avals] == expected
