"""States of an expert's episodes with its actions, on which a VLM is measured after every round.

A round's own held-out samples differ from round to round and come from a policy that still learns. These states stay
the same. N states, E envs, H W image, C channels of all stacked frames, A action.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from covr_jax.config import Config, ConfigError
from covr_jax.training.evaluation import Policy
from covr_jax.training.programs import Programs
from covr_jax.training.queries import vlm_frames
from covr_jax.types import TimeStep
from covr_jax.vlm.serving.protocol import PriorError, PriorService

MEASURED = 512  # states that measure a VLM, drawn from those of a file
_BATCH = 64  # states per query


class ExpertStates(NamedTuple):
    """What a file holds."""

    observation: np.ndarray  # u8[N,H,W,C]
    action: np.ndarray  # f32[N,A]


class Recorder:
    """A policy that keeps what it saw and did in the first ``episodes`` environments."""

    def __init__(self, policy: Policy, episodes: int):
        self._policy, self._episodes = policy, episodes
        self._seen: list[ExpertStates] = []

    def __call__(self, timestep: TimeStep, step: int) -> Any:
        """Returns the policy's actions f32[E,A]."""
        action = self._policy(timestep, step)
        seen = (np.asarray(timestep.observation), np.asarray(action, np.float32))
        self._seen.append(ExpertStates(*(part[: self._episodes].copy() for part in seen)))
        return action

    def write(self, path: Path, task: str) -> int:
        """Writes all states. Returns how many.

        Raises:
          OSError: the disk refused.
        """
        observation, action = (np.concatenate(parts) for parts in zip(*self._seen, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, observation=observation, action=action, task=np.array(task))
        return len(action)


def read_file(path: str | Path, task: str) -> ExpertStates:
    """Reads a file that ``Recorder.write`` has written.

    Raises:
      ConfigError: there is no such file, or it holds something else, or states of another task.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            of, states = str(file["task"]), ExpertStates(file["observation"], file["action"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read; evaluate.py --states writes such files: {error}") from None
    ranks = states.observation.ndim, states.action.ndim
    if ranks != (4, 2) or len(states.observation) != len(states.action):
        shapes = f"{states.observation.shape} and {states.action.shape}"
        raise ConfigError(f"{path} has observations and actions of {shapes}, expected [N,H,W,C] and [N,A]")
    if of != task:
        raise ConfigError(f"{path} has states of {of}, not of {task}")
    return states


def read_states(path: str | Path, task: str, image_size: int, frames: int, action_dim: int) -> ExpertStates:
    """Reads a file for a run.

    Args:
      path: of the file.
      task: of the run.
      image_size: H = W of the run's images, pixels.
      frames: that the VLM is shown at least.
      action_dim: A.

    Raises:
      ConfigError: as ``read_file``; or other sizes, which the message names.
    """
    states = read_file(path, task)
    height, width, channels, actions = *states.observation.shape[1:], states.action.shape[1]
    if (height, width, actions) != (image_size, image_size, action_dim) or channels < 3 * frames:
        raise ConfigError(
            f"--vlm.expert-states {path} has {height}x{width} pixels, {channels // 3} frames and {actions} action"
            f" components; this run needs {image_size}x{image_size}, {frames} and {action_dim}"
        )
    return states


def measured(states: ExpertStates) -> ExpertStates:
    """Returns ``MEASURED`` of the states, or all where there are fewer; always the same ones."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(states.action))[:MEASURED])
    return ExpertStates(*(part[chosen] for part in states))


def expert_measure(config: Config, programs: Programs) -> Callable[[PriorService], dict[str, float]]:
    """Returns what measures a run's VLM: ``expert_error`` on its states, or nothing where it has none.

    Raises:
      ConfigError: as ``read_states``.
    """
    vlm = config.vlm
    if vlm.expert_states is None:
        return lambda _: {}
    sizes = config.env.image_size, vlm.frames, programs.parts.env.action_dim
    states = measured(read_states(vlm.expert_states, config.task, *sizes))
    return lambda service: expert_error(service, states, vlm.frames)


def expert_error(vlm: PriorService, states: ExpertStates, frames: int) -> dict[str, float]:
    """Returns ``expert_error``, mean |a_v - expert's action| of the valid answers, and ``expert_valid``, their share.

    Args:
      vlm: is asked about all states.
      states: of the expert.
      frames: newest frames of an observation that the VLM is shown.

    Returns:
      The two; empty where the VLM does not answer, the share alone where no answer is valid.
    """
    valid, error = [], []
    try:
        for start in range(0, len(states.action), _BATCH):
            part = ExpertStates(*(array[start : start + _BATCH] for array in states))
            prior = vlm.query(vlm_frames(jnp.asarray(part.observation), frames))
            valid.append(np.asarray(prior.valid))
            error.append(np.abs(np.asarray(prior.action) - part.action).mean(1))
    except PriorError:  # must not end the run
        return {}
    valid, error = np.concatenate(valid), np.concatenate(error)
    found = {"expert_valid": float(valid.mean())}
    return found | {"expert_error": float(error[valid].mean())} if valid.any() else found
