"""Options of a run as a tree of frozen dataclasses (``options``), its rules (``validate``) and JSON (``convert``)."""

from covr_jax.config.convert import differences, from_dict, to_dict
from covr_jax.config.kinds import (
    DETERMINISTIC,
    GUIDED,
    MAP_METHODS,
    ON_BASE,
    VLM_POLICY_METHODS,
    WITH_VLM,
    ConfigError,
    Distractors,
    PhysicsEngine,
    RendererName,
    Storage,
)
from covr_jax.config.learner import AugmentConfig, ReplayConfig, SACConfig, required, value_or
from covr_jax.config.options import (
    CarlaConfig,
    Config,
    CovrConfig,
    EnvConfig,
    EvalConfig,
    RunConfig,
    VLMConfig,
    VPFConfig,
    agent,
)

__all__ = [
    "DETERMINISTIC",
    "GUIDED",
    "MAP_METHODS",
    "ON_BASE",
    "VLM_POLICY_METHODS",
    "WITH_VLM",
    "AugmentConfig",
    "CarlaConfig",
    "Config",
    "ConfigError",
    "CovrConfig",
    "Distractors",
    "EnvConfig",
    "EvalConfig",
    "PhysicsEngine",
    "RendererName",
    "ReplayConfig",
    "RunConfig",
    "SACConfig",
    "Storage",
    "VLMConfig",
    "VPFConfig",
    "agent",
    "differences",
    "from_dict",
    "required",
    "to_dict",
    "value_or",
]
