"""Session set-up: no window system, the commands' compile cache, shape checks, groups of tests that share programs."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from functools import cache

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MUJOCO_GL", "disable")  # dm_control looks for a display when it is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("COVR_JAX_KEPT", "0")  # tests replace functions in front of commands

# A test compiles far longer than it computes. Without XLA's optimisations a learner's update compiles six times faster;
# OPTIMISED=1 tests the programs as users run them.
if os.environ.get("OPTIMISED", "0") != "1":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()


def keep_to_a_share(worker: int, workers: int) -> None:
    """Each of several test processes keeps to processors of its own: two threads of XLA that meet others' lose more
    than half of their speed. Before JAX counts them."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) >= workers:
        os.sched_setaffinity(0, processors[worker % workers :: workers])  # a worker in a dead one's place: a new number


if name := os.environ.get("PYTEST_XDIST_WORKER"):
    keep_to_a_share(int(name.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


# Modules of pure array functions: the shapes and dtypes that their annotations promise are checked on every call.
CHECKED = ("covr_jax.replay.buffer", "covr_jax.replay.storage")
install_import_hook(CHECKED, "beartype.beartype")


def pytest_configure():
    from covr_jax import runtime

    runtime.configure()


# One task without contact and one with it stand for the nine in the first tier.
FIRST_TIER = ("cartpole_swingup", "walker_walk")
SECOND_TIER = (
    "reacher_easy",
    "cheetah_run",
    "finger_spin",
    "ball_in_cup_catch",
    "hopper_hop",
    "walker_run",
    "pendulum_swingup",
)


def task_of(item):
    """The DMControl task that a test compiles and is parametrised by, or None."""
    if item.path.parent.name not in ("envs", "training"):
        return None
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return next((v for v in values if isinstance(v, str) and v in FIRST_TIER + SECOND_TIER), None)


def group_of(item):
    """Tests of one group run in one process and share what they compile: a marked group's, a task's, or a file's."""
    if marker := item.get_closest_marker("xdist_group"):
        return marker.args[0] if marker.args else marker.kwargs["name"]
    task = task_of(item)
    return task.replace("walker_run", "walker_walk") if task else item.path.name  # walkers share model and physics


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in a hook of the same name
def pytest_collection_modifyitems(items):
    for item in items:
        if task_of(item) in SECOND_TIER and "mujoco" not in item.callspec.params.values():  # which compiles little
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(name=group_of(item)))
    # A group is not interrupted by another one, which would drop its programs. The longest goes first: in the end no
    # process is at it alone.
    items.sort(key=lambda item: (group_of(item) != "training", group_of(item)))


def pytest_collection_finish(session):
    grouped = getattr(session.config.option, "loadgroup", False)
    if grouped and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("these versions of pytest and pytest-xdist do not group tests; see requirements.txt")


def pytest_runtest_teardown(item, nextitem):
    """Drops the compiled programs of a group that is over.

    They map memory, and those of all groups together are more than Linux lets one process map (65,530).
    """
    if (nextitem is None or group_of(item) != group_of(nextitem)) and "jax" in sys.modules:
        for shared in SHARED:
            shared.cache_clear()
        sys.modules["jax"].clear_caches()
        gc.collect()


INHERITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@pytest.fixture(autouse=True)
def same_shares():
    """A benchmark sets its threads and its share of a GPU; processes of later tests do not inherit them."""
    before = {name: os.environ[name] for name in INHERITED if name in os.environ}
    yield
    for name in INHERITED:
        os.environ.pop(name, None)
    os.environ.update(before)


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


def programs_key(config):
    """The config without what reaches no compiled piece, so that runs which differ there share their programs."""
    from covr_jax import config as configuration

    defaults = configuration.Config()
    vlm = dataclasses.replace(
        defaults.vlm,
        every=config.vlm.every,
        hold=config.vlm.hold,
        frames=config.vlm.frames,
        ask_share=config.vlm.ask_share,
    )
    agent = configuration.agent(config)
    return dataclasses.replace(
        config,
        method=agent,
        base="rad",
        total_steps=defaults.total_steps,
        covr=defaults.covr,
        vlm=vlm,
        run=defaults.run,
    )


@cache
def shared_programs(config):
    """Programs by ``programs_key``."""
    from covr_jax.training.programs import Programs

    return Programs(config)


SHARED = [shared_programs]  # caches of compiled programs, emptied when a group of tests is over


@pytest.fixture(scope="session")
def make_programs():
    """Programs of a config, shared within a group of tests, since tracing the renderer takes seconds."""
    return lambda config, ahead=None: shared_programs(programs_key(config))


@pytest.fixture(scope="session")
def piece_sizes():
    """How many variants of each compiled piece of some Programs there are."""

    def sizes(programs):
        used = ("act", "random_action", "add", "count", "query", "set_prior", "learn_critic", "learn_actor")
        pieces = {name: getattr(programs.pieces, name) for name in used}
        pieces["mean_action"] = programs.evaluator.mean_action
        pieces |= {name: getattr(programs.stepper, name) for name in ("_initial", "_advance", "_observe")}
        return {name: getattr(piece, "_jitted", piece)._cache_size() for name, piece in pieces.items()}

    return sizes
