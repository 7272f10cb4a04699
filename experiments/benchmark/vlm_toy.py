"""The claims of EDDF and RALW in miniature: a VLM learns a scripted expert, also from partly random data.

``python experiments/benchmark/vlm_toy.py --seeds 1 2 3 --output toy.json``

Frames show cartpole in random poses; the expert's action is clip(0.8 sin(angle) - position), which one frame
determines. ``expert`` fine-tunes on these labels alone. In the other rows half of the samples have a uniform random
action instead, and each sample has a return: 1 - |action - expert's| plus noise, so that random samples usually have
lower returns. ``uniform`` weights all samples equally, ``eddf`` drops those under the threshold (Eq. 5, with the
entropy of a uniform random policy), ``ralw`` weights by return (Eq. 6), ``eddf_ralw`` is COVR. Filter, weights, trainer
and engine are those of the package; every row has the same number of optimiser steps and starts from the same adapter.
``error`` is the mean |answer - expert's action| on held-out frames, ``untuned`` the one before fine-tuning, ``zero``
that of always answering 0, ``random_weight`` the share of the random samples in the sum of weights.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure

HELD_OUT = 256
ENTROPY = math.log(2.0)  # nats, of uniform actions in [-1, 1]
MIN_KEEP = 64
WAYS = ("expert", "uniform", "eddf", "ralw", "eddf_ralw")


class Toy(NamedTuple):
    """Samples with their returns."""

    frames: np.ndarray  # u8[N,84,84,3]
    expert: np.ndarray  # f32[N,1]
    action: np.ndarray  # f32[N,1], random for half of the samples
    random: np.ndarray  # bool[N], whether the action is random
    returns: np.ndarray  # f32[N]
    heldout_frames: np.ndarray  # u8[M,84,84,3]
    heldout_expert: np.ndarray  # f32[M,1]


def make_toy(samples: int, noise: float, seed: int) -> Toy:
    """Draws poses, frames, labels and returns; ``noise`` is the largest error of a return."""
    from experiments.build_tiny_vlm import scene_drawer

    generator, count = np.random.default_rng(seed), samples + HELD_OUT
    position, angle = generator.uniform(-1.5, 1.5, count), generator.uniform(-np.pi, np.pi, count)
    frames = scene_drawer("cartpole")(np.stack([position, angle], 1).astype(np.float32), 84)
    expert = np.clip(0.8 * np.sin(angle) - position, -1.0, 1.0).astype(np.float32)[:, None]
    random = generator.permutation(samples) < samples // 2
    other = generator.uniform(-1.0, 1.0, (samples, 1)).astype(np.float32)
    action = np.where(random[:, None], other, expert[:samples])
    returns = 1.0 - np.abs(action - expert[:samples])[:, 0] + noise * generator.uniform(-1.0, 1.0, samples)
    return Toy(
        frames[:samples],
        expert[:samples],
        action,
        random,
        returns.astype(np.float32),
        frames[samples:],
        expert[samples:],
    )


def selected(toy: Toy, way: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the indices, actions f32[K,1] and weights f32[K] that a row fine-tunes on."""
    from covr_jax.covr import eddf, ralw

    everything = np.arange(len(toy.frames))
    if way == "expert":
        return everything, toy.expert, np.ones(len(everything), np.float32)
    kept = everything
    if "eddf" in way:
        exploration = eddf.exploration_degree(ENTROPY, toy.action.shape[1])
        kept = np.nonzero(np.asarray(eddf.dynamic_filter(toy.returns, exploration, min_keep=MIN_KEEP)))[0]
    weights = np.array(ralw.loss_weights(toy.returns[kept])) if "ralw" in way else np.ones(len(kept), np.float32)
    return kept, toy.action[kept], weights


def rows_of(seed: int, ways: list[str], samples: int, steps: int, noise: float) -> list[dict[str, Any]]:
    """Fine-tunes one engine per way and returns one row each."""
    from covr_jax.vlm.engine import VLMEngine
    from covr_jax.vlm.finetune_round import action_error

    toy, rows = make_toy(samples, noise, seed), []
    zero = float(np.abs(toy.heldout_expert).mean())
    for way in ways:
        engine = VLMEngine("tiny", "cartpole_swingup", 1, seed=seed, finetune_options={"steps": steps})
        untuned = action_error(engine, toy.heldout_frames, toy.heldout_expert)
        kept, actions, weights = selected(toy, way)
        started = time.perf_counter()
        record = engine.finetune(toy.frames[kept], actions, weights)
        share = float((weights * toy.random[kept]).sum() / weights.sum()) if way != "expert" else 0.0
        rows.append(
            {
                "seed": seed,
                "way": way,
                "error": action_error(engine, toy.heldout_frames, toy.heldout_expert),
                "untuned": untuned,
                "zero": zero,
                "kept": len(kept),
                "random_weight": share,
                "loss": record["finetune_loss"],
                "rolled_back": record["rolled_back"],
                "seconds": time.perf_counter() - started,
            }
        )
        print(measure.table(rows[-1:]), flush=True)
    return rows


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="vlm_toy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--samples", type=int, default=32_768, help="before filtering")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of 32 samples")
    parser.add_argument("--noise", type=float, default=0.25, help="largest error of a return")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    from covr_jax import runtime

    runtime.configure()
    settings = {name: getattr(arguments, name) for name in ("ways", "samples", "steps", "noise")}
    rows = [row for seed in arguments.seeds for row in rows_of(seed, **settings)]
    errors = {way: [row["error"] for row in rows if row["way"] == way] for way in arguments.ways}
    summary = [
        {"way": way, "error_mean": statistics.mean(values), "least": min(values), "most": max(values)}
        for way, values in errors.items()
    ]
    print(measure.table(summary))
    if arguments.output:
        measure.write(arguments.output, rows, settings=settings, summary=summary)
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main)
