"""All tasks by name: the nine of DMControl on MJX, and those whose simulator runs on the host."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from covr_jax.carla.scenarios import SCENARIOS
from covr_jax.envs import suite_env
from covr_jax.envs.car_racing import FPS, TIME_LIMIT, CarRacing
from covr_jax.envs.carla_vec import carla_task
from covr_jax.envs.dmc import ball_in_cup, cartpole, cheetah, finger, hopper, pendulum, reacher, walker
from covr_jax.envs.host_env import HostEnv, HostTask, HostVecEnv
from covr_jax.envs.process_env import ProcessEnv
from covr_jax.envs.suite_env import SuiteEnv
from covr_jax.envs.task import Task
from covr_jax.envs.vec_env import VecEnv


def _open_car_racing(env_id: int, *, image_size: int, action_repeat: int) -> HostEnv:
    del env_id  # ``seed`` decides its episodes
    return ProcessEnv(partial(CarRacing, image_size=image_size, action_repeat=action_repeat), image_size)


def suite_task(name: str) -> HostTask:
    """dm_control's own version of one of ``TASKS``, with its own pictures, each environment in a process of its own.

    Raises:
      ValueError: another name.
    """
    task = get_task(name)

    def open_env(env_id: int, *, image_size: int, action_repeat: int) -> HostEnv:
        del env_id  # ``seed`` decides its episodes
        build = partial(SuiteEnv, name, image_size=image_size, action_repeat=action_repeat)
        return ProcessEnv(build, image_size)

    return HostTask(
        name=name,
        open=open_env,
        action_dim=task.load_model().nu,
        action_repeat=task.action_repeat,
        time_limit=suite_env.TIME_LIMIT,
        fps=1.0 / task.control_timestep,
        learning_rate=task.learning_rate,
        augmentation=task.augmentation,
        image_source="dm_control",
    )


_DMC = {
    task.name: task
    for task in (
        cartpole.SWINGUP,
        reacher.EASY,
        cheetah.RUN,
        walker.WALK,
        finger.SPIN,
        ball_in_cup.CATCH,
        hopper.HOP,
        walker.RUN,
        pendulum.SWINGUP,
    )
}
_CAR_RACING = HostTask(
    name="car_racing",
    open=_open_car_racing,
    action_dim=3,
    action_repeat=4,
    time_limit=TIME_LIMIT,
    fps=FPS,
    learning_rate=1e-3,
    augmentation="crop",
    image_source="gymnasium",
)
_SCENARIOS = {f"carla_{name}": name for name in SCENARIOS}
TASKS: tuple[str, ...] = tuple(_DMC)
HOST_TASKS: tuple[str, ...] = (_CAR_RACING.name, *_SCENARIOS)


def get_task(name: str) -> Task:
    """Returns the DMControl task of that name. Raises ValueError, which lists the known ones, for any other."""
    if name not in _DMC:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return _DMC[name]


def find_task(name: str, **carla: Any) -> Task | HostTask:
    """Returns the task of that name, of either kind.

    Args:
      name: one of ``TASKS`` or ``HOST_TASKS``.
      **carla: options of ``carla_task``; only the CARLA tasks use them.

    Raises:
      ValueError: unknown task; the message lists the known ones.
    """
    if name == _CAR_RACING.name:
        return _CAR_RACING
    if name in _SCENARIOS:
        return carla_task(_SCENARIOS[name], **carla)
    if name not in _DMC:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join((*TASKS, *HOST_TASKS))}")
    return _DMC[name]


def make(
    task: str,
    num_envs: int,
    *,
    pixels: bool = True,
    action_repeat: int | None = None,
    carla: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Makes a vectorised task by name.

    Args:
      task: one of ``TASKS`` or ``HOST_TASKS``, for example ``cartpole_swingup``.
      num_envs: E.
      pixels: whether observations are images u8[E,H,W,3*frame_stack]; False: dm_control's state observation f32[E,N],
        which only ``TASKS`` have.
      action_repeat: control steps per agent step; None: the task's default.
      carla: options of ``carla_task``; only the CARLA tasks use them.
      **options: further options of ``VecEnv`` or ``HostVecEnv``.

    Returns:
      A ``VecEnv`` for one of ``TASKS``, a ``HostVecEnv`` for one of ``HOST_TASKS``.

    Raises:
      ValueError: unknown task or an option out of range.
      RendererError: a renderer that cannot be used here.
    """
    found = find_task(task, **(carla or {}))
    if not isinstance(found, HostTask):
        return VecEnv(found, num_envs, pixels=pixels, action_repeat=action_repeat, **options)
    if not pixels:
        raise ValueError(f"{task} has no state observation; leave pixels=False out")
    return HostVecEnv(found, num_envs, action_repeat=action_repeat, **options)
