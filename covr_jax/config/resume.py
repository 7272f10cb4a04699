"""What a run may change when it goes on: options that are free, and those that it keeps where they are left open."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from covr_jax.config.convert import differences, flatten
from covr_jax.config.kinds import ConfigError
from covr_jax.config.options import Config

# How long, how often and where: none of them is part of what is learned, up to the answers of a VLM that come in time.
FREE = (
    "total_steps",
    "preset",
    "eval.every",
    "eval.episodes",
    "run.checkpoint_every",
    "run.devices",
    "run.log",
    "run.log_every",
    "run.video",
    "run.resume",
    "vlm.endpoint",
    "vlm.deadline_s",
    "vlm.hang_s",
    "vlm.restarts",
    "vlm.record",
    "vlm.device",
    "vlm.gpu_share",
    "vlm.micro_batch",
    "vlm.checkpointing",
    "vlm.return_episodes",
    "vlm.expert_states",
    "carla.endpoint",
)
# Left open, they depend on the machine or on the budget; a run goes on with what it began with.
_KEPT = {"env.physics": "auto", "replay.anneal_updates": None, "vpf.anneal_iterations": None}


def going_on(
    recorded: Config, given: Config, resolve: Callable[[Config], Config]
) -> tuple[Config, dict[str, list[Any]]]:
    """Compares the config of a run with that of a command which goes on with it.

    Args:
      recorded: of the run.
      given: of the command.
      resolve: fills in what the two leave open and what they do not read (``training.resolve.comparable``). Files of
        earlier versions hold None where later ones hold the value.

    Returns:
      The config to go on with, and the free options that change, as {name: [before, after]}.

    Raises:
      ConfigError: fixed options differ; all of them are named.
    """
    began, before, asked = flatten(resolve(recorded)), flatten(recorded), flatten(given)
    given = _replace(given, {name: began[name] for name, empty in _KEPT.items() if asked[name] == empty})
    given = _replace(given, {name: before[name] for name in FREE if asked[name] is None})
    after = flatten(given)
    fixed = _replace(given, {name: before[name] for name in FREE})
    if changed := differences(resolve(recorded), resolve(fixed)):
        raise ConfigError("; ".join(changed))
    return given, {name: [before[name], after[name]] for name in FREE if before[name] != after[name]}


def _replace(config: Config, values: dict[str, Any]) -> Config:
    """Sets options by their dotted names."""
    for name, value in values.items():
        group, _, option = name.rpartition(".")
        changed = dataclasses.replace(getattr(config, group), **{option: value}) if group else value
        config = dataclasses.replace(config, **{group or option: changed})
    return config
