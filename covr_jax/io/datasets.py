"""Minari datasets of episodes with images: https://minari.farama.org. They are written and read by minari itself.

A dataset is a directory, or a name such as ``people/cartpole-v0`` in Minari's store on this machine
(``MINARI_DATASETS_PATH``, by default ``~/.minari/datasets``). Images are kept as they are, without JPEG. L steps, H W
image, C channels, A action.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covr_jax.config import ConfigError
from covr_jax.runtime.errors import one_line
from covr_jax.types import Episode

ABOUT = "covr_jax"  # entry of a dataset's metadata that says how its episodes were made
_FORMAT = "hdf5"


def check_packages() -> None:
    """Raises ConfigError where a package that reads and writes datasets is not installed."""
    if missing := [name for name in ("minari", "h5py", "PIL") if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"Minari datasets need the package {missing[0]}: pip install 'covr_jax[data]'")


def locate(name: str) -> tuple[Path, str | None]:
    """Returns where the files of a dataset are, and its id in Minari's store; None for a directory.

    What ends in -v and a number, and could be an id, is one: ``./demos-v0`` is a directory.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage import get_dataset_path

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError):  # of another form; without a version
        return Path(name), None
    return get_dataset_path(name) / "data", name


def check_free(name: str) -> None:
    """Raises ConfigError where there is a dataset of that name already, or anything else."""
    path, _ = locate(name)
    if path.exists():
        raise ConfigError(f"{path} exists already; give another --dataset, or remove it")


def write_dataset(
    name: str,
    episodes: Iterable[Episode],
    *,
    image_size: int,
    channels: int,
    action_dim: int,
    default_id: str,
    about: Mapping[str, Any],
    env_spec: Any = None,
) -> Path:
    """Writes a dataset, which is there whole or not at all.

    Args:
      name: a directory that does not exist, or an id.
      episodes: read one after the other.
      image_size: H = W, pixels.
      channels: C.
      action_dim: A.
      default_id: of a dataset in a directory.
      about: JSON-able metadata, under ``ABOUT``; its ``method`` is also Minari's name of the algorithm.
      env_spec: gymnasium's, of the environment; None where it has none.

    Returns:
      The directory of its files.

    Raises:
      ConfigError: the place is taken.
      OSError: the disk refused.
    """
    import minari
    from gymnasium.spaces import Box
    from minari.dataset.minari_storage import MinariStorage

    check_free(name)
    path, dataset_id = locate(name)
    if dataset_id is not None:
        _make_namespace(dataset_id)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = MinariStorage.new(
            partial,
            observation_space=Box(0, 255, (image_size, image_size, channels), np.uint8),
            action_space=Box(-1.0, 1.0, (action_dim,), np.float32),
            env_spec=env_spec,
            data_format=_FORMAT,
            jpeg_encoding=False,
        )
        storage.update_metadata(
            {
                "dataset_id": dataset_id or default_id,
                "minari_version": minari.__version__,
                "algorithm_name": about["method"],
                ABOUT: dict(about),
            }
        )
        storage.update_episodes(_buffers(episodes))
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return path


def _make_namespace(dataset_id: str) -> None:
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = dataset_id.rpartition("/")[0]
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)


def _buffers(episodes: Iterable[Episode]) -> Iterator[Any]:
    """Yields episodes as minari takes them."""
    from minari.data_collector import EpisodeBuffer

    for episode in episodes:
        last = np.arange(len(episode.reward)) == len(episode.reward) - 1
        arrays: dict[str, Any] = {
            "observations": episode.observation,
            "actions": episode.action,
            "rewards": episode.reward,
            "terminations": last & episode.terminated,
            "truncations": last & (not episode.terminated),
        }
        yield EpisodeBuffer(**arrays, infos={})


class Dataset:
    """A dataset for reading.

    Args:
      name: a directory, or an id in Minari's store.

    Attributes:
      name: as given.
      steps: L of each episode.
      about: what ``write_dataset`` was told; empty for datasets of others.

    Raises:
      ConfigError: on construction, there is none, it cannot be read, or a package is missing.
    """

    def __init__(self, name: str):
        check_packages()
        import minari

        self.name = name
        path, dataset_id = locate(name)
        if dataset_id is None and (path / "data" / "metadata.json").exists():  # as Minari's store keeps them
            path = path / "data"
        if not (path / "metadata.json").exists():
            hint = f"; for a directory give ./{name}" if dataset_id and Path(name).exists() else ""
            raise ConfigError(f"there is no Minari dataset {name}: {path} has no metadata.json{hint}")
        try:
            self._dataset = minari.MinariDataset(path)
            metadata = self._dataset.storage.get_episode_metadata(self._dataset.episode_indices)
            self.steps = [int(episode["total_steps"]) for episode in metadata]
            self.about: dict[str, Any] = dict(self._dataset.storage.metadata.get(ABOUT, {}))
        except Exception as error:  # of minari, gymnasium, JSON and HDF5, which have no common class
            raise ConfigError(f"the Minari dataset {path} cannot be read: {one_line(error)}") from error
        if min(self.steps, default=0) < 1:
            raise ConfigError(f"the Minari dataset {name} holds no episode, or one without a step; record it anew")

    def check_spaces(self, image_size: int, action_dim: int) -> None:
        """Checks that a run can use what the dataset says to hold.

        Args:
          image_size: H = W of the run's images, pixels.
          action_dim: A of its task.

        Raises:
          ConfigError: other observations or actions.
        """
        observation, action = self._dataset.observation_space, self._dataset.action_space
        shape = observation.shape or ()
        if observation.dtype != np.uint8 or len(shape) != 3 or shape[2] % 3 or not shape[2]:
            raise ConfigError(
                f"{self.name} holds observations {_described(observation)}; a run needs images uint8 [H,W,3 x frames]:"
                " record it from pixels"
            )
        if shape[:2] != (image_size, image_size):
            raise ConfigError(
                f"{self.name} holds images of {shape[0]}x{shape[1]} pixels, the run's have {image_size}x{image_size}:"
                " give --env.image-size as recorded, or record it at that size"
            )
        if action.dtype not in (np.float32, np.float64) or action.shape != (action_dim,):
            raise ConfigError(
                f"{self.name} holds actions {_described(action)}, the task takes float32 [{action_dim}]: it is of"
                " another task"
            )
        if action.low.min() < -1.0 or action.high.max() > 1.0:
            raise ConfigError(
                f"{self.name} holds actions in [{action.low.min():g}, {action.high.max():g}], the task takes [-1, 1]:"
                " rescale them"
            )

    def read(self, index: int) -> Episode:
        """Reads an episode of a dataset whose spaces have been checked.

        Raises:
          ConfigError: it is not what the spaces say, holds numbers that are not finite, or does not end once, with its
            last step.
        """
        try:
            data = self._dataset[index]
            arrays = (data.observations, data.actions, data.rewards, data.terminations, data.truncations)
            observation, action, reward, *ends = map(np.asarray, arrays)
            terminated, truncated = (flags.astype(bool) for flags in ends)
        except Exception as error:  # as above
            raise ConfigError(f"episode {index} of {self.name} cannot be read: {one_line(error)}") from error
        steps, name = self.steps[index], f"episode {index} of {self.name}"
        shapes = {
            "observations": (observation, (steps + 1, *self._dataset.observation_space.shape)),
            "actions": (action, (steps, *self._dataset.action_space.shape)),
            "rewards": (reward, (steps,)),
            "terminations": (terminated, (steps,)),
            "truncations": (truncated, (steps,)),
        }
        for what, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ConfigError(f"{name} has {what} {list(array.shape)} instead of {list(shape)}; record it anew")
        _check_values(name, observation, action, reward)
        if (ended := (terminated | truncated).nonzero()[0].tolist()) != [steps - 1]:
            where = f"steps {ended[:3]}" if ended else "no step"
            raise ConfigError(
                f"{name} has {steps} steps and ends at {where}: its last step, and no other, must be a termination or a"
                " truncation"
            )
        return Episode(observation, action.astype(np.float32), reward.astype(np.float32), bool(terminated[-1]))


def _described(space: Any) -> str:
    """Returns a space in a few words: those of images print all their bounds."""
    return type(space).__name__ if space.shape is None else f"{space.dtype} {list(space.shape)}"


def _check_values(name: str, observation: np.ndarray, action: np.ndarray, reward: np.ndarray) -> None:
    """Checks what a replay would take without a word; u8[L+1,H,W,C], [L,A], [L].

    Raises:
      ConfigError: numbers out of range, or stacks whose frames are not those of the steps before.
    """
    if observation.dtype != np.uint8:
        raise ConfigError(f"{name} has images of dtype {observation.dtype} instead of uint8; record it anew")
    if not np.isfinite(reward).all():
        raise ConfigError(f"{name} has a reward that is not finite; record it anew")
    if not (np.abs(action) <= 1.0).all():  # NaN never is
        raise ConfigError(f"{name} has an action outside of [-1, 1]; rescale them")
    if not np.array_equal(observation[1:, ..., :-3], observation[:-1, ..., 3:]):
        raise ConfigError(
            f"{name} has stacks of frames that are not those of the steps before, the newest last; give single frames"
        )
