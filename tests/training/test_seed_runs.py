"""Runs of several seeds in one program against separate runs of each: numbers, directories, and going on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from functools import cache

import jax
import numpy as np
import pytest

from covr_jax.io.checkpoint import Checkpointer
from covr_jax.training import loop, seed_group
from covr_jax.training.resolve import resolve
from covr_jax.training.restore import load_run
from covr_jax.training.run import train
from covr_jax.training.seed_programs import SeedPrograms
from covr_jax.training.seeds import seed_runs, train_seeds
from covr_jax.training.state import HISTORY
from tests.support.reporters import Quiet
from tests.support.trees import assert_trees_equal, host_copy
from tests.support.watched_runs import Stop, rows_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("training")]

# What programs for one seed and for two add up in another order differs in last digits: after 40 updates on the same
# replay parameters differ by 6e-8. In a run such an action, held for 0.4 s, moves the pole a little differently, and
# the pole is unstable: of the same actions but for 1e-7, rewards differ by 3e-6 after 8 of them, by 0.07 after 30. So
# the policy acts for one chunk, in which four updates a step make 40; what evaluations simulate for 10 s after that is
# not compared.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def without_moments(state):
    """The state without Adam's: they follow the gradients of a loss of 100, and not what is learned from them."""
    empty = dict.fromkeys(("critic_opt", "actor_opt", "auxiliary_opt", "alpha_opt"))
    return state.replace(learner=state.learner.replace(**empty))


def assert_close(one, two):
    """Asserts that two states are CLOSE everywhere; images may differ by one level where a colour is rounded."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        name = jax.tree_util.keystr(path)
        if a.dtype == np.uint8:
            levels = np.abs(a.astype(int) - b.astype(int))
            assert levels.max() <= 1 and levels.mean() < 1e-3, name
        else:
            np.testing.assert_allclose(a, b, **CLOSE, err_msg=name)


@pytest.fixture(scope="module")
def small(tiny_config):
    """small(method): two seeds of three chunks, at 800, 1600 and 2320 env steps, of which the last one learns."""

    def config(method):
        return dataclasses.replace(
            tiny_config,
            method=method,
            total_steps=2000,
            sac=dataclasses.replace(tiny_config.sac, updates_per_step=4),
            env=dataclasses.replace(tiny_config.env, physics="mjx"),
            eval=dataclasses.replace(tiny_config.eval, every=2000),
            run=dataclasses.replace(tiny_config.run, checkpoint_every=800, num_seeds=2, log=()),
        )

    return config


@pytest.fixture(scope="module")
def trained(folder, make_programs):
    """trained(config, name, stop_at): a group in a directory of that name; runs of a method share their programs."""
    shared = cache(SeedPrograms)

    def make_group_programs(config, seeds):
        return shared(dataclasses.replace(config, seed=1, total_steps=2000), tuple(seeds))

    def group(config, name, stop_at=math.inf):
        quiet, root = Quiet(stop_at, Stop), folder / name
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Stop):
            patch.setattr(seed_group, "SeedPrograms", make_group_programs)
            patch.setattr(loop, "Programs", make_programs)
            train_seeds(config, root, quiet, "the command")
        return root, quiet.messages

    return group


@pytest.fixture(scope="module")
def train_alone(make_programs):
    """train_alone(config, directory): a run of one seed."""

    def run(config, directory):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Programs", make_programs)
            return train(config, directory, Quiet(), "the command")

    return run


@pytest.fixture(scope="module")
def state_of(make_programs):
    """state_of(config, directory): state and loop state of a run's newest checkpoint."""

    def read(config, directory):
        programs = make_programs(resolve(config))
        state, host, _ = Checkpointer(directory, history=HISTORY).restore(lambda: programs.init(begin=False))
        return host_copy(state), host

    return read


@pytest.fixture(scope="module")
def runs(small, trained, train_alone, folder):
    """A group of RAD, whose crops are random too, and its seeds trained alone: config, the directory of each."""
    config = small("rad")
    root, _ = trained(config, "together")
    for run in seed_runs(config, folder / "alone"):
        train_alone(run.config, run.run_dir)
    return config, root, folder / "alone"


def test_each_seed_equals_its_separate_run(runs, state_of):
    config, together, alone = runs
    for run in seed_runs(config, together):
        name = run.run_dir.name
        (one, host), (two, other) = (state_of(run.config, root / name) for root in (together, alone))
        assert int(one.learner.updates) == int(two.learner.updates) == 40
        assert_close(without_moments(one), without_moments(two))
        assert {key: host[key] for key in ("data_start", "policy_start", "evaluations", "next_eval")} == {
            key: other[key] for key in ("data_start", "policy_start", "evaluations", "next_eval")
        }
        rows, expected = rows_of(together / name), rows_of(alone / name)
        assert len(rows) == len(expected) == 6
        for ours, theirs in zip(rows, expected, strict=True):
            if not (ours["updates"] and "eval/episode_return" in ours):
                assert ours == {k: pytest.approx(v, rel=1e-4, abs=1e-5) for k, v in theirs.items()}


def test_the_directories_are_those_of_separate_runs(runs):
    config, together, alone = runs
    for run in seed_runs(config, together):
        ours, theirs = run.run_dir, alone / run.run_dir.name
        files = [
            sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if "state/" not in path.as_posix())
            for root in (ours, theirs)
        ]
        assert files[0] == files[1]
        one, two = (json.loads((root / "config.json").read_text()) for root in (ours, theirs))
        assert one == two and one["seed"] == run.config.seed and one["run"]["num_seeds"] == 1
        one, two = (json.loads((root / "result.json").read_text()) for root in (ours, theirs))
        assert one.keys() == two.keys() and one["env_steps"] == two["env_steps"]
        assert one["random_return"] == pytest.approx(two["random_return"], rel=1e-4)
        loaded, _, state = load_run(ours)
        assert loaded.seed == run.config.seed and int(state.learner.updates) == 40


def test_a_resumed_group_equals_the_straight_one_bit_for_bit(runs, trained, state_of, folder):
    """Killed between the two seeds' rows of a chunk. The second one loses its newest checkpoint too.

    It goes on with random actions where the first one learns, which waits for it.
    """
    config, together, _ = runs
    name = "killed"
    root, _ = trained(config, name, stop_at=2000)
    newest = max((root / "seed2/checkpoints").iterdir(), key=lambda path: int(path.name))
    assert len(list((root / "seed2/checkpoints").iterdir())) == 2 and not (root / "seed1/result.json").exists()
    shutil.rmtree(newest)
    shutil.copytree(root, folder / f"{name} and continued alone")
    _, messages = trained(config, name)
    resumed = [text for text in messages if "resuming from" in text]
    assert [text.split("/")[-1] for text in resumed] == ["1600", "800"] and resumed[1].startswith("seed 2: ")
    for run in seed_runs(config, root):
        (one, host), (two, other) = (state_of(run.config, where / run.run_dir.name) for where in (root, together))
        assert_trees_equal(one, two)
        assert host["best_return"] == other["best_return"]
        assert rows_of(run.run_dir) == rows_of(together / run.run_dir.name)


def test_a_seed_of_a_group_goes_on_alone_and_a_group_goes_on_from_separate_runs(runs, trained, train_alone, folder):
    config, _, alone = runs
    root = folder / "killed and continued alone"
    second = seed_runs(config, root)[1]
    auto = dataclasses.replace(second.config, env=dataclasses.replace(second.config.env, physics="auto"))
    result = train_alone(auto, second.run_dir)  # goes on with the physics that it began with
    assert result.final_return == pytest.approx(
        json.loads((alone / "seed2/result.json").read_text())["final_return"], rel=1e-3
    )
    # The first seed, which the group left behind, is the only one that is not finished: it is trained alone.
    _, messages = trained(config, root.name)
    assert [text for text in messages if "finished run" in text] == [
        f"{second.run_dir} holds a finished run; nothing to do"
    ]
    first = json.loads((root / "seed1/result.json").read_text())
    expected = json.loads((alone / "seed1/result.json").read_text())
    assert first["final_return"] == pytest.approx(expected["final_return"], rel=1e-3)
    # Two separate runs that get more steps go on as a group.
    longer = dataclasses.replace(config, total_steps=2800)
    shutil.copytree(alone, folder / "alone, then together")
    _, messages = trained(longer, "alone, then together")
    assert sum("resuming from" in text for text in messages) == 2
    for name in ("seed1", "seed2"):
        written = json.loads((folder / "alone, then together" / name / "result.json").read_text())
        assert written["env_steps"] == 3120
