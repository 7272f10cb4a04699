"""Measures ticks per second on the loopback server, with and without the child process. It does not measure CARLA.

``python experiments/benchmark/carla.py --image-sizes 84 128 --num-envs 1 2 4``

A tick is 0.05 s of simulated time. Columns, for one agent that drives gently:

* ``client_ticks_per_s``: the session with the client, called within one process.
* ``env_ticks_per_s``: ``CarlaEnv``, which runs the same session in a child process.
* ``together_ticks_per_s``: the sum over ``num_envs`` environments, each with its own child and server, one thread each.
* ``client_cpu_ms``, ``env_cpu_ms``, ``server_cpu_ms``: processor time per tick, which other jobs disturb less: of the
  first column's process, of the second column's parent and child, and of its server.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.carla.channel import SessionSetup
from covr_jax.carla.env import CarlaEnv, RetryPolicy
from covr_jax.carla.scenarios import PROFILES, SCENARIOS
from covr_jax.carla.servers import OwnServer, child_environment, loopback_command
from covr_jax.commands import cli
from experiments.benchmark import measure

GENTLE = np.array([0.0, 0.1], np.float32)
MAX_TICKS = 10**6


def client_rate(scenario: str, profile: str, size: int, seconds: float) -> tuple[float, float]:
    """Runs ``session_rate`` in a process of its own, since the client may abort at its end."""
    server = OwnServer(loopback_command(SCENARIOS[scenario].towns[0]), 30.0)
    server.start()
    setup = SessionSetup(
        "127.0.0.1", server.address.port, scenario, profile, size, MAX_TICKS, "clear_noon", False, 10.0, 60.0, 5.0, None
    )
    # As a module: with a script, its folder comes first in the path and this file shadows the client `carla`.
    command = [sys.executable, "-P", "-m", "experiments.benchmark.carla", "--session", json.dumps(setup), str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=child_environment())
    finally:
        server.stop()
    rate, cpu_ms = map(float, done.stdout.split())
    return rate, cpu_ms


def session_rate(setup: SessionSetup, seconds: float) -> tuple[float, float]:
    """Returns ticks per second of a session in this process, and its processor time per tick in ms."""
    from covr_jax.carla.worker.session import Session

    session = Session(setup)
    session.load()
    session.reset(0, 0)
    ticks, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        result = session.step(0.0, 0.1, 0.0)
        ticks += len(result.ticks)
        if result.end:
            session.reset(0, 0)
    return ticks / (time.perf_counter() - started), (time.process_time() - cpu) / ticks * 1e3


def env_rate(env: CarlaEnv, frame_skip: int, seconds: float) -> float:
    """Returns ticks per second of an environment that has been reset."""
    ticks, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        ticks += frame_skip * (not env.step(GENTLE).first())
    return ticks / (time.perf_counter() - started)


def processor_s(pid: int | None) -> float:
    """Processor time in s that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def alone(scenario: str, profile: str, size: int, seconds: float) -> dict[str, float]:
    """Measures one environment: ticks per second, and processor time per tick of its processes."""
    skip = PROFILES[profile].rules.frame_skip
    env = CarlaEnv(scenario, profile=profile, image_size=size, weather="clear_noon", max_ticks=MAX_TICKS)
    env.reset()
    pid, server_pid = env.supervisor.pid, env.supervisor.server_pid
    before = (time.process_time() + processor_s(pid), processor_s(server_pid), time.perf_counter())
    rate = env_rate(env, skip, seconds)
    ticks = rate * (time.perf_counter() - before[2])
    after = (time.process_time() + processor_s(pid), processor_s(server_pid))
    env.close()
    own, server = ((late - early) / ticks * 1e3 for late, early in zip(after, before[:2], strict=True))
    return {"env_ticks_per_s": rate, "env_cpu_ms": own, "server_cpu_ms": server}


def together(scenario: str, profile: str, size: int, count: int, seconds: float) -> float:
    """Returns ticks per second summed over environments that step at the same time."""
    policy, skip = RetryPolicy(step_s=60.0, call_s=30.0), PROFILES[profile].rules.frame_skip
    envs = [
        CarlaEnv(
            scenario,
            profile=profile,
            seed=seed,
            image_size=size,
            weather="clear_noon",
            max_ticks=MAX_TICKS,
            retry_policy=policy,
        )
        for seed in range(count)
    ]
    try:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(CarlaEnv.reset, envs))
            return sum(pool.map(lambda env: env_rate(env, skip, seconds), envs))
    finally:
        for env in envs:
            env.close()


def measure_rows(scenario: str, profile: str, size: int, counts: list[int], seconds: float) -> list[dict[str, Any]]:
    """Returns one row of the table per number of environments."""
    rate, cpu_ms = client_rate(scenario, profile, size, seconds)
    single = {"client_ticks_per_s": rate, "client_cpu_ms": cpu_ms} | alone(scenario, profile, size, seconds)
    rows = []
    for count in counts:
        row: dict[str, Any] = {"scenario": scenario, "profile": profile, "image_size": size, "num_envs": count}
        row |= single | {"together_ticks_per_s": together(scenario, profile, size, count, seconds)}
        rows.append(row)
        print(measure.table([row]), flush=True)
    return rows


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="carla.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--profile", default="dmr", choices=PROFILES)
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[84])
    parser.add_argument("--num-envs", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--note", default="", help="text to store with the numbers")
    parser.add_argument("--session", nargs=2, metavar=("SETUP", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.session:
        print(*session_rate(SessionSetup(*json.loads(arguments.session[0])), float(arguments.session[1])), flush=True)
        os._exit(0)
    rows = []
    for scenario in arguments.scenarios:
        for size in arguments.image_sizes:
            rows += measure_rows(scenario, arguments.profile, size, arguments.num_envs, arguments.seconds)
    if arguments.output:
        measure.write(arguments.output, rows, simulator="loopback", seconds=arguments.seconds, note=arguments.note)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    cli.guarded(main)
