"""Opens the checkpoint of a run: its config, its compiled programs and its policy."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal, NamedTuple

from covr_jax import config as configuration
from covr_jax import replay
from covr_jax.config import VLM_POLICY_METHODS, Config, ConfigError, Distractors, RendererName
from covr_jax.envs import TASKS, HostTask, HostVecEnv, find_task, suite_task
from covr_jax.envs.task import Task
from covr_jax.io.checkpoint import BEST, Checkpointer
from covr_jax.io.run_dir import read_options
from covr_jax.training.parts import Parts, build_parts
from covr_jax.training.programs import Programs
from covr_jax.training.resolve import resolve
from covr_jax.training.state import HISTORY, EvaluatedState, ExperienceState, initial_progress


def load_run(
    run_dir: Path,
    checkpoint: int | Literal["best"] | None = None,
    distractors: Distractors | None = None,
    task: str | None = None,
    renderer: RendererName | None = None,
    *,
    in_suite: bool = False,
) -> tuple[Config, Programs, EvaluatedState]:
    """Config, programs and policy of a run. No VLM is loaded, and neither replay nor environments are read.

    Args:
      run_dir: that ``train.py`` wrote.
      checkpoint: env steps of one; "best" for the policy of the best evaluation; None: the newest.
      distractors: take the place of the run's own in evaluation.
      task: takes the place of the run's own, see ``in_task``; None: the run's own.
      renderer: takes the place of the run's own; None: the run's own.
      in_suite: evaluate in dm_control's own task with its own pictures, see ``suite_envs``.

    Raises:
      ConfigError, CheckpointError: no run there, one that cannot be read, or one in which the VLM acts; or a task in
        which its policy cannot act.
    """
    config = _config_of(run_dir)
    if distractors:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, distractors=distractors))
    if renderer:
        config = dataclasses.replace(config, renderer=renderer)
    if config.method in VLM_POLICY_METHODS:
        shown = run_dir / "metrics.jsonl"
        raise ConfigError(f"{config.method} has no policy but the VLM's; its evaluations are in {shown}")
    if task is not None:
        config = in_task(config, task)
    programs = Programs(config)
    if in_suite:
        programs.evaluate_in(suite_envs(config, programs.parts.frame_stack))
    env_steps, folder = (None, BEST) if checkpoint == "best" else (checkpoint, "checkpoints")
    checkpointer = Checkpointer(run_dir, folder, history=HISTORY)
    state, _, _ = checkpointer.restore(programs.init_policy, env_steps, partial=True)
    return config, programs, state


def _config_of(run_dir: Path) -> Config:
    """Reads the config of a run, resolved, for one device. Raises ConfigError where there is none."""
    if not (run_dir / "config.json").exists():
        raise ConfigError(f"{run_dir} holds no run (no config.json); give a directory that train.py wrote")
    config = resolve(configuration.from_dict(read_options(run_dir)))
    return dataclasses.replace(config, run=dataclasses.replace(config.run, devices=1))  # it may have had more of them


def suite_envs(config: Config, frame_stack: int) -> HostVecEnv:
    """dm_control's own version of a run's task, one environment per processor and at most one per episode.

    Args:
      config: of the run, resolved.
      frame_stack: frames of an observation of its policy.

    Raises:
      ConfigError: dm_control has no such task, or it would have to draw distractors.
    """
    if config.task not in TASKS:
        raise ConfigError(f"dm_control has no {config.task}; its tasks are {', '.join(TASKS)}")
    if config.eval.distractors != "none":
        raise ConfigError(f"dm_control draws no distractors {config.eval.distractors}; give --distractors none")
    return HostVecEnv(
        suite_task(config.task),
        min(len(os.sched_getaffinity(0)), config.eval.episodes),
        action_repeat=config.env.action_repeat,
        image_size=config.env.image_size,
        frame_stack=frame_stack,
    )


class Experience(NamedTuple):
    """What a checkpoint tells of a run's environments."""

    parts: Parts
    state: ExperienceState
    own_start: int  # time slot of the run's first step; before it the replay holds demonstrations


def load_experience(run_dir: Path, env_steps: int | None = None) -> Experience:
    """The replay of a run. Nothing is compiled, and no environment is opened.

    Args:
      run_dir: that ``train.py`` wrote.
      env_steps: of a checkpoint; None: the newest.

    Raises:
      ConfigError, CheckpointError: no run there, one that cannot be read, or one without a replay.
    """
    config = _config_of(run_dir)
    if config.method in VLM_POLICY_METHODS:
        raise ConfigError(f"{run_dir} has no replay: in {config.method} the VLM acts")
    parts = build_parts(config)

    def like() -> ExperienceState:
        envs, size, storage = parts.env.num_envs, config.env.image_size, config.replay.storage
        store = replay.init(parts.slots, envs, size, parts.env.action_dim, storage, parts.answer_dim)
        return parts.device_put(ExperienceState(store, initial_progress(envs)))

    state, host, _ = Checkpointer(run_dir, history=HISTORY).restore(like, env_steps, partial=True)
    return Experience(parts, state, host.get("own_start", 0))


def in_task(config: Config, name: str) -> Config:
    """Returns a run's config with another task, for an evaluation of its policy there.

    The policy keeps what it was trained with: the size of its images, its frames and its action repeat. So its images
    have the right size in every task, and what can differ is the number of actions.

    Args:
      config: resolved, so that nothing in it is left to the task.
      name: of the task.

    Raises:
      ConfigError: an unknown task, or one with another number of actions.
    """
    carla = dataclasses.asdict(config.carla)
    try:
        trained, other = (_action_dim(find_task(task, **carla)) for task in (config.task, name))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if trained != other:
        actions = f"it has {_counted(trained)}, and that task takes {_counted(other)}"
        raise ConfigError(f"a policy of {config.task} cannot act in {name}: {actions}")
    return dataclasses.replace(config, task=name)


def _action_dim(task: Task | HostTask) -> int:
    return task.action_dim if isinstance(task, HostTask) else task.load_model().nu


def _counted(actions: int) -> str:
    return f"{actions} action{'' if actions == 1 else 's'}"
