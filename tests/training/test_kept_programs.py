"""Runs that start from kept programs: which runs share them, and the same numbers with them as without."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from covr_jax.config import EvalConfig
from covr_jax.io.metrics import read_metrics
from covr_jax.runtime.ahead import Ahead
from covr_jax.runtime.rng import ENV, stream
from covr_jax.training.programs import Programs
from covr_jax.training.resolve import resolve

ROOT = Path(__file__).parents[2]
KEPT = {"starts", "picture", "networks", "policy", "update of the critic", "update of the actor"}


class Lowered(Ahead):
    """Notes what is begun, as it is lowered, and compiles nothing."""

    def __init__(self):
        super().__init__()
        self.texts = {}

    def begin(self, name, program, *arguments):
        self.texts[name] = program.lower(*arguments).as_text()
        return program.shapes(*arguments)


def lowered(config):
    noted = Lowered()
    Programs(resolve(config), noted)._begin_compiling(stream(config.seed, ENV))
    del noted.texts["physics"]  # C MuJoCo is called by an address in this process, and not kept
    return noted.texts


@pytest.mark.parametrize(
    "method",
    ["rad", "drqv2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resact", "taco", "mrq", "mlr"))],
)
def test_what_runs_may_differ_in_reaches_no_program_that_is_kept(tiny_config, method):
    config = dataclasses.replace(tiny_config, method=method)
    other = dataclasses.replace(
        config,
        seed=7,
        total_steps=99_000,
        preset="cpu",
        eval=EvalConfig(every=800, episodes=3),
        run=dataclasses.replace(config.run, checkpoint_every=400),
    )
    texts = lowered(config)
    assert set(texts) == KEPT
    assert lowered(other) == texts


def trained(directory, caches, *options, kept="1"):
    """The numbers that a run of the demo's kind logs, and how many programs it compiled or read from JAX's cache."""
    small = "--env.image-size 20 --env.samples 1 --augment.center-crop None --sac.hidden-dim 16 --sac.batch-size 16"
    short = "--env.num-envs 2 --sac.init-steps 40 --total-steps 4000 --eval.every 4000 --eval.episodes 2"
    command = f"--preset demo --method rad {small} {short} --run.no-video --run.log-every 400"
    environment = os.environ | {
        "COVR_JAX_KEPT": kept,
        "JAX_COMPILATION_CACHE_DIR": str(caches),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run(
        [sys.executable, ROOT / "experiments/train.py", *command.split(), *options, "--run-dir", directory],
        env=environment,
        check=True,
        capture_output=True,
    )
    rows = read_metrics(directory / "metrics.jsonl")
    numbers = [
        {
            name: value
            for name, value in row.items()
            if name.startswith(("losses/", "sac/", "eval/", "train/episode_return"))
        }
        for row in rows
    ]
    return numbers, max(row.get("compile/programs", 0) for row in rows)


@pytest.mark.slow
def test_a_run_from_kept_programs_is_the_run_that_traced_them(tmp_path):
    caches = tmp_path / "caches"
    trained(tmp_path / "first", caches)
    (folder,) = (caches / "programs").iterdir()
    assert len(list(folder.iterdir())) == len(KEPT)
    traced, number = trained(tmp_path / "traced", caches, "--seed", "2", kept="0")
    taken, fewer = trained(tmp_path / "taken", caches, "--seed", "2")  # those of seed 1
    assert taken == traced and {"losses/critic", "eval/episode_return"} <= {name for row in traced for name in row}
    assert fewer == number - len(KEPT) and list((caches / "programs").iterdir()) == [folder]
