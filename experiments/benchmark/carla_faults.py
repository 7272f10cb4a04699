"""Injects every kind of fault at random steps, with the real client and the loopback server; then measures leaks.

``python experiments/benchmark/carla_faults.py --trials 10 --episodes 500 --output FILE``

A trial drives a known episode, injects one fault at a random step and checks that

* all transitions are equal to those of a run without faults, bit for bit;
* the faulty step is reported as such: LAST, discount 1, reward 0, the previous image;
* the next episode begins within the time limit of a step plus five seconds;
* no process is left at the end.

``leaks`` are the resident megabytes of this process, the child and the server over short episodes without faults: first
with one child throughout, then with children replaced as usual.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.carla.env import CarlaEnv, RetryPolicy
from covr_jax.carla.loopback.faults import KINDS, PICTURE, PICTURE_KINDS, Fault, arm
from covr_jax.commands import cli
from experiments.benchmark import measure

SCENARIOS = ("highway", "ghost_pedestrian")
STEPS, LATEST = 60, 50  # steps of a trial; last step before which the fault is scheduled
GRACE_S = 5.0
TOLERATED = ("picture-twice",)  # the client drops the second copy, so nothing is wrong
# Procedures that the client calls itself while it drives; on the highway the Traffic Manager calls the others.
_CALLS = {
    "ghost_pedestrian": ("tick_cue", "tick_cue", "apply_control_to_vehicle"),
    "highway": ("tick_cue", "apply_control_to_vehicle", "apply_batch", "get_episode_settings"),
}


class Fingerprint(NamedTuple):
    """Values by which transitions are compared."""

    reward: float
    image: int  # CRC-32


def actions(episode: int) -> np.ndarray:
    """Actions f32[STEPS,2] that keep the vehicle on the road."""
    random = np.random.default_rng([77, episode])
    return np.stack([random.uniform(-0.01, 0.01, STEPS), random.uniform(0.3, 0.6, STEPS)], 1).astype(np.float32)


def make(scenario: str, episode: int, image_size: int, **options: Any) -> CarlaEnv:
    """Makes an environment that starts with an episode; ``options`` are those of its RetryPolicy."""
    policy = RetryPolicy(**{"restarts": 1000, **options})
    return CarlaEnv(scenario, seed=5, episode=episode, image_size=image_size, retry_policy=policy)


def fingerprint(step: Any) -> Fingerprint:
    """Returns the fingerprint of a TimeStep."""
    return Fingerprint(step.reward, zlib.crc32(step.observation.tobytes()))


@lru_cache(None)
def reference(scenario: str, episode: int, image_size: int) -> list[Fingerprint]:
    """Returns the fingerprints of an episode without faults."""
    env = make(scenario, episode, image_size)
    env.reset()
    fingerprints = [fingerprint(env.step(action)) for action in actions(episode)]
    env.close()
    return fingerprints


class Checks(NamedTuple):
    """The result of a trial."""

    kind: str
    scenario: str
    call: str
    seen: str  # kind of the fault that the environment reported, or ""
    recovery_s: float  # from the faulty step's start to the next FIRST
    transitions: int
    foreign: int  # transitions that differ from the run without faults
    reported: bool  # LAST, discount 1, reward 0, previous image
    left: int  # processes that still run

    def passed(self, deadline_s: float) -> bool:
        """Whether all checks hold; ``deadline_s`` is the time limit of a step."""
        return not self.foreign and self.reported and not self.left and self.recovery_s <= deadline_s + GRACE_S


def trial(kind: str, number: int, image_size: int = 32, calls: tuple[str, ...] = (), **options: Any) -> Checks:
    """Injects one fault and checks the environment's reaction.

    Args:
      kind: see ``loopback.faults.KINDS``.
      number: number of the trial; with ``kind`` the seed of scenario, step and procedure.
      image_size: px.
      calls: procedures to draw from; by default those that the client calls while it drives.
      **options: see ``make``.
    """
    random = np.random.default_rng([KINDS.index(kind), number])
    scenario = SCENARIOS[number % len(SCENARIOS)]
    expected = reference(scenario, number, image_size)
    call = PICTURE if kind in PICTURE_KINDS else str(random.choice(calls or _CALLS[scenario]))
    env, pids = make(scenario, number, image_size, **options), set()
    start = int(random.integers(3, LATEST))
    previous, fingerprints, seen, reported, recovery = env.reset(), [], "", True, 0.0
    for index, action in enumerate(actions(number)):
        pids |= processes(env)
        if index == start:
            arm(env.supervisor.address.port, Fault(kind, call, int(random.integers(1, STEPS - LATEST))))
        began = time.monotonic()
        step = env.step(action)
        if env.fault:
            seen = env.fault
            same = np.array_equal(step.observation, previous.observation)
            reported = bool(step.last() and step.discount == 1.0 and step.reward == 0.0 and same)
            reported &= env.reset().first()
            recovery = time.monotonic() - began
            reported &= env.step(action).mid() and not env.fault
            break
        fingerprints.append(fingerprint(step))
        previous = step
    pids |= processes(env)
    env.close()
    foreign = sum(one != other for one, other in zip(fingerprints, expected, strict=False))
    reported &= bool(seen) or kind in TOLERATED
    left = sum(alive(pid) for pid in pids)
    return Checks(kind, scenario, call, seen, recovery, len(fingerprints), foreign, reported, left)


def processes(env: CarlaEnv) -> set[int]:
    """Ids of the processes that the environment runs now."""
    return {pid for pid in (env.supervisor.pid, env.supervisor.server_pid) if pid}


def alive(pid: int) -> bool:
    """Whether a process runs; zombies do not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def megabytes(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def leaks(episodes: int, recycle: int, steps: int = 10, every: int = 50) -> list[dict[str, Any]]:
    """Measures resident megabytes and open files of the three processes after each ``every`` highway episodes."""
    env, rows = make("highway", 0, 32, recycle=recycle), []
    for episode in range(1, episodes + 1):
        env.reset()
        for _ in range(steps):
            env.step(np.array([0.0, 0.5], np.float32))
        if episode % every == 0:
            pids = {"parent": os.getpid(), "child": env.supervisor.pid, "server": env.supervisor.server_pid}
            row: dict[str, Any] = {"episode": episode, "recycle": recycle}
            row |= {f"{name}_mb": megabytes(pid) for name, pid in pids.items() if pid}
            row |= {f"{name}_files": len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items() if pid}
            rows.append(row)
            print(measure.table([row]), flush=True)
    env.close()
    return rows


def summary(checks: list[Checks], deadline_s: float) -> list[dict[str, Any]]:
    """Returns one row of the table per kind of fault."""
    rows = []
    for kind in KINDS:
        own = [check for check in checks if check.kind == kind]
        seen = Counter(check.seen or "none" for check in own)
        rows.append(
            {
                "kind": kind,
                "trials": len(own),
                "passed": sum(check.passed(deadline_s) for check in own),
                "longest_recovery_s": round(max(check.recovery_s for check in own), 2),
                "transitions": sum(check.transitions for check in own),
                "foreign_transitions": sum(check.foreign for check in own),
                "processes_left": sum(check.left for check in own),
                "seen_as": ", ".join(f"{name} {count}" for name, count in seen.most_common()),
            }
        )
    return rows


def main() -> int:
    """Runs all trials and the leak test; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="carla_faults.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10, help="number for each kind")
    parser.add_argument("--jobs", type=int, default=2, help="number of trials at a time")
    parser.add_argument("--episodes", type=int, default=500, help="number for the leak test; 0 for none")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    deadline, checks = RetryPolicy().step_s, []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for check in pool.map(trial, *zip(*product(KINDS, range(arguments.trials)), strict=True)):
            checks.append(check)
            print(check, "" if check.passed(deadline) else "FAILED", flush=True)
    rows = summary(checks, deadline)
    found = [row for recycle in (10**9, RetryPolicy().recycle) for row in leaks(arguments.episodes, recycle)]
    if arguments.output:
        more = {"simulator": "loopback", "deadline_s": deadline, "grace_s": GRACE_S, "leaks": found}
        measure.write(arguments.output, rows, **more)
    print("\n" + measure.table(rows))
    return int(any(row["passed"] < row["trials"] for row in rows))


if __name__ == "__main__":
    cli.guarded(main)
