"""Files of options: between preset and command line, whole configs, and what cannot be used."""

from __future__ import annotations

import dataclasses
import json

import pytest

from covr_jax.commands import cli
from covr_jax.config import Config, to_dict
from covr_jax.training.resolve import resolve


def config_of(*arguments):
    return cli.parse_config([str(argument) for argument in arguments], "train.py", "")


def test_a_file_of_options_stands_between_preset_and_command_line(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "preset: demo\nmethod: rad\nseed: 7\nsac: {learning_rate: 1e-4, batch_size: 64}\nrun: {video: false}\n"
    )
    plain = config_of("--preset", "demo", "--method", "rad", "--seed", "7", "--sac.learning-rate", "1e-4")
    changed = dataclasses.replace(plain, sac=dataclasses.replace(plain.sac, batch_size=64))
    assert config_of("--config", file) == dataclasses.replace(
        changed, run=dataclasses.replace(changed.run, video=False)
    )
    above = config_of("--config", file, "--sac.batch-size", "32", "--method", "sac", "--run.video")
    assert (above.sac.batch_size, above.method, above.run.video, above.seed) == (32, "sac", True, 7)


def test_the_config_of_a_run_is_a_file_of_options(tmp_path):
    resolved = resolve(config_of("--preset", "cpu", "--method", "curl", "--task", "walker_walk"))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(resolved)))
    assert config_of("--config", tmp_path / "config.json") == resolved
    assert config_of("--config", tmp_path / "config.json", "--seed", "4").seed == 4


BAD_FILES = [
    ("sac: [", [], "cannot be read: while parsing"),
    ("- 1", [], "must hold options by their group"),
    ("sac: {batchsize: 1}", [], "unknown option sac.batchsize in "),
    ("sac: {batch_size: many}", [], "x.yaml: wrong value type for field"),
    ("method: rainbow", [], "unknown method 'rainbow'"),
    (json.dumps(to_dict(Config())), ["--method", "sac"], "is a whole config, whose options --method would not change"),
]


@pytest.mark.field
@pytest.mark.parametrize(("text", "arguments", "message"), BAD_FILES)
def test_files_of_options_that_cannot_be_used(tmp_path, capsys, text, arguments, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        config_of("--config", tmp_path / "x.yaml", *arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1 and message in said
