"""The leading axis of seeds: stacked records, one seed's part of them, and several devices."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import LearnerState
from covr_jax.envs.seed_stepper import joined
from covr_jax.runtime.rng import ACT, stream
from covr_jax.training.chunk import run_updates
from covr_jax.training.counts import Counts, of_seed
from covr_jax.training.seed_axis import SeedAxis, devices_for
from covr_jax.training.seed_group import StackedState
from covr_jax.training.seed_programs import SeedPrograms
from covr_jax.training.state import Progress
from tests.support.trees import assert_trees_equal, trees_equal
from tests.training import test_mesh


@pytest.mark.parametrize(
    ("seeds", "devices", "used"), [(3, 1, 1), (4, 8, 4), (8, 8, 8), (6, 4, 3), (5, 4, 1), (12, 8, 6), (2, 3, 2)]
)
def test_seeds_are_split_over_the_most_devices_that_take_equally_many(seeds, devices, used):
    assert devices_for(seeds, devices) == used


def records(seeds):
    """Three kinds of arrays with a leading axis of seeds."""
    keys = jax.vmap(lambda key: jax.random.split(key, 2))(jnp.stack([stream(seed, ACT) for seed in range(seeds)]))
    return {"a": jnp.arange(6.0 * seeds).reshape(seeds, 2, 3), "n": jnp.arange(seeds), "key": keys}


def test_one_seed_is_cut_out_and_put_in():
    axis = SeedAxis(3)
    whole = records(3)
    one = axis.cut(whole, 1)
    assert np.asarray(one["a"]).tolist() == [[6, 7, 8], [9, 10, 11]] and int(one["n"]) == 1
    assert trees_equal(one["key"], jax.random.split(stream(1, ACT), 2))
    changed = axis.put(jax.tree.map(jnp.copy, whole), one, 2)
    assert np.asarray(changed["n"]).tolist() == [0, 1, 1]
    for index, expected in enumerate((0, 1, 1)):
        assert_trees_equal(axis.cut(changed, index), axis.cut(whole, expected))


def test_keys_are_those_of_separate_runs():
    keys = SeedAxis(2).keys([7, 4_294_967_295], ACT)
    assert trees_equal(keys[0], stream(7, ACT)) and trees_equal(keys[1], stream(4_294_967_295, ACT))


def test_a_function_is_mapped_over_the_seeds():
    def scaled(key, x):
        return x * jax.random.uniform(key), jnp.zeros(2)

    keys = SeedAxis(2).keys([1, 2], ACT)
    product, zeros = SeedAxis(2).over(scaled)(keys, jnp.array([3.0, 5.0]))
    expected = [3.0 * jax.random.uniform(stream(1, ACT)), 5.0 * jax.random.uniform(stream(2, ACT))]
    np.testing.assert_allclose(product, expected, rtol=1e-6)
    assert zeros.shape == (2, 2)


def test_environments_of_all_seeds_are_stepped_as_one_row():
    def rank(x, nothing):
        assert nothing is None
        return x - x.mean(0), jnp.arange(len(x))  # sees all six at once, in the order of the seeds

    x = jnp.arange(6.0).reshape(2, 3, 1)
    centred, order = joined(rank, 2, 3)(x, None)
    np.testing.assert_array_equal(centred, x - 2.5)
    assert np.asarray(order).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_counts_of_one_seed_are_python_numbers():
    numbers = [np.arange(10 * i, 10 * i + 2, dtype=np.int32) for i in range(7)]
    counts = of_seed(Counts(*numbers, np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)), 1)
    assert counts[:-1] == (1, 11, 21, 31, 41, 51, 61) and all(type(n) is int for n in counts[:-1])
    assert counts.last_return.tolist() == [3, 4]


class Ring(NamedTuple):
    """Stands for the replay."""

    count: jax.Array


class State(NamedTuple):
    """Stands for the state of a run."""

    value: jax.Array
    replay: Ring


def stacked(values):
    """A group whose runs have one number and a count of slots each; broken counts the slots since the last reading."""

    def counts(state, slots):
        count = np.asarray(state.replay.count)
        zeros = np.zeros_like(count)
        return Counts(count, count, count, count - slots, zeros, zeros, zeros, zeros)

    state = State(jnp.asarray(values), Ring(jnp.zeros(len(values), jnp.int32)))
    return StackedState(SimpleNamespace(axis=SeedAxis(len(values)), init=lambda: state, stacked_counts=counts))


def test_idle_seeds_stay_as_they_are_and_readings_go_on_from_the_last_one():
    group = stacked([1.0, 2.0, 3.0])

    def chunk(state):
        return State(state.value * 10, Ring(state.replay.count + 5)), "metrics"

    assert group.change([], chunk) == "metrics"
    assert group.counts().slots.tolist() == [5, 5, 5] and group.counts().broken.tolist() == [5, 5, 5]
    group.change([0, 2], chunk)
    assert np.asarray(group.state.value).tolist() == [10, 200, 30]
    assert group.counts().slots.tolist() == [5, 10, 5] and group.counts().broken.tolist() == [0, 5, 0]


def test_a_restored_seed_begins_its_readings_anew():
    group = stacked([1.0, 2.0])
    group.put(State(jnp.float32(7.0), Ring(jnp.int32(40))), 1)
    assert np.asarray(group.state.value).tolist() == [1, 7]
    assert group.counts().slots.tolist() == [0, 40] and group.counts().broken.tolist() == [0, 0]


# ------------------------------------------------------------------------------------------ several devices


def on_devices():
    """Prints what of two seeds lies where on two of eight devices, and losses there against those of each alone."""
    config = test_mesh.small("sac")
    programs = SeedPrograms(config, [3, 4])
    axis, parts = programs.axis, programs.parts
    learner, ring, progress = programs._start(axis.keys([3, 4], 0))
    one = test_mesh.filled(axis.cut_anywhere(ring, 0))
    for index in (0, 1):
        ring = axis.put(ring, one, index)
    cut = [axis.cut(ring, index) for index in (0, 1)]
    found = {"devices": sorted(str(shard.data.shape[0]) for shard in progress.vec_steps.addressable_shards)}
    found["held"] = [min(leaf.devices()).id for leaf in (cut[0].frame, cut[1].frame)]
    found["same"] = [trees_equal(part, one) for part in cut]
    pattern = (True, False) * 10
    learner, _, metrics = run_updates(programs.pieces, learner, ring, pattern, prioritised=False, scan=False)
    found["together"] = {name: np.asarray(value).tolist() for name, value in metrics.items()}
    found["split"] = [shard.data.shape[0] for shard in jax.tree.leaves(learner.params)[0].addressable_shards]
    alone = []
    for seed in (3, 4):
        single = test_mesh.Programs(test_mesh.dataclasses.replace(config, seed=seed))
        own: LearnerState = single._init_learner()
        _, _, metrics = run_updates(single.pieces, own, one, pattern, prioritised=False, scan=False)
        alone.append({name: float(value) for name, value in metrics.items()})
    assert isinstance(axis.cut_anywhere(progress, 1), Progress) and parts.env.num_envs == 8
    print(json.dumps(found | {"alone": alone}))


@pytest.mark.slow
def test_seeds_on_several_devices_equal_each_alone():
    found = test_mesh.in_eight("from tests.training import test_seed_axis\ntest_seed_axis.on_devices()")
    assert found["devices"] == ["1", "1"] and found["split"] == [1, 1]
    assert found["held"] == [0, 1] and found["same"] == [True, True]
    for index, alone in enumerate(found["alone"]):
        together = {name: values[index] for name, values in found["together"].items()}
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-5)
