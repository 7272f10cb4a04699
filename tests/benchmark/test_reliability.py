"""The reliability benchmark's own parts; the trials themselves are whole runs, see docs/reliability.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from experiments.benchmark import damage, leaks, reliability
from experiments.benchmark.small_runs import numbers, with_options

CHILDREN = """
import signal, time
from pathlib import Path
from covr_jax.commands import cli
from experiments.benchmark.small_runs import Child

def lost():
    raise KeyError("lost")

kill = lambda: signal.raise_signal(signal.SIGKILL)
for number, work in enumerate((lambda: print("done"), lambda: cli.fail("no"), lost, kill)):
    print(Child(work, Path(str(number))).wait(), Path(str(number)).read_text().strip().splitlines()[-1:])
try:
    Child(lambda: time.sleep(60), Path("late")).wait(0.05)
except TimeoutError as error:
    print(error)
"""


def test_children_end_with_their_own_codes(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CHILDREN]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[:4] == ["0 ['done']", "2 ['error: no']", "1 [\"KeyError: 'lost'\"]", "-9 []"]
    assert lines[4].startswith("a run is still there after 0 s")


def test_a_row_holds_only_with_what_was_wanted():
    row = damage.row_of("flips", 3, "fell back or refused", Counter({"fell back": 2, "refused": 1}), 1.4)
    assert row["held"] and row["found"] == "2 fell back, 1 refused" and row["s"] == 1
    assert not damage.row_of("flips", 3, "fell back", Counter({"fell back": 2, "SILENT": 1}), 1.0)["held"]
    assert "| flips | 3 | fell back or refused | 2 fell back, 1 refused |" in reliability.page([row])


def test_every_part_of_the_table_can_be_run_alone():
    trials = SimpleNamespace(**dict.fromkeys(("root", "kill", "kill_at", "stop", "full_disk", "contest")))
    options = SimpleNamespace(seed=0, kills=4, flips=3, minutes=1.0)
    assert tuple(reliability.stages(trials, options)) == reliability.PARTS


def test_parts_that_are_run_again_take_the_place_of_their_rows():
    before = [{"broken by": name, "trials": 1} for name in ("kills", "flips")]
    rows = reliability.merged(before, [{"broken by": name, "trials": 2} for name in ("leaks", "kills")])
    assert [(row["broken by"], row["trials"]) for row in rows] == [("kills", 2), ("flips", 1), ("leaks", 2)]


def test_numbers_leave_out_what_the_clock_decides(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 8, "wall_s": 1.5, "losses/critic": 0.25}\n')
    (tmp_path / "result.json").write_text('{"final_return": 1.0, "random_return": 2.0, "env_steps": 8, "seconds": 3}')
    rows, result = numbers(tmp_path)
    assert rows == [{"env_steps": 8, "losses/critic": 0.25}]
    assert result == {"final_return": 1.0, "random_return": 2.0, "env_steps": 8}


def test_a_run_is_flat_where_memory_threads_and_files_stay():
    still = [(1_000_000_000 + 1_000_000 * (i % 3), 30, 12) for i in range(50)]
    assert leaks.verdict(still) == "flat (1001 to 1001 MB, 30 threads, 12 files)"
    growing = [(1_000_000_000 + 2_000_000 * i, 30, 12) for i in range(50)]
    assert leaks.verdict(growing).startswith("GREW (1029 to 1089 MB")
    assert leaks.verdict([*still[:45], *[(10**9, 31, 12)] * 5]).startswith("GREW")
    assert leaks.verdict([*still[:45], *[(10**9, 30, 13)] * 5]).startswith("GREW")
    assert leaks.verdict([(2 * 10**9, 50, 40)] * 10 + still[10:]).startswith("flat")  # warming up


def test_a_trial_s_own_options_take_the_place_of_all_trials():
    options = with_options("--method covr --total-steps 9")
    assert options[-4:] == ["--method", "covr", "--total-steps", "9"]
    assert options.count("--method") == options.count("--total-steps") == 1 and "sac" not in options
    assert options[:3] == ["--env.image-size", "20", "--env.samples"]
