"""The tree of options: JSON and back, differences, and one complaint per rule."""

from __future__ import annotations

import dataclasses
import json

import pytest

from covr_jax import config as configuration
from covr_jax import presets
from covr_jax.config import Config, ConfigError, from_dict, to_dict
from covr_jax.config.validate import validate


def with_leaf(config, name, value):
    """The config with one leaf, named as on the command line, replaced."""
    head, _, tail = name.replace("-", "_").partition(".")
    return dataclasses.replace(config, **{head: with_leaf(getattr(config, head), tail, value) if tail else value})


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_are_valid_and_know_their_name(name):
    config = presets.make(name)
    validate(config)
    assert config.preset == name


def test_the_paper_preset_is_the_papers_table():
    config = presets.make("paper")
    assert (config.total_steps, config.covr.psi_0, config.cold_start_rounds) == (100_000, 5000, 4)
    assert (config.guidance_weight, config.vlm.every, config.eval.episodes) == (1.0, 10, 10)
    assert (config.sac.batch_size, config.sac.actor_update_every, config.sac.init_temperature) == (128, 2, 0.1)
    assert (config.sac.critic_tau, config.sac.encoder_tau, config.replay.capacity) == (0.01, 0.05, 100_000)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown preset 'papr'; choose from paper, throughput, cpu, demo"):
        presets.make("papr")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_json_and_back(name):
    config = with_leaf(presets.make(name), "sac.conv-strides", (2, 1, 2))
    written = json.loads(json.dumps(to_dict(config)))
    assert from_dict(written) == config
    assert from_dict(to_dict(config)) == config
    assert configuration.differences(written, to_dict(config)) == []  # a list in JSON is the tuple it was


def test_what_config_json_should_not_hold():
    values = to_dict(Config())
    values["sac"]["momentum"] = 1
    with pytest.raises(ConfigError, match=r"unknown option sac\.momentum in config\.json"):
        from_dict(values)


def test_what_config_json_should_hold():
    values = to_dict(Config())
    del values["vlm"]["every"]
    with pytest.raises(ConfigError, match=r"missing option vlm\.every in config\.json"):
        from_dict(values)


def test_differences_name_each_leaf_once_with_both_values():
    old, new = to_dict(Config()), to_dict(with_leaf(with_leaf(Config(seed=7), "sac.discount", 0.9), "env.num-envs", 4))
    assert configuration.differences(old, new) == ["env.num_envs: 1 -> 4", "sac.discount: 0.99 -> 0.9", "seed: 1 -> 7"]
    del old["run"]["video"]  # written before the option existed
    assert "run.video: None -> True" in configuration.differences(old, new)


AT_LEAST_ONE = [
    "total-steps",
    "env.num-envs",
    "env.frame-stack",
    "env.action-repeat",
    "env.image-size",
    "augment.size",
    "sac.batch-size",
    "sac.updates-per-step",
    "sac.init-steps",
    "sac.actor-update-every",
    "sac.hidden-dim",
    "sac.feature-dim",
    "sac.num-filters",
    "replay.capacity",
    "covr.psi-0",
    "covr.entropy-samples",
    "vlm.every",
    "vlm.frames",
    "vlm.max-samples",
    "vlm.batch-size",
    "vlm.lora-rank",
    "vlm.steps",
    "eval.every",
    "eval.episodes",
    "run.checkpoint-every",
    "run.log-every",
]
NOT_NEGATIVE = [
    "seed",
    "covr.guidance-weight",
    "covr.cold-start-rounds",
    "covr.min-keep",
    "vlm.held-out",
    "vlm.return-episodes",
    "sac.learning-rate",
    "sac.alpha-learning-rate",
    "vlm.learning-rate",
]
UNIT = [
    "sac.discount",
    "sac.critic-tau",
    "sac.encoder-tau",
    "covr.return-discount",
    "vlm.label-smoothing",
    "vlm.lora-dropout",
]
BROKEN = [
    *((name, 0, "must be at least 1, got 0") for name in AT_LEAST_ONE),
    *((name, -1, "must be 0 or more, got -1") for name in NOT_NEGATIVE),
    *((name, value, "must be between 0 and 1") for name in UNIT for value in (-0.01, 1.01, float("nan"))),
    ("env.samples", 3, "must be 1, 2 or 4, got 3"),
    ("vlm.frames", 4, "must be at most --env.frame-stack, 3, got 4"),
    ("sac.init-temperature", 0.0, "must be positive"),
    *(("sac.alpha-beta1", value, "must be at least 0 and below 1") for value in (-0.1, 1.0, float("nan"))),
    ("sac.log-std-min", 2.0, "must be below --sac.log-std-max, got 2.0 and 2.0"),
    *(("covr.top-percentile", value, "must be between 0 and 100") for value in (-5.0, 180.0, float("nan"))),
    *(("vlm.ask-share", value, "must be above 0 and at most 1") for value in (0.0, -0.5, 1.01, float("nan"))),
]


@pytest.mark.parametrize(("name", "value", "complaint"), BROKEN)
def test_every_rule_refuses_in_one_line_that_names_the_option(name, value, complaint):
    with pytest.raises(ConfigError) as caught:
        validate(with_leaf(Config(), name, value))
    assert str(caught.value).startswith(f"--{name} {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kernels", "strides"), [((), ()), ((3, 3), (2, 0)), ((3, 0), (2, 1)), ((3, 3), (2, 1, 1)), ((3, 3, 3), (2, 1))]
)
def test_every_convolution_has_a_kernel_and_a_stride(kernels, strides):
    config = with_leaf(with_leaf(Config(), "sac.conv-kernels", kernels), "sac.conv-strides", strides)
    with pytest.raises(ConfigError, match=r"--sac.conv-kernels .* and --sac.conv-strides .* must be positive, one per"):
        validate(config)


ALLOWED = [(n, 1) for n in AT_LEAST_ONE] + [(n, 0) for n in NOT_NEGATIVE] + [(n, v) for n in UNIT for v in (0, 1)]


@pytest.mark.parametrize(("name", "value"), ALLOWED)
def test_every_rule_accepts_its_bound(name, value):
    validate(with_leaf(Config(), name, value))


def test_covr_needs_a_vlm_and_its_base_does_not():
    with pytest.raises(ConfigError, match="covr needs a VLM"):
        validate(with_leaf(Config(method="covr"), "vlm.name", "none"))
    validate(with_leaf(Config(method="rad"), "vlm.name", "none"))


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().sac.discount = 0.5
