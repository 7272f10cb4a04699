"""Options that a task, a method or the kind of VLM decides: their values, and run directories of earlier versions."""

import dataclasses
import json

import pytest

from covr_jax import presets
from covr_jax.config import (
    AugmentConfig,
    Config,
    ConfigError,
    EnvConfig,
    ReplayConfig,
    SACConfig,
    VLMConfig,
    from_dict,
    to_dict,
)
from covr_jax.io.run_dir import check_config
from covr_jax.training.resolve import comparable, resolve

OPEN = {
    "replay": "the value is None",
    "demonstrations": "the value is None",
    "endpoint": "the value is None",
    "expert_states": "the value is None",
    "auxiliary_clip_norm": "the value is None",
    "critic_clip_norm": "the value is None",
    "adapter": "the value is None",
    "gpu_share": "what the model needs of the GPU at hand",
    "conv_filters": "num_filters each",
    "center_crop": "the value is None",
    "micro_batch": "decided when a round starts, or without LoRA",
    "steps": "one epoch of data that is not there yet",
    "anneal_updates": "read by PER and ERE only",
    "anneal_iterations": "read by vpf only",
}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_resolved_config_has_every_value_and_stays_as_it_is(name):
    config = resolve(presets.make(name))
    for group in dataclasses.asdict(config).values():
        if isinstance(group, dict):
            assert {option for option, value in group.items() if value is None} <= OPEN.keys()
    assert resolve(config) == config


@pytest.mark.parametrize(
    ("task", "weight", "rounds", "alpha", "repeat", "rate"),
    [
        ("cartpole_swingup", 1.0, 4, 16.0, 8, 1e-3),
        ("cheetah_run", 1.0, 4, 16.0, 4, 2e-4),
        ("car_racing", 1.0, 4, 16.0, 4, 1e-3),
        ("carla_highway", 2.0, 2, 256.0, 1, 1e-3),
    ],
)
def test_values_of_the_task(task, weight, rounds, alpha, repeat, rate):
    config = resolve(Config(task=task))
    assert (config.covr.guidance_weight, config.covr.cold_start_rounds) == (weight, rounds)
    assert config.vlm.lora_alpha == alpha
    assert (config.env.action_repeat, config.sac.learning_rate) == (repeat, rate)
    assert config.sac.auxiliary_learning_rate == rate


def test_given_values_are_kept():
    given = presets.make("demo", "drqv2")
    config = resolve(dataclasses.replace(given, covr=dataclasses.replace(given.covr, guidance_weight=0.0)))
    assert (config.covr.guidance_weight, config.sac.torso_tau, config.sac.learning_rate) == (0.0, 1.0, 1e-4)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tiny", (84, 16, 64.0, 0.0, 2e-3, 32, 32, 0.05, 0.0)),
        ("Qwen/Qwen2.5-VL-3B-Instruct", (224, 128, 16.0, 0.05, 1e-4, 16, None, 0.03, 0.1)),
        ("llava-hf/llava-1.5-7b-hf@main", (336, 128, 16.0, 0.05, 1e-4, 16, None, 0.03, 0.1)),
        ("tiny-qwen3", (84, 16, 64.0, 0.0, 2e-3, 32, 32, 0.05, 0.0)),
        ("Qwen/Qwen3-VL-2B-Instruct", (224, 128, 16.0, 0.05, 1e-4, 16, None, 0.03, 0.1)),
        ("Qwen/Qwen3.5-2B", (224, 128, 16.0, 0.05, 1e-4, 16, None, 0.03, 0.1)),
        ("OpenGVLab/InternVL3-2B-hf", (448, 128, 16.0, 0.05, 1e-4, 16, None, 0.03, 0.1)),
        ("./a/directory", (None, 128, 16.0, 0.05, 1e-4, 16, None, 0.03, 0.1)),
        ("fake", (None,) * 9),
    ],
)
def test_values_of_the_kind_of_vlm(name, values):
    vlm = resolve(Config(vlm=VLMConfig(name=name))).vlm
    lora = (vlm.lora_rank, vlm.lora_alpha, vlm.lora_dropout)
    finetuning = (vlm.learning_rate, vlm.batch_size, vlm.micro_batch, vlm.warmup, vlm.label_smoothing)
    assert (vlm.image_size, *lora, *finetuning) == values


def test_without_a_vlm_its_options_stay_open():
    assert resolve(Config(method="rad")).vlm == VLMConfig()
    assert resolve(Config(method="dgc_like")).vlm == VLMConfig()


@pytest.mark.parametrize(
    ("method", "task", "resolved"),
    [
        ("rad", "cartpole_swingup", AugmentConfig("translate", 108)),
        ("rad", "walker_walk", AugmentConfig("crop", 84)),
        ("curl", "cartpole_swingup", AugmentConfig("crop", 84)),
        ("resact", "walker_walk", AugmentConfig("translate", 108)),
        ("sac", "cartpole_swingup", AugmentConfig()),
        ("drq", "cartpole_swingup", AugmentConfig()),
    ],
)
def test_augmentation_of_method_and_task(method, task, resolved):
    assert resolve(Config(task=task, method=method)).augment == resolved


def test_evaluations_show_the_distractors_of_training_unless_given():
    config = resolve(Config(env=EnvConfig(distractors="color_easy")))
    assert config.eval.distractors == "color_easy"


def test_an_unknown_task_is_refused():
    with pytest.raises(ConfigError, match="unknown task 'cartpole_swingdown'; choose from"):
        resolve(Config(task="cartpole_swingdown"))


def test_a_run_directory_of_an_earlier_version_is_the_same_run(tmp_path):
    config = presets.make("demo")
    written = to_dict(config)  # as recorded before values were resolved, and before an option existed
    del written["vlm"]["ask_share"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    check_config(config, tmp_path, resolve)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(resolve(config))))
    check_config(config, tmp_path, resolve)
    other = dataclasses.replace(config, vlm=dataclasses.replace(config.vlm, lora_rank=8))
    with pytest.raises(ConfigError, match=r"vlm\.lora_rank: 16 -> 8; choose another --run-dir"):
        check_config(other, tmp_path, resolve)


def test_a_run_goes_on_with_the_physics_that_it_began_with(tmp_path):
    """``auto`` depends on the machine; a run directory does not, and runs of version 0.1.0 were MJX."""
    config = presets.make("demo")
    assert check_config(config, tmp_path, comparable).config == config and config.env.physics == "auto"
    written = to_dict(resolve(config))
    assert written["env"].pop("physics") == "mujoco"
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert from_dict(written).env.physics == "mjx"
    assert check_config(config, tmp_path, comparable).config.env.physics == "mjx"
    other = dataclasses.replace(config, env=dataclasses.replace(config.env, physics="mujoco"))
    with pytest.raises(ConfigError, match=r"env\.physics: mjx -> mujoco"):
        check_config(other, tmp_path, resolve)


def test_simulators_on_the_host_have_physics_of_their_own():
    assert resolve(presets.make("cpu", task="car_racing")).env.physics == "auto"


def test_options_that_a_run_does_not_read_do_not_lock_it_out(tmp_path):
    """The demo of version 0.1.0 held these values of options that only DrQ-v2, TACO and vpf read."""
    written = to_dict(presets.make("demo"))
    written["sac"]["noise_steps"], written["vpf"]["anneal_iterations"] = 80_000, 25
    written["vpf"]["entropy_weight"] = 0.01
    (tmp_path / "config.json").write_text(json.dumps(written))
    check_config(presets.make("demo"), tmp_path, comparable)
    written |= {"base": "drqv2"}
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=r"noise_steps: 80000 -> "):
        config = from_dict(written)
        check_config(
            dataclasses.replace(config, sac=dataclasses.replace(config.sac, noise_steps=1)), tmp_path, comparable
        )


def test_the_refusal_names_the_version_that_wrote_the_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(Config())))
    (tmp_path / "checkpoints" / "100").mkdir(parents=True)
    (tmp_path / "checkpoints" / "100" / "host.json").write_text("{}")  # version 0.1.0 wrote neither format nor version
    with pytest.raises(ConfigError, match=r"holds a run of covr_jax 0\.1\.0 with other options: seed: 1 -> 2;"):
        check_config(Config(seed=2), tmp_path, comparable)


def test_a_run_directory_with_an_unknown_option_is_refused_by_name(tmp_path):
    written = to_dict(Config()) | {"momentum": 1}
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=r"unknown option momentum in config\.json; choose another --run-dir"):
        check_config(Config(), tmp_path, resolve)


@pytest.mark.parametrize("sampling", ["prioritised", "recent"])
def test_exponents_of_samplers_rise_over_the_run(sampling):
    """100,000 env steps of cartpole are 12,500 agent steps; with two environments and three updates 18,750 updates."""
    config = Config(
        env=EnvConfig(num_envs=2), sac=SACConfig(updates_per_step=3), replay=ReplayConfig(sampling=sampling)
    )
    assert resolve(config).replay.anneal_updates == 18_750
    given = dataclasses.replace(config, replay=ReplayConfig(sampling=sampling, anneal_updates=0))
    assert resolve(given).replay.anneal_updates == 0


def test_the_rate_of_vpf_falls_over_the_run():
    """100,000 env steps of CARLA at action repeat 1 are 196 iterations of 512 steps, the last one shorter."""
    assert resolve(presets.make("paper", "vpf", task="carla_highway")).vpf.anneal_iterations == 196
    assert resolve(presets.make("paper", "vpf", task="cartpole_swingup")).vpf.anneal_iterations == 25
