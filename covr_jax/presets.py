"""Named sets of defaults, per method.

``paper`` as published, ``throughput`` for accelerators, ``cpu`` for laptops, ``demo`` for all stages of COVR in
minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from covr_jax.agents.methods import METHODS, published_hyperparameters
from covr_jax.config import (
    MAP_METHODS,
    ON_BASE,
    Config,
    ConfigError,
    CovrConfig,
    EnvConfig,
    EvalConfig,
    ReplayConfig,
    RunConfig,
    SACConfig,
    VLMConfig,
)


def paper() -> Config:
    """Returns every default as published: 100K env steps, batch 128, 100x100 pixels, Qwen2.5-VL-3B."""
    return Config()


def throughput() -> Config:
    """Returns the paper's numbers with 16 environments in parallel, at the same updates per transition.

    Parallel environments end their episodes together, 16 episodes at 16K env steps; with many more environments no
    episode would end within 100K env steps.
    """
    return Config(
        env=EnvConfig(num_envs=16),
        sac=SACConfig(updates_per_step=16, precision="tf32"),
        eval=EvalConfig(every=20_000),
        run=RunConfig(log_every=10_000),
    )


def cpu() -> Config:
    """Returns a preset that takes minutes on one core of a laptop.

    48x48 pixels, a small encoder, one update per two transitions, and the paper's schedule at 0.6 of its length. Two
    environments, so that episodes have ended when the first round is due. Targets and replay are those of each method.
    """
    small = demo()
    return dataclasses.replace(
        small,
        total_steps=60_000,
        env=dataclasses.replace(small.env, num_envs=2, image_size=48),
        sac=dataclasses.replace(small.sac, updates_per_step=1, n_step=1, init_steps=1_000, noise_steps=2_500),
        replay=ReplayConfig(capacity=30_000),
        covr=CovrConfig(guidance_weight=0.1, psi_0=3_000, min_keep=256),
        vlm=dataclasses.replace(small.vlm, steps=200, return_episodes=0),
        eval=EvalConfig(every=10_000),
        run=RunConfig(checkpoint_every=30_000, log_every=2_500, video=False),
    )


def demo() -> Config:
    """Returns a preset that shows all stages of COVR in about ten minutes on two CPU cores.

    Small images and networks, parallel environments, more data per update, three-step returns, recent transitions more
    often than old ones, a temperature that adapts within so few updates, a short schedule of five rounds, and the
    embedded tiny VLM. The guidance begins with the second half.
    """
    return Config(
        preset="demo",
        total_steps=340_000,
        env=EnvConfig(num_envs=16, image_size=40),
        sac=SACConfig(
            batch_size=128,
            updates_per_step=4,
            init_steps=2_000,
            discount=0.98,
            n_step=3,
            critic_tau=0.1,
            encoder_tau=0.1,
            noise_steps=10_000,
            alpha_learning_rate=1e-3,
            hidden_dim=256,
            conv_kernels=(4, 3),
            conv_strides=(4, 1),
            frame_basis="differences",
        ),
        replay=ReplayConfig(capacity=42_500, sampling="recent"),
        covr=CovrConfig(guidance_weight=0.1, psi_0=17_000, min_keep=256),
        vlm=VLMConfig(name="tiny", hold=False, steps=64, return_episodes=4),
        eval=EvalConfig(every=34_000),
        run=RunConfig(checkpoint_every=85_000, log_every=2_500),
    )


PRESETS: dict[str, Callable[[], Config]] = {"paper": paper, "throughput": throughput, "cpu": cpu, "demo": demo}
# Sizes and speeds of every agent on the CARLA tasks by profile, as the authors of the profile publish them; full-size
# presets apply them after the method's own. Not DMR's replay of 10,000 transitions, which is less than a round of COVR.
CARLA_LEARNERS: dict[str, dict[str, Any]] = {
    "dmr": {
        "env.image_size": 128,
        "sac.batch_size": 32,
        "sac.catch_up_updates": 1000,
        "sac.learning_rate": 1e-4,
        "sac.auxiliary_learning_rate": 1e-4,
        "sac.alpha_learning_rate": 1e-4,
        "sac.alpha_beta1": 0.9,
        "sac.init_temperature": 0.01,
        "sac.critic_tau": 0.005,
        "sac.encoder_tau": 0.005,
        "sac.hidden_dim": 256,
        "sac.conv_filters": (64, 128, 256, 256),
        "sac.conv_kernels": (5, 3, 3, 3),
        "sac.conv_strides": (2, 2, 2, 2),
    }
}
CARLA_SOURCES = {"dmr": "kyoran/DMR: auto_run_batch_modal.sh, train_testm.py, encoder.py"}
_FULL_SIZE = ("paper", "throughput")  # presets in which a method has its published sizes and speeds


def make(name: str, method: str = "covr", base: str = "rad", task: str = Config.task, profile: str = "dmr") -> Config:
    """Returns the preset of a name for a method.

    Args:
      name: one of PRESETS.
      method: as ``Config.method``; the options that its authors publish are taken over.
      base: agent of a method in ``ON_BASE``, whose published options are taken over instead.
      task: as ``Config.task``; some options are published by task.
      profile: as ``CarlaConfig.profile``; only the CARLA tasks read it.

    Raises:
      ConfigError: an unknown preset, method or base; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    known = (*ON_BASE, *METHODS)
    if method not in known:
        raise ConfigError(f"unknown method {method!r}; choose from {', '.join(known)}")
    if base in MAP_METHODS:
        raise ConfigError(f"{base} asks a VLM of its own and cannot be a --base; use --method {base}")
    config = PRESETS[name]()
    published = published_hyperparameters(base if method in ON_BASE else method)
    options = dict(published.always)
    if config.vlm.name == "tiny":
        options.pop("vlm.name", None)
    if name in _FULL_SIZE:
        options |= published.full_size | published.tasks.get(task, {})
        options |= CARLA_LEARNERS.get(profile, {}) if task.startswith("carla_") else {}
    for option, value in options.items():
        group, field = option.split(".")
        part = dataclasses.replace(getattr(config, group), **{field: value})
        config = dataclasses.replace(config, **{group: part})
    return dataclasses.replace(config, task=task, preset=name, method=method, base=base)
