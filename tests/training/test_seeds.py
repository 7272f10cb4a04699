"""Several seeds in one program: what is refused, whose directory is whose, and who makes a chunk."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax import config as configuration
from covr_jax.commands import cli, sweep, train
from covr_jax.config import ConfigError
from covr_jax.io.run_dir import Result
from covr_jax.training.resolve import resolve
from covr_jax.training.run import train as train_one
from covr_jax.training.seed_group import SeedGroup
from covr_jax.training.seeds import check_seeds, seed_runs, train_seeds
from covr_jax.types import Diverged, Preempted
from tests.support.reporters import Quiet


def options(**groups):
    """A config of two seeds of SAC with options of some groups changed."""
    config = configuration.Config(method="sac", run=configuration.RunConfig(num_seeds=2))
    for group, values in groups.items():
        changed = dataclasses.replace(getattr(config, group), **values) if isinstance(values, dict) else values
        config = dataclasses.replace(config, **{group: changed})
    return config


# ------------------------------------------------------------------------------------------ refusals

REFUSED = [
    (
        {"method": "covr"},
        "--num-seeds trains methods without a VLM, and covr has one; train such runs with exp",
    ),
    ({"method": "dgc_like", "vlm": {"name": "tiny", "hold": False}}, "--num-seeds trains methods without a VLM"),
    ({"task": "car_racing"}, "--num-seeds needs compiled environments, and car_racing runs on the host; train such"),
    ({"env": {"physics": "mujoco"}}, "--num-seeds needs --env.physics mjx, got --env.physics mujoco; change it, or"),
    ({"env": {"physics": "warp"}}, "--num-seeds needs --env.physics mjx, got --env.physics warp; change it, or"),
    ({"renderer": "gl"}, "--num-seeds needs --renderer jax, got gl; change it, or train such runs with experiments/sw"),
    ({"run": {"devices": 2}}, "--num-seeds puts whole seeds on the devices, as many on each, and --devices splits one"),
    ({"replay": {"storage": "host"}}, "--num-seeds needs --replay.storage device; change it, or train such runs with"),
    ({"replay": {"sampling": "elite"}}, "--replay.sampling elite chooses samples on the host for one run; train such"),
    ({"replay": {"demonstrations": "some"}}, "--num-seeds takes no --demonstrations; train such runs with experiments"),
    ({"run": {"log": ("wandb",)}}, "--log wandb takes one run per process; leave it out, or train such runs with exp"),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED)
def test_what_is_not_trained_together_is_one_line(tmp_path, changes, line):
    with pytest.raises(ConfigError) as caught:
        train_seeds(options(**changes), tmp_path / "root", Quiet())
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert not (tmp_path / "root").exists()


def test_physics_of_several_seeds_is_mjx_unless_it_is_named():
    check_seeds(resolve(options()))
    assert resolve(options()).env.physics == "mjx" and resolve(options(run={"num_seeds": 1})).env.physics == "mujoco"
    assert resolve(options(task="car_racing")).env.physics == "auto"  # of its own
    assert {run.config.env.physics for run in seed_runs(options(), Path("runs"))} == {"mjx"}


def test_one_seed_is_not_trained_for_several(tmp_path):
    with pytest.raises(ConfigError, match=r"^train\(\) takes one seed, got --num-seeds 2; call train_seeds\(\)$"):
        train_one(options(), tmp_path, Quiet())


def test_jobs_of_a_sweep_train_one_seed_each():
    for given in ("--num-seeds", "--num-seeds=2", "--run.num_seeds", "--run.num-seeds=2"):
        with pytest.raises(ConfigError, match=r"^a job of a sweep trains one seed: give --seeds here"):
            sweep.refuse_own([given])


def test_the_short_option_is_that_of_the_run():
    config, directory, _ = train.parse(["--method", "rad", "--num-seeds", "3", "--seed", "4"])
    assert (config.run.num_seeds, config.seed, directory) == (3, 4, Path("runs/cartpole_swingup/rad/seed4"))
    assert cli.parse_config(["--method", "rad"], "train.py", "").run.num_seeds == 1


# ------------------------------------------------------------------------------------------ directories


def test_a_directory_holds_one_for_every_seed():
    runs = seed_runs(options(seed=5, run={"num_seeds": 3}), Path("runs/root"))
    assert [str(run.run_dir) for run in runs] == ["runs/root/seed5", "runs/root/seed6", "runs/root/seed7"]
    assert [run.config.seed for run in runs] == [5, 6, 7]
    alone = dataclasses.replace(options(seed=6, run={"num_seeds": 1}).env, physics="mjx")
    assert runs[1].config == options(seed=6, run={"num_seeds": 1}, env=alone)  # that of a run of its own


def test_a_directory_of_the_first_seed_has_the_others_beside_it():
    runs = seed_runs(options(seed=2), Path("runs/cartpole_swingup/sac/seed2"))
    assert [run.run_dir.as_posix() for run in runs] == [f"runs/cartpole_swingup/sac/seed{n}" for n in (2, 3)]


def test_directories_of_other_runs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"seed2 is named after another seed than the first, 1; give --seed 2, or "):
        seed_runs(options(), tmp_path / "seed2")
    (tmp_path / "config.json").write_text("{}")
    for directory in (tmp_path, tmp_path / "seed1"):
        with pytest.raises(ConfigError, match=r" holds a run, and --num-seeds needs a directory of runs; choose "):
            seed_runs(options(), directory)
    with pytest.raises(ConfigError, match="goes beyond the last seed, 4,294,967,295"):
        seed_runs(options(seed=4_294_967_295), Path("runs"))
    assert len(seed_runs(options(seed=4_294_967_294), Path("runs"))) == 2


# ------------------------------------------------------------------------------------------ the group's loop


class FakeMember:
    """A run that needs some chunks, of which the first ones are random, and that may diverge."""

    def __init__(self, index, chunks, random=1, made=0, diverges_at=math.inf):
        self.programs, self.config = SimpleNamespace(index=index), configuration.Config(method="sac")
        self.chunks, self.random, self.made, self.diverges_at = chunks, random, made, diverges_at
        self.updates, self.done, self.metrics = max(made - random, 0), [], []

    learns = property(lambda self: self.made >= self.random)
    trained = property(lambda self: self.made >= self.chunks)

    def scheduled(self):
        return {"exploration_noise": float(self.made)}

    def after_chunk(self, metrics, *, learn):
        self.made, self.updates = self.made + 1, self.updates + learn
        self.metrics.append(metrics.get("losses/critic"))
        if self.made == self.diverges_at:
            raise Diverged("a loss is nan")

    def __getattr__(self, name):
        return lambda *arguments: self.done.append(name)

    def conclude(self):
        self.done.append("conclude")
        return np.array([1.0])

    def result(self, values):
        return Result(float(values.mean()), 0.0, 0.0, self.made, 0.0)


def group_of(*members, stop=lambda: None):
    """A group of such runs, and a record of its chunks: (learn, idle seeds, noise)."""
    chunks = []

    def change(idle, function):
        _, metrics = function(SimpleNamespace())
        chunks[-1] = (chunks[-1][0], idle, chunks[-1][1])
        return metrics

    def chunk(state, *, learn):
        chunks.append((learn, state))
        return state, {"losses/critic": 10.0 + np.arange(len(members))} if learn else {}, None

    programs = SimpleNamespace(
        parts=SimpleNamespace(chunk_steps=10), chunk=chunk, set_scheduled=lambda state, **values: values
    )
    group = SeedGroup.__new__(SeedGroup)
    counts = SimpleNamespace(vec_steps=np.zeros(len(members)))
    group.stacked = SimpleNamespace(programs=programs, change=change, counts=lambda: counts)
    group.members, group.running, group._stop = list(members), list(members), stop
    return group, chunks


def test_seeds_that_do_not_learn_yet_go_first_and_the_others_wait():
    """The second seed has lost a transition to a failed simulation and has a random chunk more to make."""
    one, two = FakeMember(0, chunks=3), FakeMember(1, chunks=3, random=2)
    group, chunks = group_of(one, two)
    ended = [(member, how.env_steps) for member, how in group.run()]
    assert [(learn, idle) for learn, idle, _ in chunks] == [(False, []), (False, [0]), (True, []), (True, [])]
    assert one.metrics == [None, 10.0, 10.0] and two.metrics == [None, None, 11.0]
    assert ended == [(two, 3), (one, 3)]
    assert chunks[1][2] == {"exploration_noise": [1.0, 1.0]}


def test_a_seed_that_has_ended_is_left_alone_and_the_others_go_on():
    one, two = FakeMember(0, chunks=3, made=2), FakeMember(1, chunks=4, made=1)
    group, chunks = group_of(one, two)
    ended = [member for member, _ in group.run()]
    assert ended == [one, two] and len(chunks) == 3 and all(idle == [] for _, idle, _ in chunks)
    assert (one.made, two.made) == (3, 4) and one.done.count("after_iteration") == 1
    assert one.done.count("conclude") == two.done.count("conclude") == 1


def test_a_seed_that_has_diverged_ends_no_other():
    one, two = FakeMember(0, chunks=3, diverges_at=2), FakeMember(1, chunks=3)
    group, chunks = group_of(one, two)
    (first, error), (second, result) = group.run()
    assert first is one and isinstance(error, Diverged) and second is two and isinstance(result, Result)
    assert len(chunks) == 3 and "conclude" not in one.done


def test_a_stopped_group_writes_a_checkpoint_of_every_seed_that_has_not_ended():
    one, two = FakeMember(0, chunks=1), FakeMember(1, chunks=9)
    group, chunks = group_of(one, two, stop=lambda: "SIGTERM")
    with pytest.raises(Preempted, match="SIGTERM"):
        list(group.run())
    assert len(chunks) == 1 and "save_if_new" not in one.done and two.done.count("save_if_new") == 1
    assert one.done[-1] == two.done[-1] == "close"
