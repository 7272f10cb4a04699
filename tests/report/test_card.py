"""The card of a shared policy: its numbers by hand, and metadata that the Hub's own parser reads."""

from __future__ import annotations

import dataclasses

import pytest

from covr_jax import config as configuration
from covr_jax.config import Config
from covr_jax.report.card import MeanReturn, card
from covr_jax.training.resolve import resolve

ABOUT = {"env_steps": 100_000, "action_repeat": 8}
RESULT = {
    "final_return": 812.25,
    "final_return_std": 9.0,
    "random_return": 88.0,
    "command": "covr-train",
    "commit": "a1",
}


@pytest.fixture
def config():
    return resolve(Config(method="covr", seed=4, env=configuration.EnvConfig(image_size=84)))


def test_the_interval_is_students():
    """Values 9 and 11: mean 10, sample deviation sqrt(2), so the mean's error is 1; t(0.975, 1) = 12.706."""
    low, high = MeanReturn(10.0, 1.0, 2).interval()
    assert (low, high) == pytest.approx((10 - 12.7062, 10 + 12.7062), abs=1e-4)


def test_the_card_says_what_was_measured(config):
    text = card("people/cartpole", config, ABOUT, RESULT)
    assert "# covr on rad, cartpole_swingup" in text and "trained for 100,000 env steps, seed 4" in text
    assert 'load_policy("people/cartpole")' in text and "uint8 [B, 84, 84, 3 x 3]" in text
    assert "Return 812.2 ± 9.0 (standard deviation over 10 episodes); 95% interval of the mean 805.5 to 819.0" in text
    assert "Uniform actions: 88.0." in text and "* Command: `covr-train`" in text and "* Commit: `a1`" in text
    assert "No final evaluation" in card("people/cartpole", config, ABOUT, None)
    once = dataclasses.replace(config, eval=configuration.EvalConfig(episodes=1))
    assert "Return 812.2 in one episode. Uniform" in card("people/cartpole", once, ABOUT, RESULT)


def test_the_hubs_parser_reads_the_metadata(config):
    from huggingface_hub import ModelCard

    data = ModelCard(card("people/cartpole", config, ABOUT, RESULT)).data
    assert (data.library_name, data.pipeline_tag) == ("covr_jax", "reinforcement-learning")
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type) == ("cartpole_swingup", "mean_reward")
    assert result.metric_value == "812.2 +/- 9.0"
