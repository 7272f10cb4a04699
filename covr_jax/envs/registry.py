"""All tasks by name: the nine of DMControl on MJX, and those that run on the host."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from covr_jax.carla.scenarios import SCENARIOS
from covr_jax.envs import vec_env
from covr_jax.envs.car_racing import FPS, TIME_LIMIT, CarRacing
from covr_jax.envs.carla_vec import carla_task
from covr_jax.envs.host_env import HostEnv, HostTask, HostVecEnv
from covr_jax.envs.process_env import ProcessEnv
from covr_jax.envs.task import Task
from covr_jax.envs.vec_env import TASKS


def _open_car_racing(index: int, *, image_size: int, action_repeat: int) -> HostEnv:
    del index  # its episodes are decided by ``seed``
    return ProcessEnv(partial(CarRacing, image_size=image_size, action_repeat=action_repeat), image_size)


_CAR_RACING = HostTask(
    name="car_racing",
    open=_open_car_racing,
    action_dim=3,
    action_repeat=4,
    time_limit=TIME_LIMIT,
    fps=FPS,
    learning_rate=1e-3,
    augmentation="crop",
    pictures="gymnasium",
)
_SCENARIOS = {f"carla_{name}": name for name in SCENARIOS}
HOST_TASKS: tuple[str, ...] = (_CAR_RACING.name, *_SCENARIOS)


def find_task(name: str, **carla: Any) -> Task | HostTask:
    """The task of that name. Raises ValueError, listing the known ones.

    Args:
      carla: options of ``carla_task``, heeded by the CARLA tasks alone.
    """
    if name == _CAR_RACING.name:
        return _CAR_RACING
    if name in _SCENARIOS:
        return carla_task(_SCENARIOS[name], **carla)
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join((*TASKS, *HOST_TASKS))}")
    return vec_env.get_task(name)


def make(task: str, num_envs: int, *, carla: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """A vectorised task by name: ``VecEnv`` for one of ``TASKS``, ``HostVecEnv`` for one of ``HOST_TASKS``.

    Args:
      task: for example ``cartpole_swingup``. num_envs: E.
      carla: options of ``carla_task``, for its tasks.
      options: those of ``vec_env.make``, or of ``HostVecEnv``.

    Raises:
      ValueError: unknown task or an option out of range.
      RendererError: a renderer that cannot be used here.
    """
    found = find_task(task, **(carla or {}))
    if isinstance(found, HostTask):
        return HostVecEnv(found, num_envs, **options)
    return vec_env.make(task, num_envs, **options)
