"""Every kind of fault, many times at random moments, against the real client and the loopback server; then leaks.

``python experiments/benchmark/carla_faults.py --trials 10 --episodes 500 --output FILE``

A trial drives a known episode, orders one fault for a random moment and checks that

* everything returned as a transition is equal to a run without faults, bit for bit;
* the faulty step is reported as what it is: LAST, discount 1, no reward, the previous picture;
* the next episode begins within the deadline and five seconds;
* and at the end no process is left.

``leaks`` are resident megabytes of this process, the child and the server over short episodes without faults: first of
one child throughout, then with children replaced as usual.
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
from experiments import cli
from experiments.benchmark import measure

SCENARIOS = ("highway", "ghost_pedestrian")
STEPS, LATEST = 60, 50  # of a trial; last step before which the fault is ordered
GRACE_S = 5.0
TOLERATED = ("picture-twice",)  # the client drops the second copy: nothing is wrong
# What the environment's client calls itself while it drives; on the highway the Traffic Manager calls the others.
_CALLS = {
    "ghost_pedestrian": ("tick_cue", "tick_cue", "apply_control_to_vehicle"),
    "highway": ("tick_cue", "apply_control_to_vehicle", "apply_batch", "get_episode_settings"),
}


class Moment(NamedTuple):
    """What a transition is compared by."""

    reward: float
    picture: int  # its checksum


def actions(episode: int) -> np.ndarray:
    """f32[STEPS,2], gentle enough to stay on the road."""
    random = np.random.default_rng([77, episode])
    return np.stack([random.uniform(-0.01, 0.01, STEPS), random.uniform(0.3, 0.6, STEPS)], 1).astype(np.float32)


def make(scenario: str, episode: int, image_size: int, **limits: Any) -> CarlaEnv:
    """An environment about to play that episode, of patience without end."""
    given = RetryPolicy(**{"restarts": 1000, **limits})
    return CarlaEnv(scenario, seed=5, episode=episode, image_size=image_size, limits=given)


def moment(step: Any) -> Moment:
    return Moment(step.reward, zlib.crc32(step.observation.tobytes()))


@lru_cache(None)
def reference(scenario: str, episode: int, image_size: int) -> list[Moment]:
    """The episode without faults."""
    env = make(scenario, episode, image_size)
    env.reset()
    moments = [moment(env.step(action)) for action in actions(episode)]
    env.close()
    return moments


class Checks(NamedTuple):
    """A trial's outcome."""

    kind: str
    scenario: str
    call: str
    seen: str  # the fault that the environment reported, or ""
    recovery_s: float  # from the faulty step's start to the next FIRST
    transitions: int
    foreign: int  # transitions that the run without faults has not
    reported: bool  # LAST, discount 1, no reward, previous picture
    left: int  # processes

    def passed(self, deadline_s: float) -> bool:
        """Whether all is as promised."""
        return not self.foreign and self.reported and not self.left and self.recovery_s <= deadline_s + GRACE_S


def trial(kind: str, number: int, image_size: int = 32, calls: tuple[str, ...] = (), **limits: Any) -> Checks:
    """One fault. Its scenario, moment and procedure are drawn from (kind, number); ``calls``: from which procedures."""
    random = np.random.default_rng([KINDS.index(kind), number])
    scenario = SCENARIOS[number % len(SCENARIOS)]
    expected = reference(scenario, number, image_size)
    call = PICTURE if kind in PICTURE_KINDS else str(random.choice(calls or _CALLS[scenario]))
    env, pids = make(scenario, number, image_size, **limits), set()
    start = int(random.integers(3, LATEST))
    previous, moments, seen, reported, recovery = env.reset(), [], "", True, 0.0
    for index, action in enumerate(actions(number)):
        pids |= processes(env)
        if index == start:
            arm(env.host.address.port, Fault(kind, call, int(random.integers(1, STEPS - LATEST))))
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
        moments.append(moment(step))
        previous = step
    pids |= processes(env)
    env.close()
    foreign = sum(one != other for one, other in zip(moments, expected, strict=False))
    reported &= bool(seen) or kind in TOLERATED
    left = sum(alive(pid) for pid in pids)
    return Checks(kind, scenario, call, seen, recovery, len(moments), foreign, reported, left)


def processes(env: CarlaEnv) -> set[int]:
    """Those that the environment runs now."""
    return {pid for pid in (env.host.pid, env.host.server_pid) if pid}


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def megabytes(pid: int) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def leaks(episodes: int, recycle: int, steps: int = 10, every: int = 50) -> list[dict[str, Any]]:
    """Resident megabytes and open files of the three processes after each ``every`` episodes on the highway."""
    env, rows = make("highway", 0, 32, recycle=recycle), []
    for episode in range(1, episodes + 1):
        env.reset()
        for _ in range(steps):
            env.step(np.array([0.0, 0.5], np.float32))
        if episode % every == 0:
            pids = {"parent": os.getpid(), "child": env.host.pid, "server": env.host.server_pid}
            row: dict[str, Any] = {"episode": episode, "recycle": recycle}
            row |= {f"{name}_mb": megabytes(pid) for name, pid in pids.items() if pid}
            row |= {f"{name}_files": len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items() if pid}
            rows.append(row)
            print(measure.table([row]), flush=True)
    env.close()
    return rows


def summary(checks: list[Checks], deadline_s: float) -> list[dict[str, Any]]:
    """One row per kind."""
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
    parser = argparse.ArgumentParser(
        prog="carla_faults.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10, help="of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--episodes", type=int, default=500, help="of the leak test; 0 for none")
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
