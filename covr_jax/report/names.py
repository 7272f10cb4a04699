"""Names of runs beside each other: only seeds of one setting share a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from covr_jax.config import DETERMINISTIC
from covr_jax.report.data import ReportError, read_config

_IGNORED = ("seed", "run.", "eval.every", "eval.episodes")  # options without influence on learning and evaluations
_NOISE = "sac.noise_"  # read by deterministic policies only


def leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the options that learning and evaluations of a run depend on, by their full names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        elif not f"{prefix}{name}".startswith(_IGNORED):
            found[prefix + name] = value
    if prefix or {config.get("method"), config.get("base")} & set(DETERMINISTIC):
        return found
    return {name: value for name, value in found.items() if not name.startswith(_NOISE)}


def suffixes(settings: list[dict[str, Any]]) -> list[str]:
    """Returns a suffix per run with the options that distinguish it; empty where none do.

    Options that a run does not have are not compared. Runs of different presets differ in many options: their suffix
    names the preset, and what else differs within it.
    """
    names = sorted(set().union(*settings))
    differing = [name for name in names if len({repr(run[name]) for run in settings if name in run}) > 1]
    if "preset" not in differing:
        return ["".join(f", {name} {run[name]}" for name in differing if name in run) for run in settings]
    found = [""] * len(settings)
    for preset in {run.get("preset") for run in settings}:
        mine = [i for i, run in enumerate(settings) if run.get("preset") == preset]
        for i, suffix in zip(mine, suffixes([settings[i] for i in mine]), strict=True):
            found[i] = f", preset {preset}{suffix}"
    return found


def disambiguate(run_dirs: Sequence[str | Path], shown: Sequence[Any]) -> list[Any]:
    """Renames the methods of runs so that only seeds of one setting share a name.

    Args:
      run_dirs: run directories.
      shown: a NamedTuple with fields ``task`` and ``method`` per run.

    Returns:
      ``shown`` with other methods.

    Raises:
      ReportError: two runs have the same name and seed.
    """
    configs = [read_config(run_dir) for run_dir in run_dirs]
    groups: dict[tuple[str, str], list[int]] = {}
    for i, item in enumerate(shown):
        groups.setdefault((item.task, item.method), []).append(i)
    renamed = list(shown)
    seen: dict[tuple[str, str, Any], str | Path] = {}
    for (task, method), group in groups.items():
        for i, suffix in zip(group, suffixes([leaves(configs[i]) for i in group]), strict=True):
            name, seed = method + suffix, configs[i].get("seed")
            renamed[i] = renamed[i]._replace(method=name)
            other = seen.setdefault((task, name, seed), run_dirs[i])
            if seed is not None and other is not run_dirs[i]:
                raise ReportError(f"{name} on {task} has seed {seed} twice: {other} and {run_dirs[i]}; leave one out")
    return renamed
