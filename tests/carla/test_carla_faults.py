"""The environment with a simulator that fails: every kind of fault once, and processes that die or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from covr_jax.carla import env as carla_env
from covr_jax.carla.channel import Failure
from covr_jax.carla.client import CarlaSupervisor, RetryPolicy, ServerGone, ServerRefused
from covr_jax.carla.env import CarlaEnv
from covr_jax.carla.loopback.faults import KINDS
from covr_jax.carla.servers import OwnServer, child_environment, loopback_command, parse_address
from covr_jax.carla.worker_process import StepFailure, WorkerProcess
from experiments.benchmark.carla_faults import alive, trial

pytest.importorskip("carla", reason="the client is not installed")

pytestmark = pytest.mark.slow

GO = np.array([0.0, 0.4], np.float32)
REPORTED = {  # kinds under which the environment reports a fault
    "rpc-hang": ("timeout",), "rpc-close": ("timeout",), "server-exit": ("timeout",), "rpc-error": ("protocol",),
    "rpc-garbage": ("protocol",), "picture-lost": ("picture",), "picture-late": ("picture",), "picture-twice": ("",),
    "picture-cut": ("crash",), "picture-unknown": ("crash",), "stream-close": ("picture",),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_costs_one_step_and_nothing_wrong_is_returned(kind):
    """Number 1 is odd, so all trials are on the street and share one reference."""
    checks = trial(kind, 1, image_size=16, call_s=0.5, calls=("tick_cue",))
    assert checks.passed(RetryPolicy().step_s), checks
    assert checks.seen in REPORTED[kind] and checks.transitions >= 3


def test_a_lost_control_is_noticed():
    """The client does not wait for the reply; without a check of the state the old control would stay unnoticed."""
    checks = trial("rpc-error", 1, image_size=16, calls=("apply_control_to_vehicle",))
    assert checks.passed(RetryPolicy().step_s) and checks.seen == "control", checks


@pytest.fixture
def env():
    made = CarlaEnv("ghost_pedestrian", image_size=16, retry_policy=RetryPolicy(step_s=1.0, call_s=0.5, connect_s=2.0))
    yield made
    made.close()


def failed_step(env):
    """Steps until a fault and returns its TimeStep."""
    for _ in range(3):
        step = env.step(GO)
        if env.fault:
            return step
    raise AssertionError("no fault was noticed")


@pytest.mark.parametrize(("sent", "kind"), [(signal.SIGKILL, "crash"), (signal.SIGSTOP, "silence")])
def test_a_child_that_dies_or_hangs_is_replaced(env, sent, kind):
    env.reset()
    env.step(GO)
    child = env.supervisor.pid
    os.kill(child, sent)
    step = failed_step(env)
    assert (env.fault, step.last(), step.discount, step.reward) == (kind, True, 1.0, 0.0)
    assert env.metrics()["faulted"] == 1.0 and not alive(child)
    assert env.step(GO).first() and env.fault is None
    assert env.step(GO).mid() and env.host_metrics()["host/restarts"] == 1


def test_a_server_that_hangs_is_replaced(env):
    """A new child cannot connect to it either, which distinguishes a hung server from a hung child."""
    env.reset()
    server = env.supervisor.server_pid
    os.kill(server, signal.SIGSTOP)
    failed_step(env)
    assert env.reset().first() and env.step(GO).mid()
    assert not alive(server) and env.host_metrics()["host/server_restarts"] == 1


def test_child_and_server_are_replaced_after_some_episodes():
    env = CarlaEnv("ghost_pedestrian", image_size=16, retry_policy=RetryPolicy(recycle=2))
    pids = []
    for _ in range(4):
        env.reset()
        pids.append((env.supervisor.pid, env.supervisor.server_pid))
    assert pids[0] == pids[1] and pids[2] == pids[3] and not set(pids[0]) & set(pids[2])
    assert env.host_metrics()["host/faults"] == 0 and not any(map(alive, pids[0]))
    env.close()


def test_too_many_faults_raise_server_gone():
    policy = RetryPolicy(restarts=2, step_s=1.0)
    env = CarlaEnv("ghost_pedestrian", image_size=16, retry_policy=policy)
    for _ in range(2):
        env.reset()
        os.kill(env.supervisor.pid, signal.SIGKILL)
        failed_step(env)
    env.reset()
    os.kill(env.supervisor.pid, signal.SIGKILL)
    failed_step(env)
    pids = [pid for pid in (env.supervisor.pid, env.supervisor.server_pid) if pid]
    with pytest.raises(ServerGone, match=r"^the simulator failed 3 times within 600 s; last: crash: .*SIGKILL$"):
        env.reset()
    assert pids and not any(alive(pid) for pid in pids)


def test_no_process_is_left_when_the_parent_is_killed():
    code = (
        "import time; from covr_jax.carla.env import CarlaEnv\n"
        "env = CarlaEnv('ghost_pedestrian', image_size=16); env.reset()\n"
        "print(env.supervisor.pid, env.supervisor.server_pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=child_environment()) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        parent.kill()
    end = time.monotonic() + 10.0
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, pids))


PRINT_MODE = """
import os, sys, carla
client = carla.Client("127.0.0.1", int(sys.argv[1]))
client.set_timeout(5.0)
print(client.get_world().get_settings().synchronous_mode, flush=True)
os._exit(0)
"""


def test_another_s_server_gets_its_clock_back_when_the_parent_is_killed():
    server = OwnServer(loopback_command("covr_street"), 30.0)
    server.start()

    def synchronous():
        command = [sys.executable, "-c", PRINT_MODE, str(server.address.port)]
        return subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=True).stdout

    code = (
        "import sys, time; from covr_jax.carla.env import CarlaEnv\n"
        "env = CarlaEnv('ghost_pedestrian', f'127.0.0.1:{sys.argv[1]}', image_size=16); env.reset()\n"
        "print(env.supervisor.pid, flush=True); time.sleep(60)"
    )
    try:
        command = [sys.executable, "-c", code, str(server.address.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment()) as parent:
            pid = int(parent.stdout.readline())
            assert synchronous() == "True\n"
            parent.kill()
        end = time.monotonic() + 15.0
        while alive(pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not alive(pid) and synchronous() == "False\n"
    finally:
        server.stop()


def test_a_client_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(carla_env, "find_spec", lambda name: None if name == "msgpack" else name)
    with pytest.raises(ServerRefused, match=r"^not installed: msgpack; pip install"):
        CarlaEnv("highway")
    CarlaEnv("highway", "127.0.0.1:9").close()  # a server that runs already does not need msgpack


def test_requests_to_one_child_do_not_overlap():
    """Ctrl-C closes an env from the main thread while the env's own thread still waits for a response."""
    child, sent = object.__new__(WorkerProcess), []

    class FakeChannel:
        def send(self, request, timeout_s):
            sent.append(request)

        def receive(self, timeout_s):
            time.sleep(0.2)
            return sent[-1]

    child._channel, child._lock = FakeChannel(), threading.Lock()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda request: child.call(request, 1.0), ["step", "close"])) == ["step", "close"]


def test_old_faults_do_not_count():
    """With a fake clock: five faults within ten minutes are one too many; spread over a longer time they are not."""
    now = [0.0]
    supervisor = CarlaSupervisor(None, parse_address("127.0.0.1:1"), RetryPolicy(restarts=4), clock=lambda: now[0])
    for _ in range(20):
        supervisor._record_fault(Failure("crash", "x"))
        assert not supervisor._too_many_faults()
        now[0] += 151.0
    for _ in range(4):
        supervisor._record_fault(Failure("crash", "x"))
    assert supervisor._too_many_faults()
    with pytest.raises(RuntimeError, match="reset comes first"):
        supervisor.step(0.0, 0.0, 0.0)
    assert issubclass(ServerGone, RuntimeError) and not issubclass(StepFailure, RuntimeError)
