"""Set up once per session: no window system, the commands' compile cache, and a COVR run small enough for seconds."""

from __future__ import annotations

import gc
import os
import sys
from functools import cache

import pytest

os.environ.setdefault("MUJOCO_GL", "disable")  # dm_control looks for a display when it is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def keep_to_a_share(worker: int, workers: int) -> None:
    """Each of several test processes keeps to processors of its own: two threads of XLA that meet others' lose more
    than half of their speed. Before JAX counts them."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) >= workers:
        os.sched_setaffinity(0, processors[worker::workers])


if name := os.environ.get("PYTEST_XDIST_WORKER"):
    keep_to_a_share(int(name.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def pytest_configure():
    from covr_jax import runtime

    runtime.configure()


@pytest.fixture(scope="session")
def tiny_config():
    """COVR on cartpole: episodes of 25 agent steps, chunks of 10, rounds at 2000, 6000 and 12000 env steps."""
    from covr_jax import config

    return config.Config(
        total_steps=12_000,
        env=config.EnvConfig(num_envs=2, action_repeat=40, image_size=20, samples=1),
        sac=config.SACConfig(
            batch_size=4,
            init_steps=40,
            hidden_dim=16,
            feature_dim=8,
            num_filters=4,
            conv_kernels=(3, 3),
            conv_strides=(2, 2),
        ),
        replay=config.ReplayConfig(capacity=200),
        covr=config.CovrConfig(psi_0=2000, cold_start_rounds=2, min_keep=4, entropy_samples=32),
        vlm=config.VLMConfig(name="fake", every=5, held_out=4),
        eval=config.EvalConfig(every=4000, episodes=2),
        run=config.RunConfig(checkpoint_every=4000, log_every=1, video=False),
    )


@pytest.fixture(scope="module")
def make_programs():
    """Programs by config; one object per config and file, since tracing the renderer takes seconds."""
    from covr_jax.training.programs import Programs

    return cache(Programs)


@pytest.fixture(scope="session")
def piece_sizes():
    """How many variants of each compiled piece of some Programs there are."""

    def sizes(programs):
        names = ("_act", "_random", "_add", "_progress", "_query", "_attach")
        pieces = {name: getattr(programs, name) for name in names}
        pieces["_mean_action"] = programs.evaluator._mean_action
        pieces |= {name: getattr(programs._env, name) for name in ("_initial", "_advance", "_observe")}
        pieces |= {f"_learn {with_actor}": piece for with_actor, piece in programs._learn.items()}
        return {name: piece._cache_size() for name, piece in pieces.items()}

    return sizes


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file(request):
    """Compiled programs map memory, and those of all files together are more than Linux lets one process map (65,530).

    The files of tests/envs share their programs (see pairs.py), which are the dearest ones and stay.
    """
    yield
    if "jax" in sys.modules and request.path.parent.name != "envs":
        sys.modules["jax"].clear_caches()
        gc.collect()
