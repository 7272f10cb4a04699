"""Opens the checkpoint of a run: its config, its compiled programs and its state."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from covr_jax import config as configuration
from covr_jax.config import VLM_POLICY_METHODS, Config, ConfigError, Distractors
from covr_jax.io import checkpoint
from covr_jax.training.programs import Programs
from covr_jax.training.resolve import resolve
from covr_jax.training.state import TrainState


def load_run(
    run_dir: Path, env_steps: int | None = None, distractors: Distractors | None = None
) -> tuple[Config, Programs, TrainState]:
    """Config, programs and state of a checkpoint (the newest, or that of ``env_steps``). No VLM is loaded.

    ``distractors`` takes the place of the run's own in evaluation.

    Raises:
      ConfigError, CheckpointError: no run there, or one in which the VLM acts.
    """
    path = run_dir / "config.json"
    if not path.exists():
        raise ConfigError(f"{run_dir} holds no run (no config.json); give a directory that train.py wrote")
    config = resolve(configuration.from_dict(json.loads(path.read_text())))
    if distractors:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, distractors=distractors))
    if config.method in VLM_POLICY_METHODS:
        shown = run_dir / "metrics.jsonl"
        raise ConfigError(f"{config.method} has no policy but the VLM's; its evaluations are in {shown}")
    programs = Programs(config)
    state, _, _ = checkpoint.Checkpointer(run_dir).restore(lambda: programs.init(begin=False), env_steps)
    return config, programs, state
