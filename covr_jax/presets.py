"""Named starting points: ``paper`` as published, ``demo`` for a few minutes of two CPU cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from covr_jax.config import (
    AugmentConfig,
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
    """Every default as published: 100K env steps, batch 128, 100x100 pixels, Qwen2.5-VL-3B."""
    return Config()


def demo() -> Config:
    """All stages of COVR in about ten minutes on two CPU cores: small images and networks, parallel environments,
    more data per update, a short schedule of four rounds, and the embedded tiny VLM."""
    return Config(
        preset="demo",
        total_steps=240_000,
        env=EnvConfig(num_envs=16, image_size=48),
        augment=AugmentConfig(size=52),
        sac=SACConfig(
            batch_size=128,
            updates_per_step=8,
            init_steps=2_000,
            discount=0.98,
            critic_tau=0.1,
            encoder_tau=0.1,
            hidden_dim=256,
            conv_kernels=(4, 3),
            conv_strides=(4, 1),
            frame_basis="differences",
        ),
        replay=ReplayConfig(capacity=30_000),
        covr=CovrConfig(guidance_weight=0.1, psi_0=20_000, min_keep=256),
        vlm=VLMConfig(name="tiny", hold=False, steps=200, return_episodes=10),
        eval=EvalConfig(every=30_000),
        run=RunConfig(checkpoint_every=60_000, log_every=2_500),
    )


PRESETS: dict[str, Callable[[], Config]] = {"paper": paper, "demo": demo}


def make(name: str) -> Config:
    """The preset of that name. Raises ConfigError, listing the known ones."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name](), preset=name)
