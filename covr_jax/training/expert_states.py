"""States of an expert's episodes with its actions, on which a VLM is measured after every round.

A round's own held-out samples differ from round to round and come from a policy that still learns. These states stay
the same. N states, E envs, H W image, C channels of all stacked frames, A action.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covr_jax.config import Config, ConfigError
from covr_jax.training.evaluation import Policy
from covr_jax.training.programs import Programs
from covr_jax.training.queries import vlm_frames
from covr_jax.types import TimeStep
from covr_jax.vlm.serving.protocol import PriorError, PriorService

COUNT = 512  # states of a file, drawn from all of the episodes
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
        """Writes ``COUNT`` of the states, or all where there are fewer; always the same ones. Returns how many.

        Raises:
          OSError: the disk refused.
        """
        observation, action = (np.concatenate(parts) for parts in zip(*self._seen, strict=True))
        chosen = np.sort(np.random.default_rng(0).permutation(len(action))[:COUNT])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, observation=observation[chosen], action=action[chosen], task=np.array(task))
        return len(chosen)


def read_states(path: str | Path, task: str, image_size: int, frames: int, action_dim: int) -> ExpertStates:
    """Reads a file that ``Recorder.write`` has written.

    Args:
      path: of the file.
      task: that the states must be of.
      image_size: H = W of the run's images, pixels.
      frames: that the VLM is shown at least.
      action_dim: A.

    Raises:
      ConfigError: there is no such file, or it holds something else; the message says what.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            of, states = str(file["task"]), ExpertStates(file["observation"], file["action"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"--vlm.expert-states {path} cannot be read; evaluate.py --states writes such files: {error}"
        ) from None
    if of != task:
        raise ConfigError(f"--vlm.expert-states {path} is of {of}, not of {task}")
    height, width, channels, actions = *states.observation.shape[1:], states.action.shape[1]
    if (height, width, actions) != (image_size, image_size, action_dim) or channels < 3 * frames:
        raise ConfigError(
            f"--vlm.expert-states {path} has {height}x{width} pixels, {channels // 3} frames and {actions} action"
            f" components; this run needs {image_size}x{image_size}, {frames} and {action_dim}"
        )
    return states


def expert_measure(config: Config, programs: Programs) -> Callable[[PriorService], dict[str, float]]:
    """Returns what measures a run's VLM: ``expert_error`` on its states, or nothing where it has none.

    Raises:
      ConfigError: as ``read_states``.
    """
    vlm = config.vlm
    if vlm.expert_states is None:
        return lambda _: {}
    sizes = config.env.image_size, vlm.frames, programs.parts.env.action_dim
    states = read_states(vlm.expert_states, config.task, *sizes)
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
            prior = vlm.query(vlm_frames(part.observation, frames))
            valid.append(np.asarray(prior.valid))
            error.append(np.abs(np.asarray(prior.action) - part.action).mean(1))
    except PriorError:  # must not end the run
        return {}
    valid, error = np.concatenate(valid), np.concatenate(error)
    found = {"expert_valid": float(valid.mean())}
    return found | {"expert_error": float(error[valid].mean())} if valid.any() else found
