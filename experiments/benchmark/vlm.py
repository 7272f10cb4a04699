"""Benchmark of the VLM: answers, fine-tuning, the transfer of frames, and the learner's speed beside it.

``python experiments/benchmark/vlm.py --output cpu.json`` (with a GPU: ``--device cuda --architecture 3b``, the released
sizes in bfloat16 with random weights; nothing is downloaded)

Answers per second: ours is the engine's complete query, from frames in JAX to priors in JAX. It is compared with
``generate`` of Hugging Face on the same weights and our patches, under the same grammar as a mask over all rows: called
per frame, batched, batched with the fixed start of the answer in the prompt and nothing after the last digit, and
batched with the LoRA adapter not merged. All must give the same text, or the run fails (in bfloat16 the share of equal
answers is reported). The part ``merging`` has our queries alone, with a merged and a separate adapter, and the seconds
that each switch takes.

The learner's speed is that of the run's own chunks, in two settings, each in a process of its own: one processor for
the VLM alone, or all processors for both. ``of_off`` is the share of the speed without a VLM that is left;
``off_spinning`` has no VLM but an empty loop on the VLM's processor, which measures the cost of any neighbour.
Contestants take turns; numbers are medians over rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from covr_jax.vlm.models import tiny
from experiments.benchmark import measure
from experiments.benchmark.turns import pin

ARCHITECTURES = (*tiny.FAMILIES, "2b", "3b", "7b", "qwen3-2b", "qwen3.5-2b", "internvl-2b")
PARTS = ("answers", "finetune", "merging", "handover", "learner")


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="vlm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="tiny", choices=ARCHITECTURES)
    parser.add_argument("--depth", type=float, default=1.0, help="share of a released architecture's layers")
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        choices=("bfloat16", "float32"),
        help="of a released architecture's weights; many CPUs have no instructions for bfloat16",
    )
    parser.add_argument("--device", default="cpu", help="Torch device: cpu or cuda")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--frame-size", type=int, default=84, help="height = width of the agent's frames, pixels")
    parser.add_argument("--action-dim", type=int, default=1, choices=(1, 2, 6), help="components of an answer")
    parser.add_argument("--merge", action=argparse.BooleanOptionalAction, help="answer with merged weights")
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps per round of fine-tuning")
    parser.add_argument("--preset", default="demo", help="preset of the learner")
    parser.add_argument("--chunks", type=int, default=2, help="chunks of the learner per turn")
    parser.add_argument("--lesson-steps", type=int, default=60, help="optimiser steps of the fine-tuning beside a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="approximate length of a turn")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def engine_parts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the parts that need only an engine. Returns rows per part."""
    import torch

    from covr_jax import runtime
    from experiments.benchmark import vlm_contest as contest

    runtime.configure()
    found: dict[str, Any] = {}
    size = arguments.architecture, arguments.device, arguments.action_dim, arguments.depth, arguments.dtype
    engine = contest.make_vlm(*size, merge=arguments.merge)
    if "answers" in arguments.parts:
        priors = contest.Priors(engine, arguments.frame_size, max(arguments.batches))
        found["answers"] = [r for n in arguments.batches for r in priors.rows(n, arguments.rounds, arguments.seconds)]
    if "finetune" in arguments.parts:
        found["finetune"] = [contest.finetune_row(engine, arguments.frame_size, arguments.steps, arguments.rounds)]
    if "merging" in arguments.parts:
        about = arguments.frame_size, arguments.rounds, arguments.seconds
        found["merging"] = [row for n in arguments.batches for row in contest.merging_rows(engine, n, *about)]
    if "handover" in arguments.parts:
        shapes = [(n, arguments.frame_size) for n in arguments.batches] + [(64, 224)]
        found["handover"] = contest.handover_rows(arguments.device, shapes, arguments.rounds)
    engine.parts()  # the original weights, if they are kept beside merged ones, count
    memory = {"weights_bytes": engine.memory_bytes, "parameters": str(engine.parameter_count)}
    if arguments.device.startswith("cuda"):
        memory |= {"gpu": torch.cuda.get_device_name(), "torch_peak_bytes": torch.cuda.max_memory_allocated()}
    return found | {"memory": [memory]}


def learner_parts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the learner in both settings, each in a new process, since XLA counts the processors once."""
    from experiments.benchmark import vlm_beside

    rows = []
    for spare in (True, False):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            measured = partial(
                vlm_beside.learner_rows,
                spare=spare,
                rounds=arguments.rounds,
                chunks=arguments.chunks,
                lesson_steps=arguments.lesson_steps,
            )
            rows += pool.submit(measured, arguments.preset, arguments.architecture, arguments.device).result()
    return {"learner": rows}


def main() -> int:
    """Runs the benchmark."""
    arguments = parse()
    threads = pin(None)
    found = engine_parts(arguments)
    if "learner" in arguments.parts:
        found |= learner_parts(arguments)
    for rows in found.values():
        print(measure.table(rows) + "\n", flush=True)
    if arguments.output:
        memory = found.pop("memory")[0]
        rows = [{"part": part} | row for part, rows in found.items() for row in rows]
        about = {
            "architecture": arguments.architecture,
            "depth": arguments.depth,
            "device": arguments.device,
            "threads": threads,
        }
        measure.write(arguments.output, rows, **about, memory=memory)
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main)
