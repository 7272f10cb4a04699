"""A run goes on with another budget, logging or place, and refuses what would make it another run."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest

from covr_jax.config import Config, ConfigError, VLMConfig, to_dict
from covr_jax.config.convert import flatten
from covr_jax.config.resume import FREE, _replace, going_on
from covr_jax.io.run_dir import check_config
from covr_jax.training.resolve import comparable, resolve

COVR = Config(base="drqv2")  # reads the options of every group but vpf
VPF = Config(method="vpf")


def hint_of(name):
    """The annotation of an option."""
    kind = Config
    for part in name.split("."):
        kind = typing.get_type_hints(kind)[part]
    return kind


def other_value(name, value):
    """A valid value of an option that is not ``value``."""
    special = {"task": "reacher_easy", "method": "dpl", "base": "rad", "sac.conv_filters": (8, 8, 8, 8)}
    if name in special:
        return special[name]
    arms = typing.get_args(hint_of(name)) or (hint_of(name),)
    literals = [choice for arm in (hint_of(name), *arms) for choice in typing.get_args(arm) if isinstance(choice, str)]
    if choices := [choice for choice in literals if choice not in (value, "auto")]:
        return choices[0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1)
    if isinstance(value, str):
        return f"{value}0"
    return "other" if str in arms else 2 if int in arms or "PositiveInt" in str(arms) else 0.5


@pytest.mark.parametrize("name", sorted(flatten(Config())))
def test_every_option_is_free_or_fixed(name):
    recorded = resolve(VPF if name.startswith("vpf.") else COVR)
    given = _replace(recorded, {name: other_value(name, flatten(recorded)[name])})
    if name in FREE:
        config, changes = going_on(recorded, given, comparable)
        assert changes == {name: [flatten(recorded)[name], flatten(given)[name]]} and config == given
    else:
        with pytest.raises(ConfigError, match=rf"(^|; ){name}: "):
            going_on(recorded, given, comparable)


def test_free_options_exist():
    assert set(FREE) <= flatten(Config()).keys()


def test_a_longer_run_keeps_the_schedules_that_it_began_with():
    """VPF's cosine of 100,000 env steps has 25 iterations of 512 agent steps of 8 env steps; of 200,000 it has 49."""
    config, changes = going_on(resolve(VPF), dataclasses.replace(VPF, total_steps=200_000), comparable)
    assert resolve(VPF).vpf.anneal_iterations == config.vpf.anneal_iterations == 25
    assert changes == {"total_steps": [100_000, 200_000]}


def test_free_options_that_are_left_open_stay():
    """A run records what it used: 32 samples per pass of the embedded model."""
    given = Config(vlm=VLMConfig(name="tiny"))
    recorded = resolve(dataclasses.replace(given, vlm=dataclasses.replace(given.vlm, gpu_share=0.3)))
    config, changes = going_on(recorded, given, comparable)
    assert (config.vlm.micro_batch, config.vlm.gpu_share) == (32, 0.3) and not changes


def test_fewer_steps_than_were_made_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(resolve(COVR))))
    (tmp_path / "checkpoints" / "5000").mkdir(parents=True)
    assert check_config(dataclasses.replace(COVR, total_steps=5000), tmp_path, comparable).config.total_steps == 5000
    with pytest.raises(ConfigError, match=r"has trained for 5,000 env steps, more than --total-steps 4,999$"):
        check_config(dataclasses.replace(COVR, total_steps=4999), tmp_path, comparable)


def test_all_differences_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(resolve(COVR))))
    with pytest.raises(ConfigError, match=r"other options: .*base: drqv2 -> rad; seed: 1 -> 2; choose another"):
        check_config(dataclasses.replace(COVR, base="rad", seed=2), tmp_path, comparable)
