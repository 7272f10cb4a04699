"""The options of a run: JSON and back, differences, and one error line per rule."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from covr_jax import config as configuration
from covr_jax import presets
from covr_jax.config import Config, ConfigError, from_dict, to_dict
from covr_jax.config.validate import validate
from covr_jax.training.resolve import resolve


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
    config = resolve(presets.make("paper"))
    assert (config.total_steps, config.covr.psi_0, config.covr.cold_start_rounds) == (100_000, 5000, 4)
    assert (config.covr.guidance_weight, config.vlm.every, config.eval.episodes) == (1.0, 10, 10)
    assert (config.sac.batch_size, config.sac.actor_update_every, config.sac.init_temperature) == (128, 2, 0.1)
    assert (config.sac.critic_tau, config.sac.encoder_tau, config.replay.capacity) == (0.01, 0.05, 100_000)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown preset 'papr'; choose from paper, throughput, cpu, demo"):
        presets.make("papr")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_json_and_back(name):
    config = with_leaf(presets.make(name, task="carla_highway"), "sac.conv-strides", (2, 1, 2))
    written = json.loads(json.dumps(to_dict(config)))
    assert from_dict(written) == config
    assert from_dict(to_dict(config)) == config
    assert configuration.differences(from_dict(written), config) == []  # a list in JSON is a tuple again


def test_an_unknown_option_in_config_json_is_refused_by_name():
    values = to_dict(Config())
    values["sac"]["momentum"] = 1
    with pytest.raises(ConfigError, match=r"unknown option sac\.momentum in config\.json"):
        from_dict(values)


def test_config_json_of_an_earlier_version_loads_with_defaults_for_later_options():
    values = to_dict(Config(seed=7))
    del values["vlm"]["every"], values["vpf"]
    assert from_dict(values) == Config(seed=7)
    assert from_dict(values | {"provenance": {"jax": "0.10.2"}}) == Config(seed=7)  # no option


@pytest.mark.parametrize("name", ["task", "method", "seed"])
def test_config_json_without_what_identifies_a_run_is_refused(name):
    values = to_dict(Config())
    del values[name]
    with pytest.raises(ConfigError, match=rf"missing option {name} in config\.json"):
        from_dict(values)


@pytest.mark.parametrize(
    ("name", "value"), [("sac.batch-size", "many"), ("sac.batch-size", 1.5), ("run.video", "no"), ("sac", 3)]
)
def test_a_wrong_type_in_config_json_is_one_line_that_names_the_option(name, value):
    with pytest.raises(ConfigError) as caught:
        from_dict(to_dict(with_leaf(Config(), name, value)) if "." in name else to_dict(Config()) | {name: value})
    assert name.replace("-", "_") in str(caught.value) and str(value) in str(caught.value)
    assert str(caught.value).startswith("config.json: ") and "\n" not in str(caught.value)


def test_an_unknown_method_in_config_json_is_refused():
    with pytest.raises(ConfigError, match="method"):
        from_dict(to_dict(Config()) | {"method": "rainbow"})


def test_differences_name_each_option_once_with_both_values():
    old, new = Config(), with_leaf(with_leaf(Config(seed=7), "sac.discount", 0.9), "env.num-envs", 4)
    assert configuration.differences(old, new) == ["env.num_envs: 1 -> 4", "sac.discount: 0.99 -> 0.9", "seed: 1 -> 7"]
    values = to_dict(old)
    del values["run"]["video"]  # written before the option existed
    assert configuration.differences(from_dict(values), old) == []
    assert configuration.differences(from_dict(values), with_leaf(old, "run.video", False)) == [
        "run.video: True -> False"
    ]


AT_LEAST_ONE = [
    "total-steps",
    "env.num-envs",
    "env.frame-stack",
    "env.action-repeat",
    "env.image-size",
    "augment.size",
    "sac.batch-size",
    "sac.updates-per-step",
    "sac.steps-per-update",
    "sac.noise-steps",
    "sac.n-step",
    "sac.init-steps",
    "sac.actor-update-every",
    "sac.hidden-dim",
    "sac.feature-dim",
    "sac.num-filters",
    "sac.target-period",
    "replay.capacity",
    "replay.recent-least",
    "replay.recent-phase",
    "covr.psi-0",
    "covr.anneal-steps",
    "covr.entropy-samples",
    "vlm.every",
    "vlm.frames",
    "vlm.max-samples",
    "vlm.batch-size",
    "vlm.micro-batch",
    "vlm.lora-rank",
    "vlm.image-size",
    "vlm.steps",
    "vpf.steps",
    "vpf.epochs",
    "vpf.minibatch",
    "vpf.forward-batch",
    "vpf.anneal-iterations",
    "eval.every",
    "eval.episodes",
    "run.checkpoint-every",
    "run.log-every",
    "run.num-seeds",
]
COUNTS = ["covr.cold-start-rounds", "covr.min-keep", "vlm.held-out", "vlm.return-episodes", "vlm.restarts"]
NOT_NEGATIVE = [
    *COUNTS,
    "covr.guidance-weight",
    "vlm.deadline-s",
    "replay.priority-alpha",
    "replay.priority-beta",
    "replay.priority-floor",
    "sac.weight-decay",
    "vpf.value-weight",
    "vpf.entropy-weight",
    "vpf.max-grad-norm",
    "vpf.learning-rate",
    "vpf.final-learning-rate",
    "sac.learning-rate",
    "sac.auxiliary-learning-rate",
    "sac.noise-start",
    "sac.noise-end",
    "sac.alpha-learning-rate",
    "vlm.learning-rate",
]
POSITIVE = ["sac.init-temperature", "vlm.hang-s", "sac.auxiliary-clip-norm", "sac.critic-clip-norm", "vlm.lora-alpha"]
UNIT = [
    "sac.discount",
    "sac.critic-tau",
    "sac.encoder-tau",
    "sac.torso-tau",
    "covr.return-discount",
    "replay.elite-share",
    "replay.recent-eta",
    "vpf.clip",
    "vpf.discount",
    "vpf.gae-decay",
    "vlm.warmup",
    "vlm.label-smoothing",
    "vlm.lora-dropout",
]
RATES = [name for name in NOT_NEGATIVE if name.endswith("learning-rate")]
FINITE = [name for name in NOT_NEGATIVE if name not in COUNTS]
BROKEN = [
    *((name, 0, "must be at least 1, got 0") for name in AT_LEAST_ONE),
    *((name, 10**21, f"must be at most 2,147,483,647, got {10**21}") for name in AT_LEAST_ONE + COUNTS),
    *((name, 1e30, "must be at most 1e+20, got 1e+30") for name in RATES),
    *((name, float("inf"), "must be finite, got inf") for name in FINITE),
    *((name, float("nan"), "must be 0 or more, got nan") for name in FINITE),
    *((f"sac.log-std-{end}", value, "must be finite") for end in ("min", "max") for value in (-math.inf, math.nan)),
    *((name, value, f"must be positive, got {value}") for name in POSITIVE for value in (0.0, -1.0, math.nan)),
    *((name, math.inf, "must be finite, got inf") for name in POSITIVE),
    ("sac.init-steps", 100_001, "100,001 and --total-steps 100,000: nothing would be learned"),
    ("vlm.name", " ", "must not be empty"),
    *((name, -1, "must be 0 or more, got -1") for name in NOT_NEGATIVE),
    *((name, value, "must be between 0 and 1") for name in UNIT for value in (-0.01, 1.01, float("nan"))),
    *(("seed", value, f"must be between 0 and 4294967295, got {value}") for value in (-1, 2**32)),
    *(("sac.conv-filters", value, f"{value} must be positive, one per layer") for value in ((32, 32), (32, 0, 32, 32))),
    ("env.samples", 3, "must be 1, 2 or 4, got 3"),
    ("vlm.frames", 4, "must be at most --env.frame-stack, 3, got 4"),
    *(("sac.alpha-beta1", value, "must be at least 0 and below 1") for value in (-0.1, 1.0, float("nan"))),
    ("sac.log-std-min", 2.0, "must be below --sac.log-std-max, got 2.0 and 2.0"),
    *(("covr.top-percentile", value, "must be between 0 and 100") for value in (-5.0, 180.0, float("nan"))),
    *(("vlm.gpu-share", value, "must be between 0 and 1, both excluded") for value in (0.0, 1.0, float("nan"))),
    *(("vpf.temperature", value, "must be between 0.01 and 10") for value in (0.0, 10.5, float("nan"))),
    *(("vlm.ask-share", value, "must be above 0 and at most 1") for value in (0.0, -0.5, 1.01, float("nan"))),
]


@pytest.mark.parametrize(("name", "value", "message"), BROKEN)
def test_every_rule_refuses_in_one_line_that_names_the_option(name, value, message):
    with pytest.raises(ConfigError) as caught:
        validate(with_leaf(Config(), name, value))
    assert str(caught.value).startswith(f"--{name} {message}")
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
    validate(with_leaf(with_leaf(Config(), "sac.init-steps", 1), name, value))


def test_methods_in_which_the_vlm_acts_have_no_steps_before_learning():
    validate(with_leaf(Config(method="vbe"), "total-steps", 10))
    config = with_leaf(Config(method="vpf"), "vpf.value-hidden", (8, 0))
    with pytest.raises(ConfigError, match=r"--vpf.value-hidden \(8, 0\) must be positive"):
        validate(with_leaf(config, "vlm.name", "tiny"))


def test_covr_needs_a_vlm_and_its_base_does_not():
    with pytest.raises(ConfigError, match="covr needs a VLM"):
        validate(with_leaf(Config(method="covr"), "vlm.name", "none"))
    validate(with_leaf(Config(method="rad"), "vlm.name", "none"))


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().sac.discount = 0.5
