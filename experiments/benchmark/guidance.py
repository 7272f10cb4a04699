"""How hard the VLM pulls at a policy, beside how hard the critics do: Eq. 4's two gradients at a run's last checkpoint.

``python experiments/benchmark/guidance.py runs/demo/seed1 runs/demo/seed2 --output guidance.json``

Transitions are drawn evenly from the replay, as an update does, and the policy acts by its mode. ``critic_pull`` is the
mean norm of dQ/da (min over the critics), ``guidance_pull`` that of lambda d|a_v - a|^2/da with 0 where there is no
answer, ``equal_weight`` the lambda at which the two would be equal. Where there is an answer: ``towards`` is the share
of rows in which dQ/da points to a_v, ``better`` the share in which the critics value a_v above the policy's action,
``q_gain`` the mean of Q(s, a_v) - Q(s, a) and ``gap`` that of |a_v - a|. ``q`` is the mean of Q(s, a).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from covr_jax.config import ConfigError, required
from experiments.benchmark import measure

BATCH = 256


def pulls(
    value: Any, observation: Any, action: Any, prior: np.ndarray, valid: np.ndarray, weight: float
) -> dict[str, np.ndarray]:
    """Computes what the module says of each row.

    Args:
      value: (observation, action f32[B,A]) -> Q f32[B].
      observation: of ``value``.
      action: f32[B,A], a of the policy.
      prior: f32[B,A], a_v.
      valid: bool[B], whether there is an answer.
      weight: lambda.

    Returns:
      Arrays [B]; NaN where only rows with an answer have the number.
    """
    import jax

    q, gradient = value(observation, action), jax.grad(lambda a: value(observation, a).sum())(action)
    q, gradient, gap = np.asarray(q), np.asarray(gradient), np.asarray(prior) - np.asarray(action)
    norm, gain = np.linalg.norm(gap, axis=1), np.asarray(value(observation, prior)) - q
    answered = {
        "towards": (gradient * gap).sum(1) > 0,
        "better": gain > 0,
        "q_gain": gain,
        "gap": norm,
    }
    return {
        "q": q,
        "critic_pull": np.linalg.norm(gradient, axis=1),
        "guidance_pull": np.where(valid, 2.0 * weight * norm, 0.0),
        **{name: np.where(valid, values.astype(float), np.nan) for name, values in answered.items()},
    }


def row_of(run_dir: Path, samples: int) -> dict[str, Any]:
    """Measures one run."""
    import jax
    import jax.numpy as jnp

    from covr_jax import replay
    from covr_jax.replay.sampling import uniform
    from covr_jax.training.restore import load_experience, load_run

    config, programs, state = load_run(run_dir)
    experience = load_experience(run_dir).state
    if not bool(experience.replay.prior.valid.any()):
        raise ConfigError(f"{run_dir}: no answer of a VLM is in its replay")
    learner, stack, store = programs.parts.learner, programs.parts.frame_stack, experience.replay
    index = uniform(store, jax.random.key(0), samples, stack, jnp.zeros((), jnp.int32))
    observation = replay.observations(store, index.time, index.env_id, stack)
    slot = index.time % store.reward.shape[0]
    prior, valid = (np.asarray(part[slot, index.env_id]) for part in store.prior)
    found, weight = [], required(config.covr.guidance_weight)
    for start in range(0, samples, BATCH):
        part = slice(start, start + BATCH)
        action = learner.mode(state.learner.params, observation[part])
        found.append(
            pulls(lambda o, a: learner.value(state.learner, o, a), observation[part], action, prior[part], valid[part],
                  weight)
        )  # fmt: skip
    programs.close()
    mean = {name: float(np.nanmean(np.concatenate([rows[name] for rows in found]))) for name in found[0]}
    equal = mean["critic_pull"] / mean["guidance_pull"] * weight
    about = {"task": config.task, "method": config.method, "seed": config.seed, "answered": float(valid.mean())}
    return about | mean | {"weight": weight, "equal_weight": equal}


def main() -> int:
    """Prints a row per run, and writes them."""
    parser = argparse.ArgumentParser(
        prog="guidance.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN", help="directory of a run with a VLM")
    parser.add_argument("--samples", type=int, default=2048, help="transitions per run")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    own = parser.parse_args()
    cli.import_quietly(warp=False)

    from covr_jax import runtime

    runtime.configure()
    rows = [row_of(run_dir, own.samples) for run_dir in own.run_dirs]
    print(measure.table(rows))
    if own.output:
        measure.write(own.output, rows, samples=own.samples)
    return 0


if __name__ == "__main__":
    from covr_jax.io.checkpoint import CheckpointError

    cli.guarded(main, ConfigError, CheckpointError)
