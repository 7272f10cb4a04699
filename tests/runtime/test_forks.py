"""Processes that were forked: refused in one line where JAX would hang, at work where JAX had not started."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import envs, runtime
from covr_jax.agents import make_learner, make_method
from covr_jax.config import AugmentConfig, SACConfig
from covr_jax.envs.interop.as_dm_env import DmEnv
from covr_jax.envs.interop.as_gymnasium import GymVectorEnv
from covr_jax.training.programs import Programs

TASK = "pendulum_swingup"
REFUSAL = (
    "this process was forked after JAX had started, and JAX hangs in it; start it by"
    " multiprocessing.get_context('spawn') or 'forkserver'"
)


def forked(work, seconds=30.0):
    """What ``work`` returns in a forked child, by a pipe; fails where the child hangs."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python and JAX warn of what is tried here
        pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        assert select.select([read], [], [], seconds)[0], "the child hangs"
        return json.loads(os.read(read, 65536))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)


def refusals(calls):
    said = {}
    for name, call in calls.items():
        try:
            call()
            said[name] = "went on"
        except RuntimeError as error:
            said[name] = str(error)
    return said


@pytest.fixture(scope="module")
def made_before():
    """Environments and a learner that the parent has made and the child inherits."""
    learner = make_learner(1, 1e-3, make_method("sac", AugmentConfig(), 12, "translate"), SACConfig())
    vectorised = GymVectorEnv(TASK, 1, pixels=False)
    vectorised._state = object()  # as after a reset
    return learner, DmEnv(TASK, pixels=False), vectorised


@pytest.mark.field
def test_every_door_to_jax_is_closed_in_a_forked_process(tiny_config, made_before):
    learner, single, vectorised = made_before
    image, action = np.zeros((1, 12, 12, 9), np.uint8), np.zeros((1, 1), np.float32)
    jnp.zeros(1).block_until_ready()
    calls = {
        "VecEnv": lambda: envs.make(TASK, 1, pixels=False),
        "DmEnv": lambda: DmEnv(TASK, pixels=False),
        "GymVectorEnv": lambda: GymVectorEnv(TASK, 1, pixels=False),
        "Programs": lambda: Programs(tiny_config),
        "jit": lambda: runtime.jit(jnp.sin),
        "DmEnv.reset": single.reset,
        "DmEnv.step": lambda: single.step([0.0]),
        "GymVectorEnv.reset": vectorised.reset,
        "GymVectorEnv.step": lambda: vectorised.step([[0.0]]),
        "learner.init": lambda: learner.init(None, image, action),
        "learner.act": lambda: learner.act(None, image),
    }
    assert forked(lambda: refusals(calls)) == dict.fromkeys(calls, REFUSAL)
    runtime.refuse_forked()  # the parent goes on
    assert forked(lambda: forked(lambda: refusals({"jit": calls["jit"]}))) == {"jit": REFUSAL}  # and its grandchildren


def test_a_fork_before_jax_starts_is_at_work():
    code = """
import os
import jax, jax.numpy as jnp
from covr_jax import runtime
if (pid := os.fork()) == 0:
    print(int(runtime.jit(lambda x: x + 41)(jnp.ones((), int))), flush=True)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    command, root = [sys.executable, "-c", code], Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root, check=False)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_the_parent_is_not_marked():
    assert jax.devices()
    runtime.refuse_forked()
