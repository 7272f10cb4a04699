"""Can the embedded VLM learn an expert's actions? Tunes it on an expert's states, outside of any run.

    python experiments/evaluate.py runs/expert --number 1 --states train.npz
    python experiments/evaluate.py runs/expert --number 0 --states held_out.npz
    python experiments/benchmark/expert_vlm.py train.npz --held-out held_out.npz --frames 1 3 --output expert_vlm.json

``error`` is the mean |answer - expert's action| on the held-out states, ``untuned`` the one before tuning, ``zero`` and
``constant`` those of answering 0 and the median of the training actions. All states have weight 1. With ``--adapters
DIR`` the adapters stay in ``DIR/seed1/frames3`` and so on, from which ``train.py --vlm.adapter`` starts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from covr_jax.config import ConfigError
from experiments.benchmark import measure


def row_of(train: Any, held_out: Any, task: str, frames: int, steps: int, seed: int, adapters: Path | None) -> dict:
    """Tunes one engine and measures it.

    Args:
      train: states and actions to learn from, ``expert_states.ExpertStates``.
      held_out: the same, to measure on.
      task: of both.
      frames: that the VLM is shown.
      steps: of the optimiser.
      seed: of adapter and batches.
      adapters: where the adapter stays; None: nowhere.
    """
    from covr_jax.training.queries import vlm_frames
    from covr_jax.vlm.engine import VLMEngine
    from covr_jax.vlm.finetune_round import action_error

    engine = VLMEngine("tiny", task, train.action.shape[1], seed=seed, frames=frames, finetune_options={"steps": steps})
    asked = vlm_frames(held_out.observation, frames)
    untuned, started = action_error(engine, asked, held_out.action), time.perf_counter()
    record = engine.finetune(
        vlm_frames(train.observation, frames), train.action, np.ones(len(train.action), np.float32)
    )
    if adapters:
        engine.save_adapter(adapters / f"frames{frames}")
    middle = np.median(train.action, axis=0)
    return {
        "task": task,
        "frames": frames,
        "seed": seed,
        "error": action_error(engine, asked, held_out.action),
        "untuned": untuned,
        "zero": float(np.abs(held_out.action).mean()),
        "constant": float(np.abs(held_out.action - middle).mean()),
        "states": len(train.action),
        "loss": record["finetune_loss"],
        "seconds": time.perf_counter() - started,
    }


def main() -> int:
    """Prints a row per number of frames, and writes them."""
    parser = argparse.ArgumentParser(
        prog="expert_vlm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("states", nargs="+", type=Path, help="files of evaluate.py --states to learn from")
    parser.add_argument("--held-out", type=Path, required=True, metavar="FILE", help="the file to measure on")
    parser.add_argument("--task", default="cartpole_swingup")
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 3], help="that the VLM is shown")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of 32 samples")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--adapters", type=Path, metavar="DIR", help="where the adapters stay")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    own = parser.parse_args()
    cli.import_quietly(warp=False)

    from covr_jax import runtime
    from covr_jax.training.expert_states import ExpertStates, measured, read_file

    runtime.configure()
    parts = [read_file(path, own.task) for path in own.states]
    train = ExpertStates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    held_out, rows = measured(read_file(own.held_out, own.task)), []
    for seed in own.seeds:
        for frames in own.frames:
            adapters = own.adapters / f"seed{seed}" if own.adapters else None
            rows.append(row_of(train, held_out, own.task, frames, own.steps, seed, adapters))
            print(measure.table(rows[-1:]), flush=True)
    if own.output:
        measure.write(own.output, rows, steps=own.steps)
    return 0


if __name__ == "__main__":
    cli.guarded(main, ConfigError)
