"""``train()``: one call that trains, or goes on training, in a run directory."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from covr_jax import config as configuration
from covr_jax.config import VLM_POLICY_METHODS, Config, ConfigError
from covr_jax.config.convert import PROVENANCE
from covr_jax.config.validate import validate
from covr_jax.io.files import append_json, write_json
from covr_jax.io.provenance import commit
from covr_jax.io.reporter import Reporter
from covr_jax.io.run_dir import Result, check_config, claim, read_options
from covr_jax.runtime import hosts
from covr_jax.training.host_checks import check_alike, check_hosts
from covr_jax.training.loop import AgentTrainer
from covr_jax.training.resolve import comparable, resolve
from covr_jax.training.surroundings import provenance
from covr_jax.training.trainer import Trainer
from covr_jax.training.vlm_agent import VLMTrainer
from covr_jax.types import Diverged, Preempted, Stop, never


def make_trainer(config: Config, run_dir: Path, reporter: Reporter, stop: Stop = never) -> Trainer:
    """The trainer of a method; ``stop`` as of ``train``.

    Raises:
      Preempted: ``stop`` gave a reason while programs were compiled.
    """
    return (VLMTrainer if config.method in VLM_POLICY_METHODS else AgentTrainer)(config, run_dir, reporter, stop)


def train(
    config: Config,
    run_dir: Path,
    reporter: Reporter,
    command: str = "",
    stop: Stop = never,
) -> Result:
    """Trains, or goes on training, in ``run_dir``; returns the final evaluation.

    Args:
      config: of the run.
      run_dir: made if missing.
      reporter: shows progress.
      command: recorded with the result.
      stop: asked between chunks, and while programs are compiled; a reason, to stop there with a checkpoint.

    Raises:
      ConfigError: options that cannot be used together, or a directory of another run.
      CheckpointError: the run's checkpoint cannot be read or written.
      Diverged: training has left the finite numbers; ``diverged.json`` says where.
      Preempted: ``stop`` gave a reason; a checkpoint has been written.
      EnvironmentLost: an environment on the host does not come back; a checkpoint has been written.
    """
    validate(config)
    if config.run.num_seeds > 1:
        raise ConfigError(f"train() takes one seed, got --num-seeds {config.run.num_seeds}; call train_seeds()")
    check_hosts(resolve(config))  # what is refused must not leave a directory
    stop = hosts.agree_on(stop)
    with claim(run_dir) if hosts.is_first() else nullcontext():
        hosts.every()  # that the first one holds it
        going_on = check_config(config, run_dir, comparable)
        check_alike(going_on.config)
        config = resolve(going_on.config)
        if going_on.result:
            reporter.message(f"{run_dir} holds a finished run; nothing to do")
            return going_on.result
        try:
            trainer = make_trainer(config, run_dir, reporter, stop)
        except Preempted as error:
            raise Preempted(f"stopped by {error} before anything was trained") from error
        record_start(trainer, going_on.changes)
        try:
            result = trainer.run()
        except Diverged as error:
            raise record_divergence(trainer, error, command) from error
        except Preempted as error:
            raise Preempted(f"stopped by {error} at {trainer.env_steps:,} env steps") from error
        finally:
            if trainer.vlm:
                trainer.vlm.close()
        record_result(trainer, result, command)
    return result


def record_start(trainer: Trainer, changes: dict[str, list[Any]]) -> None:
    """Writes what a run directory holds of a run that begins or goes on, and removes what is no longer true.

    Call it once the trainer is made: options that turn out to be unusable do not claim the directory, nor end a
    finished run.

    Args:
      trainer: of the run.
      changes: options that change from now on, as ``GoingOn.changes``.
    """
    if not hosts.is_first():
        return
    run_dir, config = trainer.run_dir, trainer.config
    (run_dir / "result.json").unlink(missing_ok=True)  # of fewer steps
    if changes:
        append_json(run_dir / "changes.jsonl", {"env_steps": trainer.env_steps, "options": changes})
        for name, (before, after) in changes.items():
            trainer.reporter.message(f"from {trainer.env_steps:,} env steps on: {name} {after} (before: {before})")
    if changes or not (run_dir / "config.json").exists():
        made_by = read_options(run_dir).get(PROVENANCE) if changes else provenance(config)
        write_json(run_dir / "config.json", configuration.to_dict(config) | {PROVENANCE: made_by}, indent=2)
    (run_dir / "diverged.json").unlink(missing_ok=True)  # of an earlier attempt


def record_divergence(trainer: Trainer, error: Diverged, command: str) -> Diverged:
    """Writes ``diverged.json``; returns the error that tells where the run diverged and what is kept of it."""
    last = (trainer.checkpointer.steps() or [None])[-1]
    facts = {"env_steps": trainer.env_steps, "updates": trainer.updates, "reason": str(error)}
    facts |= {"last_checkpoint": last, "command": command}
    if hosts.is_first():
        write_json(trainer.run_dir / "diverged.json", facts, indent=2)
    kept = "there is no checkpoint" if last is None else f"the last checkpoint is that of {last:,} env steps"
    return Diverged(f"diverged at {trainer.env_steps:,} env steps: {error}; {kept}")


def record_result(trainer: Trainer, result: Result, command: str) -> None:
    """Writes ``result.json``."""
    if not hosts.is_first():
        return
    facts = {"renderer": trainer.programs.parts.image_source, "command": command, "commit": commit()}
    write_json(trainer.run_dir / "result.json", result._asdict() | facts)
