"""The card of a shared policy: what it does, how well, and how it was made. Markdown with the Hub's metadata above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from scipy import stats

from covr_jax import __version__
from covr_jax.config import Config
from covr_jax.report.intervals import LEVEL


class MeanReturn(NamedTuple):
    """Return of a final evaluation: mean and population standard deviation over episodes."""

    mean: float
    std: float
    episodes: int

    def interval(self) -> tuple[float, float]:
        """Student's interval that holds the mean with probability ``LEVEL``, from the episodes of one evaluation."""
        half = stats.t.ppf(0.5 + LEVEL / 2, self.episodes - 1) * self.std / (self.episodes - 1) ** 0.5
        return self.mean - half, self.mean + half


def card(name: str, config: Config, about: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    """Returns the card of a policy.

    Args:
      name: of the repository, ``owner/name``.
      config: of the run.
      about: env steps of the policy and its action repeat.
      result: what ``result.json`` holds; None: the run has not ended, or another of its checkpoints is shared.
    """
    on_base = f" on {config.base}" if config.method != config.base else ""
    lines = [
        "---",
        "library_name: covr_jax",
        "pipeline_tag: reinforcement-learning",
        f"tags: [reinforcement-learning, jax, {config.task}, {config.method}]",
        *_model_index(config, result),
        "---",
        "",
        f"# {config.method}{on_base}, {config.task}",
        "",
        f"Acts from pixels; trained for {about['env_steps']:,} env steps, seed {config.seed}. JAX is all it needs.",
        "",
        "```python",
        "import covr_jax",
        "",
        f'policy = covr_jax.load_policy("{name}")',
        f"action = policy.act(observation)  # {_observation(config)}",
        "```",
        "",
        *_returns(config, result),
        f"Written by covr_jax {__version__}. The environment repeats each action {about['action_repeat']} times.",
    ]
    return "\n".join(lines) + "\n"


def _observation(config: Config) -> str:
    side = config.env.image_size
    return f"uint8 [B, {side}, {side}, 3 x {config.env.frame_stack}], oldest frame first"


def _of(config: Config, result: Mapping[str, Any]) -> MeanReturn:
    return MeanReturn(result["final_return"], result["final_return_std"], config.eval.episodes)


def _model_index(config: Config, result: Mapping[str, Any] | None) -> list[str]:
    if result is None:
        return []
    found = _of(config, result)
    return [
        "model-index:",
        f"- name: {config.method}",
        "  results:",
        "  - task: {type: reinforcement-learning, name: reinforcement-learning}",
        f"    dataset: {{name: {config.task}, type: {config.task}}}",
        f'    metrics: [{{type: mean_reward, name: mean_reward, value: "{found.mean:.1f} +/- {found.std:.1f}"}}]',
    ]


def _returns(config: Config, result: Mapping[str, Any] | None) -> list[str]:
    if result is None:
        return ["No final evaluation belongs to it.", ""]
    found = _of(config, result)
    spread = f" ± {found.std:.1f} (standard deviation over {found.episodes} episodes)"
    lines = [f"Return {found.mean:.1f}{spread if found.episodes > 1 else ' in one episode'}"]
    if found.episodes > 1:
        low, high = found.interval()
        lines[0] += f"; {LEVEL:.0%} interval of the mean {low:.1f} to {high:.1f}, of this one run"
    lines[0] += f". Uniform actions: {result['random_return']:.1f}."
    facts = {"Drawn by": result.get("renderer"), "Command": result.get("command"), "Commit": result.get("commit")}
    lines += ["", *[f"* {label}: `{value}`" for label, value in facts.items() if value], ""]
    return lines
