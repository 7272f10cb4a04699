"""Values of the options that a task, a method or the kind of VLM decides."""

from __future__ import annotations

import dataclasses

from covr_jax.agents.methods import METHODS, resolve_augmentation
from covr_jax.config import (
    DETERMINISTIC,
    ON_BASE,
    Config,
    ConfigError,
    PhysicsEngine,
    ReplayConfig,
    SACConfig,
    VLMConfig,
    VPFConfig,
    agent,
    value_or,
)
from covr_jax.envs import HostTask, find_task
from covr_jax.envs.engines import default_physics
from covr_jax.envs.task import Task
from covr_jax.vlm import defaults


def resolve(config: Config) -> Config:
    """Replaces None by what a run of this config uses.

    None remains where nothing decides before a model is loaded or data is there (``vlm.image_size`` of an unknown
    model, ``vlm.steps``, ``vlm.micro_batch`` of a released one), where it is the value (``vlm.replay``,
    ``sac.auxiliary_clip_norm``, ``sac.critic_clip_norm``, ``sac.conv_filters``, ``augment.center_crop``), and in
    options that this run does not read: those of LoRA and fine-tuning without a VLM that proposes actions,
    ``augment.size`` of methods that keep the images' size, the schedules of samplers and of PPO that it does not use.

    Args:
      config: a valid config; a resolved one is returned unchanged.

    Raises:
      ConfigError: unknown task or method, or options of the task that it does not know.
    """
    try:
        task = find_task(config.task, **dataclasses.asdict(config.carla))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    name, env, sac, covr = agent(config), config.env, config.sac, config.covr
    action_repeat = value_or(env.action_repeat, task.action_repeat)
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    replace = dataclasses.replace
    return replace(
        config,
        env=replace(env, action_repeat=action_repeat, physics=_resolve_physics(config, task)),
        sac=sac.resolved(value_or(sac.learning_rate, task.learning_rate)),
        augment=resolve_augmentation(name, config.augment, env.image_size, task.augmentation),
        replay=_resolve_replay(config, action_repeat),
        covr=replace(
            covr,
            guidance_weight=value_or(covr.guidance_weight, task.guidance_weight),
            cold_start_rounds=value_or(covr.cold_start_rounds, task.cold_start_rounds),
        ),
        vlm=_resolve_vlm(config.vlm, task) if config.method in ON_BASE else config.vlm,
        vpf=_resolve_vpf(config, action_repeat) if config.method == "vpf" else config.vpf,
        eval=replace(config.eval, distractors=value_or(config.eval.distractors, env.distractors)),
    )


def comparable(config: Config) -> Config:
    """Returns the resolved config with the defaults in options that the run does not read, or that change memory only.

    Two such configs are equal if their runs compute the same: the noise schedule is read by deterministic policies
    only, ``vpf.*`` by that method, and how a batch of fine-tuning is divided changes no gradient.
    """
    config = resolve(config)
    config = dataclasses.replace(config, vlm=dataclasses.replace(config.vlm, micro_batch=None, checkpointing=False))
    if config.method != "vpf":
        config = dataclasses.replace(config, vpf=VPFConfig())
    if agent(config) not in DETERMINISTIC:
        unread = {f.name: f.default for f in dataclasses.fields(SACConfig) if f.name.startswith("noise_")}
        config = dataclasses.replace(config, sac=dataclasses.replace(config.sac, **unread))
    return config


def _resolve_physics(config: Config, task: Task | HostTask) -> PhysicsEngine:
    """Simulators on the host have physics of their own; several seeds in one program need compiled ones."""
    if config.env.physics != "auto" or not isinstance(task, Task):
        return config.env.physics
    return "mjx" if config.run.num_seeds > 1 else default_physics()


def _resolve_replay(config: Config, action_repeat: int) -> ReplayConfig:
    """The options of PER and ERE rise over the updates of the run unless a number is given."""
    sac, options = config.sac, config.replay
    if options.sampling not in ("prioritised", "recent"):
        return options
    agent_steps = config.total_steps // (action_repeat * config.env.num_envs)
    updates = agent_steps * sac.updates_per_step // sac.steps_per_update
    return dataclasses.replace(options, anneal_updates=value_or(options.anneal_updates, updates))


def _resolve_vpf(config: Config, action_repeat: int) -> VPFConfig:
    """The cosine of the learning rate lasts for the run unless a number of iterations is given."""
    iterations = -(-config.total_steps // (action_repeat * config.vpf.steps))
    return dataclasses.replace(config.vpf, anneal_iterations=value_or(config.vpf.anneal_iterations, iterations))


def _resolve_vlm(vlm: VLMConfig, task: Task | HostTask) -> VLMConfig:
    """Options of a VLM that proposes actions."""
    if vlm.name == "fake" or vlm.replay is not None:  # no model, so no options of one
        return vlm
    tiny = defaults.is_tiny(vlm.name)
    kind = defaults.TINY if tiny else defaults.RELEASED
    batch_size = value_or(vlm.batch_size, kind.batch_size)
    return dataclasses.replace(
        vlm,
        image_size=value_or(vlm.image_size, defaults.image_size(vlm.name)),
        lora_rank=value_or(vlm.lora_rank, kind.lora_rank),
        lora_alpha=value_or(vlm.lora_alpha, kind.lora_alpha if tiny else float(task.lora_alpha)),
        lora_dropout=value_or(vlm.lora_dropout, kind.lora_dropout),
        learning_rate=value_or(vlm.learning_rate, kind.learning_rate),
        batch_size=batch_size,
        micro_batch=value_or(vlm.micro_batch, batch_size) if tiny else vlm.micro_batch,
        warmup=value_or(vlm.warmup, kind.warmup),
        label_smoothing=value_or(vlm.label_smoothing, kind.label_smoothing),
    )
