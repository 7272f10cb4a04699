"""One run on several devices: environments, replay and batches are split over them, the learner is on each of them.

Programs are those of one device. The compiler splits them by where their arguments are (GSPMD) and adds the sums of
gradients over the devices; ``kept`` says again, inside a program, where its results belong. A batch is drawn with the
same random numbers whatever the number of devices: each device reads the frames that it holds. Letter: E envs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from covr_jax import runtime
from covr_jax.agents.updates import ActorInputs
from covr_jax.config import Config, ConfigError
from covr_jax.envs import EnvState
from covr_jax.replay import ReplayState
from covr_jax.training.state import Progress
from covr_jax.types import Batch, TimeStep

AXIS = "data"
# The axis of their arrays that is split; arrays without it, and all other records, are whole on every device.
_SPLIT: dict[type, int] = {ReplayState: 1, EnvState: 0, TimeStep: 0, Progress: 0, Batch: 0, ActorInputs: 0}


def make_mesh(config: Config, *, hosted: bool) -> Mesh | None:
    """The devices of a run; None for one, which then holds everything.

    Args:
      config: resolved.
      hosted: whether the environments run on the host.

    Raises:
      ConfigError: there are fewer devices, or what is split is no multiple of them, or cannot be split.
    """
    count, devices = config.run.devices, runtime.devices()
    if count == 1:
        return None
    if count > len(devices):
        raise ConfigError(f"--run.devices {count} of {len(devices)} that JAX finds; give at most {len(devices)}")
    split = {"--env.num-envs": config.env.num_envs, "--sac.batch-size": config.sac.batch_size}
    if odd := next((name for name, size in split.items() if size % count), None):
        raise ConfigError(f"{odd} {split[odd]} cannot be split over --run.devices {count}; give a multiple of {count}")
    if hosted or config.env.physics != "mjx" or config.renderer != "jax":
        raise ConfigError("--run.devices splits programs: it needs --env.physics mjx and --renderer jax")
    if config.replay.storage != "device":
        raise ConfigError("--run.devices splits the replay over the devices' memory: leave --replay.storage host out")
    return jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=devices[:count])


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Where every array of a tree belongs."""

    def of_array(axis: int | None, leaf: Any) -> NamedSharding:
        if axis is None or leaf.ndim <= axis or leaf.shape[axis] % mesh.size:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))

    def of_record(record: Any) -> Any:
        return jax.tree.map(partial(of_array, _SPLIT.get(type(record))), record)

    return jax.tree.map(of_record, tree, is_leaf=lambda node: type(node) in _SPLIT)


def place(mesh: Mesh, tree: Any) -> Any:
    """Puts arrays where they belong. Of one that each of several processes has, each puts its own part there."""
    return jax.tree.map(_put, tree, shardings(mesh, tree))


def _put(leaf: Any, where: NamedSharding) -> Any:
    if where.is_fully_addressable or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, where)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), where))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, where, lambda part: values[part])


def keep(mesh: Mesh | None, tree: Any) -> Any:
    """Inside a program: has arrays where they belong. As they are without a mesh."""
    return tree if mesh is None else lax.with_sharding_constraint(tree, shardings(mesh, tree))


def kept(mesh: Mesh | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for a program whose results are where they belong."""
    if mesh is None:
        return function
    return wraps(function)(lambda *arguments, **options: keep(mesh, function(*arguments, **options)))
