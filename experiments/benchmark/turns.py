"""Contestants timed in turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

# What the environment can tell glibc to keep freed memory; it heeds them in the arena of the first thread only.
GLIBC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}


def pin(threads: int | None) -> int:
    """Keep to the last ``threads`` processors, one thread each; before JAX and Torch are imported."""
    allowed = sorted(os.sched_getaffinity(0))
    chosen = allowed[-(threads or len(allowed)) :]
    os.sched_setaffinity(0, chosen)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(len(chosen))
    # JAX takes three quarters of a GPU's memory unless told otherwise; here it has a guest.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    return len(chosen)


class Contestant(NamedTuple):
    """Something that is measured in turns with others.

    ``work`` starts ``amount`` updates, or steps; ``wait`` returns when all that were started are done; ``cpu`` is the
    processor time taken so far, seconds; ``prepare`` is called before a turn, whose time it is not part of.
    """

    work: Callable[[], Any]
    amount: int
    wait: Callable[[], Any]
    cpu: Callable[[], float] = time.process_time
    prepare: Callable[[], Any] = lambda: None


def elsewhere(make: Callable[..., Contestant], *arguments: Any, **environment: str) -> Contestant:
    """What ``make(*arguments)`` gives in a process of its own, with these variables; it lives as long as this one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    kept = dict(os.environ)
    os.environ.update(environment)
    context.Process(target=_serve, args=(there, make, arguments), daemon=True).start()
    os.environ.clear()
    os.environ.update(kept)
    there.close()

    def ask(name: str) -> Any:
        here.send(name)
        return here.recv()

    return Contestant(lambda: ask("work"), here.recv(), lambda: ask("wait"), lambda: ask("cpu"))


def _serve(connection: Connection, make: Callable[..., Contestant], arguments: tuple[Any, ...]) -> None:
    contestant = make(*arguments)
    connection.send(contestant.amount)
    with contextlib.suppress(EOFError):  # the other side has gone
        while True:
            asked = connection.recv()
            answer = getattr(contestant, asked)()
            connection.send(answer if asked == "cpu" else None)


class Turn(NamedTuple):
    """Seconds per update or step, on the clock and of the contestant's processors."""

    wall: float
    cpu: float


def take_turns(contestants: dict[str, Contestant], rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """Each contestant's turns, one in every round; a turn lasts about ``seconds``, at least one call."""
    calls = {}
    for name, one in contestants.items():
        run(one, 1)  # compiles
        calls[name] = max(1, round(seconds / (run(one, 1).wall * one.amount)))
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, one in contestants.items():
            turns[name].append(run(one, calls[name]))
    return turns


def run(contestant: Contestant, calls: int) -> Turn:
    contestant.prepare()
    wall, cpu = time.perf_counter(), contestant.cpu()
    for _ in range(calls):
        contestant.work()
    contestant.wait()
    amount = calls * contestant.amount
    return Turn((time.perf_counter() - wall) / amount, (contestant.cpu() - cpu) / amount)


def row(name: str, turns: list[Turn], ours: list[Turn], unit: str = "updates") -> dict[str, Any]:
    """Medians over rounds.

    ``ours_is``: how many times as fast ours was in the same round, on the clock and in processor time, which neighbours
    on the machine disturb less (and which says nothing of a GPU).
    """
    pairs = list(zip(turns, ours, strict=True))
    return {
        "contestant": name,
        f"{unit}_per_s": statistics.median(1 / turn.wall for turn in turns),
        "least": min(1 / turn.wall for turn in turns),
        "most": max(1 / turn.wall for turn in turns),
        "ours_is": statistics.median(turn.wall / own.wall for turn, own in pairs),
        "cpu_ms": 1e3 * statistics.median(turn.cpu for turn in turns),
        "ours_is_by_cpu": statistics.median(turn.cpu / own.cpu for turn, own in pairs),
    }
