"""The claims of EDDF and RALW in miniature: a VLM learns a scripted expert, also from partly random data.

``python experiments/benchmark/vlm_toy.py --seeds 1 2 3 --output toy.json``
``python experiments/benchmark/vlm_toy.py --expert cartpole_motion --frames 3 --ways expert --output motion.json``

Frames show a scene in random poses. The ``--expert`` of cartpole acts by clip(0.8 sin(angle) - position), which one
frame determines; those that end in ``_motion`` act by the motion too, which only several frames (``--frames 3``) show.
``expert`` fine-tunes on these labels alone. In the other rows half of the samples have a uniform random
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
from collections.abc import Callable
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


class Expert(NamedTuple):
    """A scripted expert. Poses are drawn as for the tiny model's own training, cartpole's within the rail's middle."""

    domain: str
    task: str
    act: Callable[[np.ndarray, np.ndarray], np.ndarray]  # qpos f32[N,nq], motion numbers f32[N,m] -> before the clip


EXPERTS = {
    "cartpole": Expert("cartpole", "cartpole_swingup", lambda q, motion: 0.8 * np.sin(q[:, 1:]) - q[:, :1]),
    "cartpole_motion": Expert(
        "cartpole",
        "cartpole_swingup",
        lambda q, motion: 0.4 * np.sin(q[:, 1:]) - 0.4 * q[:, :1] + 0.6 * motion[:, 1:] - 0.4 * motion[:, :1],
    ),
    "reacher_motion": Expert(
        "reacher", "reacher_easy", lambda q, motion: -0.5 * np.sin(q / np.array([1.0, 1.8])) - 0.6 * motion
    ),
}


class Toy(NamedTuple):
    """Samples with their returns."""

    frames: np.ndarray  # u8[N,84,84,3F]
    expert: np.ndarray  # f32[N,A]
    action: np.ndarray  # f32[N,A], random for half of the samples
    random: np.ndarray  # bool[N], whether the action is random
    returns: np.ndarray  # f32[N]
    heldout_frames: np.ndarray  # u8[M,84,84,3F]
    heldout_expert: np.ndarray  # f32[M,A]


def make_toy(samples: int, noise: float, seed: int, expert: Expert = EXPERTS["cartpole"], frames: int = 1) -> Toy:
    """Draws poses, frames, labels and returns; ``noise`` is the largest error of a return."""
    from experiments.tiny_vlm_scenes import DOMAINS, sample_motions, scene_drawer

    generator, count, domain = np.random.default_rng(seed), samples + HELD_OUT, DOMAINS[expert.domain]
    if expert.domain == "cartpole":  # elsewhere an outward pole is outside of the picture
        domain = domain._replace(low=(-1.5, -np.pi), high=(1.5, np.pi))
    # Motions are drawn for one frame too: it does not show what the expert knows.
    qpos, _, motion = sample_motions(domain, count, max(frames, 2), generator)
    pictures = scene_drawer(expert.domain)(qpos[:, -frames:].reshape(-1, qpos.shape[-1]), 84)
    pictures = pictures.reshape(count, frames, *pictures.shape[1:])
    pictures = np.concatenate([pictures[:, k] for k in range(frames)], -1)
    label = np.clip(expert.act(qpos[:, -1], motion), -1.0, 1.0).astype(np.float32)
    random = generator.permutation(samples) < samples // 2
    other = generator.uniform(-1.0, 1.0, label[:samples].shape).astype(np.float32)
    action = np.where(random[:, None], other, label[:samples])
    error = np.abs(action - label[:samples]).mean(1)
    returns = 1.0 - error + noise * generator.uniform(-1.0, 1.0, samples)
    return Toy(
        pictures[:samples],
        label[:samples],
        action,
        random,
        returns.astype(np.float32),
        pictures[samples:],
        label[samples:],
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


def rows_of(
    seed: int, ways: list[str], samples: int, steps: int, noise: float, expert: str, frames: int
) -> list[dict[str, Any]]:
    """Fine-tunes one engine per way and returns one row each."""
    from covr_jax.vlm.engine import VLMEngine
    from covr_jax.vlm.finetune_round import action_error

    toy, rows = make_toy(samples, noise, seed, EXPERTS[expert], frames), []
    zero = float(np.abs(toy.heldout_expert).mean())
    for way in ways:
        engine = VLMEngine(
            "tiny",
            EXPERTS[expert].task,
            toy.action.shape[1],
            seed=seed,
            frames=frames,
            finetune_options={"steps": steps},
        )
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
    parser.add_argument("--expert", default="cartpole", choices=EXPERTS)
    parser.add_argument("--frames", type=int, default=1, help="that the VLM is shown, one agent step apart")
    parser.add_argument("--samples", type=int, default=32_768, help="before filtering")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of 32 samples")
    parser.add_argument("--noise", type=float, default=0.25, help="largest error of a return")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    from covr_jax import runtime

    runtime.configure()
    settings = {name: getattr(arguments, name) for name in ("ways", "samples", "steps", "noise", "expert", "frames")}
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
