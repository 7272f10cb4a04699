"""``train()``: one call that trains, or goes on training, in a run directory."""

from __future__ import annotations

import json
from pathlib import Path

from covr_jax import config as configuration
from covr_jax.config import VLM_POLICY_METHODS, Config
from covr_jax.config.validate import validate
from covr_jax.io.files import write_json
from covr_jax.io.reporter import Reporter
from covr_jax.io.run_dir import Result, check_config, claim
from covr_jax.training.loop import AgentTrainer
from covr_jax.training.resolve import comparable, resolve
from covr_jax.training.trainer import Trainer
from covr_jax.training.vlm_agent import VLMTrainer


def make_trainer(config: Config, run_dir: Path, reporter: Reporter) -> Trainer:
    """The trainer of a method."""
    return (VLMTrainer if config.method in VLM_POLICY_METHODS else AgentTrainer)(config, run_dir, reporter)


def train(config: Config, run_dir: Path, reporter: Reporter, command: str = "") -> Result:
    """Trains, or goes on training, in ``run_dir``; returns the final evaluation.

    Raises:
      ConfigError: options that cannot be used together, or a directory of another run.
      CheckpointError: the run's checkpoint cannot be read or written.
      EnvironmentLost: an environment on the host does not come back; a checkpoint has been written.
    """
    validate(config)
    resolve(config)  # what it refuses must not leave a directory
    with claim(run_dir):
        config = resolve(check_config(config, run_dir, comparable))
        finished = run_dir / "result.json"
        if finished.exists():
            reporter.message(f"{run_dir} holds a finished run; nothing to do")
            values = json.loads(finished.read_text())
            return Result(*(values[name] for name in Result._fields))
        trainer = make_trainer(config, run_dir, reporter)
        # Only now: options that turn out to be unusable do not claim the directory.
        if not (run_dir / "config.json").exists():
            write_json(run_dir / "config.json", configuration.to_dict(config), indent=2)
        try:
            result = trainer.run()
        finally:
            if trainer.vlm:
                trainer.vlm.close()
        facts = {"renderer": trainer.programs.parts.image_source, "command": command}
        write_json(finished, result._asdict() | facts)
    return result
