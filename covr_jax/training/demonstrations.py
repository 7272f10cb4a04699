"""How a run begins with demonstrations in its replay: episodes of a Minari dataset, recorded elsewhere."""

from __future__ import annotations

from typing import Any

from covr_jax import replay
from covr_jax.config import Config, ConfigError
from covr_jax.io.datasets import Dataset
from covr_jax.io.reporter import Reporter
from covr_jax.replay.demonstrations import Plan, distribute
from covr_jax.training.parts import Parts
from covr_jax.training.programs import Programs
from covr_jax.training.state import TrainState
from covr_jax.training.surroundings import changes


def recorded_with(parts: Parts) -> dict[str, Any]:
    """What a run's episodes depend on beside its policy and the size of their images; JSON-able."""
    env = parts.config.env
    return {
        "task": parts.config.task,
        "action_repeat": parts.env.action_repeat,
        "renderer": parts.image_source,
        "samples": env.samples,
        "distractors": env.distractors,
        "physics": env.physics,
    }


def begin(programs: Programs, reporter: Reporter) -> TrainState:
    """Makes the state of a new run; its replay holds the demonstrations, if the config names any.

    Args:
      programs: of the run.
      reporter: told what was taken and what was left out.

    Raises:
      ConfigError: a dataset that cannot be used here, or what ``Programs.init`` raises.
      EnvironmentLost: as ``Programs.init``.
    """
    config, parts = programs.config, programs.parts
    if config.replay.demonstrations is None:
        return programs.init()
    dataset = Dataset(config.replay.demonstrations)
    dataset.check_spaces(config.env.image_size, parts.env.action_dim)
    plan = distribute(dataset.steps, parts.env.num_envs, parts.slots)
    _check_room(config, parts.slots, dataset.steps[-1], plan)
    for line in _lines(dataset, plan, parts):
        reporter.message(line)
    state = programs.init()
    try:
        return state.replace(replay=replay.store_episodes(state.replay, plan, dataset.read, programs.pieces.add))
    except ConfigError:
        programs.close()
        raise


def _check_room(config: Config, slots: int, steps: int, plan: Plan) -> None:
    """Raises ConfigError where not even the newest episode fits."""
    if not plan.slots:
        envs = config.env.num_envs
        raise ConfigError(
            f"the newest demonstration has {steps:,} steps, and the replay takes {slots - 1:,} per environment: raise"
            f" --replay.capacity to {steps * envs:,}, or lower --env.num-envs"
        )


def _lines(dataset: Dataset, plan: Plan, parts: Parts) -> list[str]:
    """Says what the replay begins with, and how that was recorded otherwise than the run records."""
    taken = dataset.steps[plan.left_out :]
    left_out = f"; {plan.left_out:,} older ones are left out, for want of --replay.capacity" if plan.left_out else ""
    lines = [f"demonstrations: {len(taken):,} episodes of {sum(taken):,} steps from {dataset.name}{left_out}"]
    if other := changes(dataset.about, recorded_with(parts)):
        lines.append(f"the demonstrations were recorded otherwise ({', '.join(other)})")
    return lines
