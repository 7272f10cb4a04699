"""A ``Config`` as a nested dict and as flat leaves: writing, reading and comparing config.json."""

from __future__ import annotations

import dataclasses
from typing import Any

import dacite

from covr_jax.config.kinds import ConfigError
from covr_jax.config.options import Config

# Options that came later, whose defaults are not what runs did before.
_EARLIER: dict[str, dict[str, Any]] = {"env": {"physics": "mjx"}}
_GROUPS = ("env", "augment", "sac", "replay", "covr", "vlm", "eval", "run")  # that runs of all versions have
PROVENANCE = "provenance"  # entry of a run's config.json beside its options: what made the run
_IDENTITY = ("task", "method", "seed")  # a default in their place would silently be another run


def to_dict(config: Config) -> dict[str, Any]:
    """Returns a nested plain dict, as written to config.json."""
    return dataclasses.asdict(config)


def is_whole(values: dict[str, Any]) -> bool:
    """Whether a nested dict is a whole config, as ``to_dict`` makes it, and not some options of one."""
    return {*_IDENTITY, *_GROUPS} <= values.keys()


def with_options(config: Config, values: dict[str, Any], source: str) -> Config:
    """Returns a config with some options of a nested dict.

    Args:
      config: the others' values.
      values: nested dict of options by their group.
      source: what names an unusable option.

    Raises:
      ConfigError: as ``from_dict``.
    """
    merged = to_dict(config)
    for name, value in values.items():
        merged[name] = merged[name] | value if isinstance(value, dict) and name in merged else value
    return from_dict(merged, source)


def from_dict(values: dict[str, Any], source: str = "config.json") -> Config:
    """Inverse of ``to_dict``; accepts files of earlier versions.

    Args:
      values: nested dict as read from config.json; lists stand for tuples. Options that it lacks, because they were
        added later, get the values that stand for what runs did before. ``PROVENANCE`` is passed over.
      source: what names an unusable option.

    Raises:
      ConfigError: an unknown option, a value of a wrong type, or no task, method or seed.
    """
    known, values = to_dict(Config()), {name: value for name, value in values.items() if name != PROVENANCE}
    unknown = sorted(_flatten(values).keys() - _flatten(known).keys() - known.keys())
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]} in {source}")
    missing = [name for name in _IDENTITY if name not in values]
    if missing:
        raise ConfigError(f"missing option {missing[0]} in {source}")
    values = values | {group: added | values.get(group, {}) for group, added in _EARLIER.items()}
    try:
        return dacite.from_dict(Config, values, dacite.Config(cast=[tuple]))
    except dacite.DaciteError as error:
        raise ConfigError(f"{source}: {error}") from error


def differences(old: Config, new: Config) -> list[str]:
    """Returns the options in which two configs differ, each as ``name: old -> new``."""
    before, after = flatten(old), flatten(new)
    return [f"{name}: {before[name]} -> {after[name]}" for name in sorted(before) if before[name] != after[name]]


def flatten(config: Config) -> dict[str, Any]:
    """Returns the values of all options by dotted name."""
    return _flatten(to_dict(config))


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a nested dict by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves
