"""What an accelerator has to show, in one command: benchmarks of this folder, each in a process of its own.

``python experiments/benchmark/gpu.py --minutes 9 --output experiments/results/gpu.json``

In the order of what matters, as a borrowed device may be taken back at any time: the learner beside PyTorch's, pictures
and environment steps, the run's compiled chunk and what compiling it takes, the released 3B architecture with random
weights, and a training run. The file is written after each of them. Called again, the script goes on with what the file
does not hold yet; what failed or took too long is there with the reason, and is tried again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from covr_jax.io.files import write_json  # noqa: E402
from experiments.benchmark import measure  # noqa: E402

HERE = Path(__file__).parent


class Part(NamedTuple):
    """One benchmark.

    Attributes:
      script: that writes JSON.
      options: of the script, but for where it writes.
      seconds: that it may take.
      shown: keys of its rows' numbers for the table; of the whole file's where it has no rows.
      written: name of the file in the directory that ``--run-dir`` names, of scripts with that option.
    """

    script: Path
    options: tuple[str, ...]
    seconds: float
    shown: tuple[str, ...]
    written: str | None = None


def parts() -> dict[str, Part]:
    """All of them, by name, in their order."""
    found, shown = {}, ("updates_per_s", "ours_is")
    for precision in ("float32", "tf32", "bfloat16"):
        for batch in ("128", "512"):
            options = ("--shapes", "paper", "--batch-size", batch, "--precision", precision, "--rounds", "3")
            options += ("--seconds", "1", "--rivals", "torch_channels_last", "torch_compile")
            found[f"learner {precision} {batch}"] = Part(HERE / "learner.py", options, 150, shown)
    for task, physics in (("cartpole_swingup", "mjx"), ("walker_walk", "warp"), ("walker_walk", "mjx")):
        options = ("--tasks", task, "--physics", physics, "--num-envs", "256", "1024", "4096", "--alone")
        shown = ("physics_steps_per_s", "frames_per_s", "pixel_env_steps_per_s")
        found[f"envs {task} {physics}"] = Part(HERE / "envs.py", options, 400, shown)
    shown = ("env_steps_per_s", "updates_per_s", "compile_s", "compile_cold_s", "peak_memory_bytes")
    found["chunk"] = Part(HERE / "throughput.py", ("--preset", "throughput"), 500, shown)
    options = ("--architecture", "3b", "--device", "cuda", "--parts", "answers", "finetune", "merging")
    options += ("--batches", "1", "16", "--rounds", "2", "--preset", "throughput")
    found["vlm 3b"] = Part(HERE / "vlm.py", options, 400, ("answers_per_s", "samples_per_s"))
    options = ("--preset", "throughput", "--method", "rad", "--total-steps", "100000")
    shown = ("final_return", "final_return_std", "seconds")
    found["training"] = Part(ROOT / "experiments" / "train.py", options, 580, shown, "result.json")
    return found


def result_of(part: Part, seconds: float) -> dict[str, Any]:
    """What a part wrote, or why it wrote nothing under ``error``; and the seconds that it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / (part.written or "result.json")
        where = ("--run-dir", folder) if part.written else ("--output", str(written))
        command = [sys.executable, str(part.script), *part.options, *where]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds, cwd=ROOT)
            if done.returncode or not written.exists():
                said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
                found = {"error": said}
            else:
                found = json.loads(written.read_text())
        except subprocess.TimeoutExpired:
            found = {"error": f"more than {seconds:.0f} s"}
    return found | {"took_s": time.monotonic() - began}


def summary(results: dict[str, Any], known: dict[str, Part]) -> list[dict[str, Any]]:
    """A row per number: part, case, unit and value."""
    rows = []
    for name, part in known.items():
        result = results.get(name)
        if result is None or "error" in result:
            why = "not reached" if result is None else result["error"]
            rows.append({"part": name, "case": why[:60], "number": "", "value": None})
            continue
        for row in result.get("rows") or [result]:
            numbers = {key: value for key in part.shown if (value := row.get(key, result.get(key))) is not None}
            case = " ".join(str(row[key]) for key in ("contestant", "num_envs", "batch", "part") if key in row)
            rows += [{"part": name, "case": case, "number": key, "value": value} for key, value in numbers.items()]
            if not set(part.shown) & set(row):
                break  # numbers of the whole file, which all its rows would repeat
    return rows


def main() -> int:
    known = parts()
    parser = argparse.ArgumentParser(
        prog="gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing new is begun or waited for")
    parser.add_argument("--parts", nargs="+", default=list(known), choices=list(known), metavar="PART")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, or to go on with")
    arguments = parser.parse_args()
    results = json.loads(arguments.output.read_text())["results"] if arguments.output.exists() else {}
    until = time.monotonic() + 60.0 * arguments.minutes
    for name in arguments.parts:
        left = until - time.monotonic()
        if left < 1.0 or (name in results and "error" not in results[name]):
            continue
        print(f"{name} ...", flush=True)
        results[name] = result_of(known[name], min(known[name].seconds, left))
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, measure.identity() | {"results": results})
    print("\n" + measure.table(summary(results, known)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
