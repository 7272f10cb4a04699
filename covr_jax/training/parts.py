"""The parts of a run, built from its config and checked against each other before anything is compiled."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from covr_jax import config as configuration
from covr_jax import replay
from covr_jax.agents import Learner, Method, make_learner, make_method
from covr_jax.config import Config, ConfigError, required
from covr_jax.envs import HostTask, HostVecEnv, VecEnv, find_task
from covr_jax.envs.stepper import make_envs
from covr_jax.runtime import memory
from covr_jax.training import needs
from covr_jax.training.mesh import make_mesh, place
from covr_jax.training.resolve import resolve

_MIN_CHUNK_STEPS = 10  # agent steps between two visits of the host loop, at least


class Parts(NamedTuple):
    """What the compiled pieces of a run are made of, and the sizes that follow from its config."""

    config: Config
    method: Method
    env: VecEnv | HostVecEnv  # training
    eval_env: VecEnv | HostVecEnv  # the same object where simulators are shared
    learner: Learner
    frame_stack: int  # frames of an observation, the method's history included
    slots: int  # time slots of the replay, per env
    cycle: int  # agent steps after which "update the actor every n updates" repeats
    chunk_steps: int  # agent steps per chunk; a multiple of ``cycle`` and of ``vlm.every``
    mesh: Mesh | None  # the devices, if there are several

    @property
    def hosted(self) -> bool:
        """Whether the environments run on the host."""
        return isinstance(self.env, HostVecEnv)

    @property
    def num_query_slots(self) -> int:
        """N: frames of a chunk that the VLM may be queried about."""
        return self.chunk_steps // self.config.vlm.every * self.env.num_envs

    @property
    def answer_dim(self) -> int:
        """Numbers that the VLM answers per frame: an action's, or a map's for methods that read maps."""
        return self.method.map_side**2 or self.env.action_dim

    @property
    def image_source(self) -> str:
        """What draws the observations: a renderer of this project, or the simulator on the host."""
        return self.env.task.image_source if isinstance(self.env, HostVecEnv) else self.config.renderer

    @property
    def replay_bytes(self) -> int:
        """Predicted size of the replay."""
        size = self.config.env.image_size
        return replay.nbytes(self.slots, self.env.num_envs, size, self.env.action_dim, self.answer_dim)

    def device_put(self, tree: Any) -> Any:
        """Puts a tree where the run's programs expect it: on all devices, or pinned where frames are in host memory.

        Those frames are pinned by their memory kind, and a program compiled for pinned arrays differs from one for
        unpinned arrays.
        """
        if self.mesh is not None:
            return place(self.mesh, tree)
        if self.config.replay.storage == "device":
            return tree
        device = jax.local_devices()[0]
        pin = partial(jax.sharding.SingleDeviceSharding, device)
        return jax.tree.map(lambda x: jax.device_put(x, pin(memory_kind=x.sharding.memory_kind)), tree)


def build_parts(config: Config) -> Parts:
    """Builds the environments, the method and the learner of a config.

    Args:
      config: resolved (``training.resolve``), or still to be resolved here.

    Raises:
      ConfigError: options that do not fit together, or whose frames do not fit into the free memory.
    """
    config = resolve(config)
    try:
        task = find_task(config.task, **dataclasses.asdict(config.carla))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    env_options, sac = config.env, config.sac
    method = make_method(configuration.agent(config), config.augment, env_options.image_size, task.augmentation)
    frame_stack = env_options.frame_stack + method.history
    memory.check_needs(needs.of_frames(config, method, hosted=isinstance(task, HostTask)))
    env, eval_env = make_envs(config, task, frame_stack)
    learning_rate = required(sac.learning_rate)
    # The cycle is the fewest agent steps after which "actor every n updates" repeats.
    updating_steps = sac.actor_update_every // math.gcd(sac.actor_update_every, sac.updates_per_step)
    cycle = updating_steps * sac.steps_per_update
    period = math.lcm(config.vlm.every, cycle)
    parts = Parts(
        config=config,
        method=method,
        env=env,
        eval_env=eval_env,
        learner=make_learner(env.action_dim, learning_rate, method, sac, config.covr.guidance_mean),
        frame_stack=frame_stack,
        slots=replay.capacity_in_slots(config.replay.capacity, env_options.num_envs, frame_stack),
        cycle=cycle,
        chunk_steps=period * math.ceil(_MIN_CHUNK_STEPS / period),
        mesh=make_mesh(config, hosted=isinstance(task, HostTask)),
    )
    _check_encoder(parts)
    _check_sizes(parts)
    return parts


def _check_encoder(parts: Parts) -> None:
    """Raises ConfigError where the convolutions leave no pixel of the augmented image."""
    config, size = parts.config, parts.config.env.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    side = jax.eval_shape(parts.method.augmentation.center, image).shape[1]
    for kernel, stride in zip(config.sac.conv_kernels, config.sac.conv_strides, strict=True):
        side = (side - kernel) // stride + 1
        if side < 1:
            raise ConfigError(
                f"--sac.conv-kernels {config.sac.conv_kernels} and --sac.conv-strides {config.sac.conv_strides}"
                f" leave nothing of {size} pixels; use fewer of them or a larger --env.image-size"
            )


def _check_sizes(parts: Parts) -> None:
    """Raises ConfigError for sizes that would fail, or silently overwrite data, only later in the run."""
    config, method = parts.config, parts.method
    if config.sac.n_step > (longest := parts.env.episode_length):
        raise ConfigError(f"--sac.n-step must be at most {longest}, the steps of an episode, got {config.sac.n_step:,}")
    if config.vlm.ask_share < 1 and not method.policy.entropy_regularised:
        raise ConfigError(
            f"--vlm.ask-share {config.vlm.ask_share} needs a policy with an entropy of its own;"
            f" {configuration.agent(config)} explores with the same noise everywhere"
        )
    least = parts.chunk_steps + parts.frame_stack + method.horizon
    if parts.slots < least:
        raise ConfigError(
            f"--replay.capacity must be at least {least * config.env.num_envs} for these options,"
            f" got {config.replay.capacity}"
        )
