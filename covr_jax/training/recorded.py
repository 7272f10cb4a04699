"""The episodes of a run as a Minari dataset: the whole ones that the replay of a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from covr_jax import __version__, replay
from covr_jax.config import ON_BASE, ConfigError
from covr_jax.config.convert import PROVENANCE
from covr_jax.io.datasets import check_free, check_packages, write_dataset
from covr_jax.replay import LeftOut
from covr_jax.report.data import read_config, read_result_facts
from covr_jax.training.demonstrations import recorded_with
from covr_jax.training.parts import Parts
from covr_jax.training.restore import load_experience


class Recorded(NamedTuple):
    """What was written."""

    path: Path  # of the dataset's files
    about: dict[str, Any]  # of its metadata
    episodes: int
    steps: int
    left_out: LeftOut


def export_episodes(run_dir: Path, env_steps: int | None, dataset: str) -> Recorded:
    """Writes the run's own whole episodes in the replay of a checkpoint as a dataset, but no demonstrations.

    Observations are those that the run's environment gave, u8[H,W,3*frame_stack]. Answers of a VLM and priorities of
    the replay are not part of it.

    Args:
      run_dir: that ``train.py`` wrote.
      env_steps: of the checkpoint; None: the newest.
      dataset: as ``io.datasets.write_dataset`` takes it.

    Raises:
      ConfigError: no run there, no whole episode, a dataset that exists, or a package that is missing.
      CheckpointError: the checkpoint cannot be read.
      OSError: the disk refused.
    """
    check_packages()
    check_free(dataset)
    parts, state, own_start = load_experience(run_dir, env_steps)
    found, left_out = replay.find_episodes(state.replay, own_start)
    if not found:
        raise ConfigError(f"the replay of {run_dir} holds no whole episode, only {tell(left_out)}; train on")
    about = recorded_with(parts) | _made_by(run_dir, parts)
    about["env_steps"] = int(state.progress.transitions) * parts.env.action_repeat
    path = write_dataset(
        dataset,
        replay.read_episodes(state.replay, found, parts.frame_stack),
        image_size=parts.config.env.image_size,
        channels=3 * parts.frame_stack,
        action_dim=parts.env.action_dim,
        default_id=f"covr_jax/{parts.config.task}/{parts.config.method}-v0",
        about=about,
        env_spec=None if parts.hosted else _env_spec(parts),
    )
    return Recorded(path, about, len(found), sum(stretch.last - stretch.first for stretch in found), left_out)


def _made_by(run_dir: Path, parts: Parts) -> dict[str, Any]:
    """Which run made the episodes. Its command is known once it has ended."""
    config = parts.config
    return {
        "image_size": config.env.image_size,
        "frame_stack": parts.frame_stack,
        "method": config.method,
        "base": config.base if config.method in ON_BASE else None,
        "seed": config.seed,
        "command": read_result_facts(run_dir).get("command"),
        "commit": read_config(run_dir).get(PROVENANCE, {}).get("commit"),
        "covr_jax_version": __version__,
    }


def _env_spec(parts: Parts) -> Any:
    """gymnasium's, of an environment that gives the same observations."""
    from covr_jax.envs.interop.gymnasium_ids import env_spec

    env = parts.config.env
    return env_spec(
        parts.config.task,
        action_repeat=env.action_repeat,
        image_size=env.image_size,
        frame_stack=parts.frame_stack,
        samples=env.samples,
        renderer=parts.config.renderer,
        distractors=env.distractors,
    )


def tell(left_out: LeftOut) -> str:
    """Says what a replay holds beside whole episodes."""
    return (
        f"{left_out.overwritten:,} episodes overwritten in part, {left_out.broken:,} broken off and"
        f" {left_out.unfinished:,} not at their end ({left_out.steps:,} steps)"
    )
