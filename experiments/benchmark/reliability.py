"""Breaks small runs on purpose and counts what comes of it.

``make reliability`` (a few minutes; ``RUNS=200`` for that many kills) or
``python experiments/benchmark/reliability.py --kills 20 --page docs/reliability.md``

Every trial is a process of its own, forked from one that has imported everything and woken no device. A broken run is
started again with the same command; its rows of metrics and its result must then be those of a run that nothing
happened to, to the last digit, but for what the clock decides.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import damage, kill_points, leaks, measure
from experiments.benchmark.kill_points import POINTS
from experiments.benchmark.small_runs import Child, numbers, train

ROOT = Path(__file__).resolve().parents[2]
KILLS_PER_RUN = 5
PARTS = ("kills", "points", "signals", "disks", "contests", "leaks", "checkpoints", "environments", "field")
GRACE_S = 10.0  # in which a run that is asked to stop must have stopped


class Trials:
    """Breaks runs in folders under ``root``; ``expected`` is what an undisturbed run comes to."""

    def __init__(self, root: Path, seed: int):
        import covr_jax.commands.console
        import covr_jax.report
        import covr_jax.training.run  # noqa: F401

        self.root, self.random = root, random.Random(seed)
        for name in ("compiled", "whole"):  # the first run fills the compile cache
            started = time.monotonic()
            code = train(root / name).wait(600.0)
            self.seconds = time.monotonic() - started
            assert code == 0, (root / f"{name}.txt").read_text()
        self.expected = numbers(root / "whole")

    def finish(self, directory: Path, more: str = "", expected: Any = None) -> str:
        """Goes on with a broken run; says what came of it."""
        if train(directory, more).wait() != 0:
            return "not resumed"
        same = numbers(directory) == (expected or self.expected)
        shutil.rmtree(directory)
        return "same" if same else "different"

    def kill_at(self, number: int) -> str:
        """SIGKILL at a named point of a run with rounds."""
        point, directory = POINTS[number], self.root / f"point{number}"
        child = train(directory, kill_points.OPTIONS, lambda: kill_points.kill_at(point))
        if (code := child.wait()) != -signal.SIGKILL:
            return f"code {code} {point}"
        come = self.finish(directory, kill_points.OPTIONS, self.expected_of_covr)
        return come if come == "same" else f"{come} {point}"

    @functools.cached_property
    def expected_of_covr(self) -> Any:
        """What an undisturbed run with rounds comes to."""
        code = train(self.root / "covr", kill_points.OPTIONS).wait()
        assert code == 0, (self.root / "covr.txt").read_text()
        return numbers(self.root / "covr")

    def kill(self, number: int) -> str:
        """SIGKILL at random moments of one run."""
        directory = self.root / f"kill{number}"
        for _ in range(KILLS_PER_RUN):
            child = train(directory)
            time.sleep(self.random.uniform(0.0, self.seconds))
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        return self.finish(directory)

    def stop(self, number: int) -> str:
        """SIGTERM, SIGUSR1, SIGINT or SIGHUP at a random moment after the run has begun."""
        directory, sent = self.root / f"stop{number}", (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
        child = train(directory)
        while not (directory / "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(self.random.uniform(0.0, 0.5 * self.seconds))
        os.kill(child.pid, sent[number % len(sent)])
        asked = time.monotonic()
        code = child.wait()
        if time.monotonic() - asked > GRACE_S:
            return "too late"
        return self.finish(directory) if code in (cli.PREEMPTED, 0) else f"code {code}"

    def full_disk(self, number: int) -> str:
        """Files cannot grow beyond a random size; then they can."""
        directory, largest = self.root / f"full{number}", int(10 ** self.random.uniform(2.0, 5.5))
        limits = (largest, resource.RLIM_INFINITY)
        code = train(directory, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)).wait()
        said = directory.with_suffix(".txt").read_text()
        if code not in (0, cli.USAGE_ERROR):
            return f"code {code}: {' '.join(said[-200:].split())}"
        return self.finish(directory) + (" but with tracebacks before the line" if "Traceback" in said else "")

    def contest(self, number: int) -> str:
        """Two processes want one directory at once."""
        directory = self.root / f"contest{number}"
        one, two = train(directory), train(directory)
        codes = sorted((one.wait(), two.wait()))
        same = numbers(directory) == self.expected
        shutil.rmtree(directory)
        return "same" if codes == [0, cli.USAGE_ERROR] and same else f"codes {codes}"


def repeat(name: str, wanted: str, trial: Callable[[int], str], count: int, each: int = 1) -> dict[str, Any]:
    """A row: how often ``count`` trials, which count as ``each``, came to what."""
    started, found = time.monotonic(), Counter[str]()
    for number in range(count):
        try:
            found[trial(number)] += each
        except (TimeoutError, OSError) as error:
            found[str(error)] += each
    return damage.row_of(name, count * each, wanted, found, time.monotonic() - started)


def in_child(work: Callable[[], list[dict[str, Any]]], folder: Path) -> list[dict[str, Any]]:
    """Rows that a function computes in a process of its own, since it wakes the device."""
    answer = folder / "answer.json"
    child = Child(lambda: answer.write_text(json.dumps(work())), folder / "answer.txt")
    if child.wait(1800.0) != 0:
        raise RuntimeError(f"a check failed: {child.output.read_text()[-1000:]}")
    return json.loads(answer.read_text())


def field_cases(folder: Path) -> list[dict[str, Any]]:
    """A row of the tests of what users met, marked ``field``: wrong files, options, values and surroundings."""
    started, report = time.monotonic(), folder / "field.xml"
    command = [sys.executable, "-m", "pytest", "-m", "field", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    subprocess.run([*command, "-n", "auto", "--dist", "loadgroup"], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    found = Counter((list(case) or [ElementTree.Element("as documented")])[0].tag for case in cases)
    return [damage.row_of("field cases", len(cases), "as documented", found, time.monotonic() - started)]


def page(rows: list[dict[str, Any]]) -> str:
    """The table as a page of the documentation."""
    names = [name for name in rows[0] if name not in ("held", "s")]
    lines = [[str(row[name]) for name in names] for row in rows]
    facts = measure.identity()
    hardware = f"{facts['hardware']['cpu']}, {facts['hardware']['cores']} cores"
    table = "\n".join("| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *lines])
    return PAGE.format(table=table, date=time.strftime("%Y-%m-%d"), commit=facts["commit"], hardware=hardware)


PAGE = """# Reliability

Small runs that were broken on purpose, and what came of them: `make reliability` ({date}, commit {commit}, {hardware}).

{table}

*same*: the same command went on from the last checkpoint, and all rows of metrics and the result were those of an
undisturbed run to the last digit. *fell back*: the damage was noticed, and the checkpoint before was used. *refused*:
one line said what is damaged. *harmless*: every array and number was as it had been written. A signal must have ended
the run within 10 s with exit code 75; of two processes that want one directory one is told in a line that it is in
use. Where a disk is full, one line says so. Non-finite numbers are put into environments; the replay must hold none,
and every broken episode is counted. Field cases are the tests marked `field`, each of something that users met: wrong
files, options, values and surroundings. *flat*: memory grew by no more than 2%, threads and open files not at all; the
run checkpoints every 8,000 env steps, each of which leaves some bytes ([limitations](limitations.md)).

Exit codes: 0 done, 2 unusable options or files, 3 diverged, 69 a simulator is gone, 75 stopped by a signal with a
checkpoint (run the same command again), 130 a second Ctrl-C.
"""


def stages(trials: Trials, arguments: argparse.Namespace) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """What makes the rows of each part of the table, in its order."""
    root, seed, few = trials.root, arguments.seed, max(arguments.kills // 4, 1)
    tried = {
        "kills": ("SIGKILL at a random moment", trials.kill, -(-arguments.kills // KILLS_PER_RUN), KILLS_PER_RUN),
        "points": ("SIGKILL at a named point", trials.kill_at, min(2 * few, len(POINTS)), 1),
        "signals": ("SIGTERM, SIGUSR1, SIGINT, SIGHUP", trials.stop, few, 1),
        "disks": ("full disk", trials.full_disk, few, 1),
        "contests": ("two processes at once", trials.contest, few, 1),
    }

    def rows_of(name: str, trial: Callable[[int], str], count: int, each: int) -> list[dict[str, Any]]:
        return [repeat(name, "same", trial, count, each)]

    found: dict[str, Callable[[], list[dict[str, Any]]]] = {
        part: functools.partial(rows_of, *row) for part, row in tried.items()
    }
    if arguments.minutes:
        found["leaks"] = lambda: [leaks.watch(train, root / "leaks", arguments.minutes)]
    return found | {
        "checkpoints": lambda: in_child(lambda: damage.checkpoints(root / "whole", arguments.flips, seed), root),
        "environments": lambda: in_child(lambda: damage.environments(1000, seed), root),
        "field": lambda: field_cases(root),
    }


def merged(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an earlier run with those of this one in their places, or behind them."""
    new = {row["broken by"]: row for row in rows}
    kept = {row["broken by"]: new.get(row["broken by"], row) for row in before}
    return list((kept | new).values())


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="reliability.py", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=20, help="kills; signals, full disks and contests are a quarter, named points half"
    )
    parser.add_argument("--flips", type=int, default=300, help="flipped bits; a third as many truncations")
    parser.add_argument("--minutes", type=float, default=0.0, help="of training under watch for leaks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run; the output keeps the rows of others")
    parser.add_argument("--output", type=Path, help="JSON file for the table")
    parser.add_argument("--page", type=Path, help="Markdown page for the table")
    arguments = parser.parse_args()
    if "leaks" in (arguments.only or ()) and not arguments.minutes:
        parser.error("--only leaks needs --minutes")
    return arguments


def main() -> int:
    arguments = parse()
    cli.import_quietly()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="covr_jax_") as folder:
        for part, work in stages(Trials(Path(folder), arguments.seed), arguments).items():
            if part in (arguments.only or PARTS):
                rows += work()
                print(measure.table(rows[-1:]), flush=True)
    shown = rows
    if arguments.output:
        if arguments.only and arguments.output.exists():
            shown = merged(json.loads(arguments.output.read_text())["rows"], rows)
        measure.write(arguments.output, shown)
    if arguments.page:
        arguments.page.write_text(page(shown))
    print("\n" + measure.table(shown))
    return 0 if all(row["held"] for row in rows) else 1


if __name__ == "__main__":
    cli.guarded(main, RuntimeError)
