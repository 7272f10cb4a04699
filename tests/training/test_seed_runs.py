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
from covr_jax.training import seed_group
from covr_jax.training.programs import Programs
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

# Two programs that compute the same may add the terms of a sum in another order: gradients of a layer for two seeds
# are one batched product, and alone they are one of another shape. Adam turns last digits of small gradients into
# steps of its full size, 1e-3, so that a few parameters out of thousands may differ by more than rounding.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def small(tiny_config):
    """small(method): two seeds, 26 updates each, an evaluation and a checkpoint on the way."""

    def config(method):
        return dataclasses.replace(
            tiny_config,
            method=method,
            total_steps=4000,
            env=dataclasses.replace(tiny_config.env, physics="mjx"),
            eval=dataclasses.replace(tiny_config.eval, every=2000),
            run=dataclasses.replace(tiny_config.run, checkpoint_every=1600, num_seeds=2, log=()),
        )

    return config


@pytest.fixture(scope="module")
def trained(small, folder):
    """trained(config, name, stop_at): a group in a directory of that name; groups share their programs."""
    shared = cache(SeedPrograms)

    def group(config, name, stop_at=math.inf):
        quiet, root = Quiet(stop_at, Stop), folder / name
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Stop):
            patch.setattr(seed_group, "SeedPrograms", lambda config, seeds: shared(without_seed(config), tuple(seeds)))
            train_seeds(config, root, quiet, "the command")
        return root, quiet.messages

    return group


def without_seed(config):
    return dataclasses.replace(config, seed=1)


@pytest.fixture(scope="module", params=["sac", "rad"])
def runs(request, small, trained, folder):
    """A group, and its seeds trained alone: config, the directory of each."""
    config = small(request.param)
    root, _ = trained(config, f"{request.param} together")
    for run in seed_runs(config, folder / f"{request.param} alone"):
        train(run.config, run.run_dir, Quiet(), "the command")
    return config, root, folder / f"{request.param} alone"


def state_of(config, directory):
    """The state of a run's newest checkpoint."""
    programs = Programs(resolve(config))
    state, host, _ = Checkpointer(directory, history=HISTORY).restore(lambda: programs.init(begin=False))
    return host_copy(state), host


def test_each_seed_equals_its_separate_run(runs):
    config, together, alone = runs
    for run in seed_runs(config, together):
        name = run.run_dir.name
        (one, host), (two, other) = (state_of(run.config, root / name) for root in (together, alone))
        assert int(one.learner.updates) == int(two.learner.updates) == 26
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
            where = f"{name}{jax.tree_util.keystr(path)}"
            if a.dtype == np.uint8:
                levels = np.abs(a.astype(int) - b.astype(int))
                assert levels.max() <= 1 and levels.mean() < 1e-3, where
            else:
                np.testing.assert_allclose(a, b, **CLOSE, err_msg=where)
        assert {key: host[key] for key in ("data_start", "policy_start", "evaluations", "next_eval")} == {
            key: other[key] for key in ("data_start", "policy_start", "evaluations", "next_eval")
        }
        rows, expected = rows_of(together / name), rows_of(alone / name)
        assert len(rows) == len(expected) > 5
        for ours, theirs in zip(rows, expected, strict=True):
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
        assert one["final_return"] == pytest.approx(two["final_return"], rel=1e-4)
        loaded, _, state = load_run(ours)
        assert loaded.seed == run.config.seed and int(state.learner.updates) == 26


def test_a_resumed_group_equals_the_straight_one_bit_for_bit(runs, trained, folder):
    """Killed between the two seeds' rows of a chunk; the second one also loses its newest checkpoint."""
    config, together, _ = runs
    name = f"{config.method} killed"
    root, _ = trained(config, name, stop_at=3600)
    newest = max((root / "seed2/checkpoints").iterdir(), key=lambda path: int(path.name))
    assert len(list((root / "seed2/checkpoints").iterdir())) == 2 and not (root / "seed1/result.json").exists()
    shutil.rmtree(newest)
    shutil.copytree(root, folder / f"{name} and continued alone")
    _, messages = trained(config, name)
    resumed = [text for text in messages if "resuming from" in text]
    assert [text.split("/")[-1] for text in resumed] == [newest.name, "1600"] and resumed[1].startswith("seed 2: ")
    for run in seed_runs(config, root):
        (one, host), (two, other) = (state_of(run.config, where / run.run_dir.name) for where in (root, together))
        assert_trees_equal(one, two)
        assert host["best_return"] == other["best_return"]
        assert rows_of(run.run_dir) == rows_of(together / run.run_dir.name)


def test_a_seed_of_a_group_goes_on_alone_and_a_group_goes_on_from_separate_runs(runs, trained, folder):
    config, _, alone = runs
    root = folder / f"{config.method} killed and continued alone"
    second = seed_runs(config, root)[1]
    auto = dataclasses.replace(second.config, env=dataclasses.replace(second.config.env, physics="auto"))
    result = train(auto, second.run_dir, Quiet())  # goes on with the physics that it began with
    assert result.final_return == pytest.approx(
        json.loads((alone / "seed2/result.json").read_text())["final_return"], rel=1e-4
    )
    # The first seed, which the group left behind, is the only one that is not finished: it is trained alone.
    _, messages = trained(config, root.name)
    assert [text for text in messages if "finished run" in text] == [
        f"{second.run_dir} holds a finished run; nothing to do"
    ]
    first = json.loads((root / "seed1/result.json").read_text())
    expected = json.loads((alone / "seed1/result.json").read_text())
    assert first["final_return"] == pytest.approx(expected["final_return"], rel=1e-4)
    # Two separate runs that get more steps go on as a group.
    longer = dataclasses.replace(config, total_steps=4800)
    shutil.copytree(alone, folder / f"{config.method} alone, then together")
    _, messages = trained(longer, f"{config.method} alone, then together")
    assert sum("resuming from" in text for text in messages) == 2
    for name in ("seed1", "seed2"):
        written = json.loads((folder / f"{config.method} alone, then together" / name / "result.json").read_text())
        assert written["env_steps"] >= 4800
