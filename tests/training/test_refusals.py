"""What refuses to start, in one line, and what stays as it was."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from covr_jax.config import ConfigError, to_dict
from covr_jax.io import manifest
from covr_jax.io.checkpoint import Checkpointer, CheckpointError
from covr_jax.io.files import write_json
from covr_jax.io.run_dir import claim
from covr_jax.training.loop_state import AgentLoopState

pytestmark = pytest.mark.xdist_group("training")


def refused(kind, run, *arguments):
    with pytest.raises(kind) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_configurations_directory_is_refused(run, covr, tiny_config, folder):
    other = dataclasses.replace(tiny_config, seed=9, sac=dataclasses.replace(tiny_config.sac, discount=0.5))
    message = refused(ConfigError, run, other, folder / "covr")
    assert "sac.discount: 0.99 -> 0.5; seed: 1 -> 9; choose another --run-dir" in message


def test_resume_can_be_switched_off(run, resumed, tiny_config, folder):
    config = dataclasses.replace(tiny_config, run=dataclasses.replace(tiny_config.run, resume=False))
    directory = folder / "no_resume"
    (directory / "checkpoints" / "800").mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(to_dict(config)))
    assert "already holds a checkpoint" in refused(ConfigError, run, config, directory)


def test_a_directory_in_use_is_refused_and_freed_afterwards(run, covr, tiny_config, folder):
    with claim(folder / "covr"):
        assert "in use by another process" in refused(ConfigError, run, tiny_config, folder / "covr")
    run(tiny_config, folder / "covr")


def test_a_corrupt_checkpoint_is_named(run, tiny_config, folder, resumed):
    directory = folder / "corrupt"
    run(tiny_config, directory, 2500)
    (newest,) = Checkpointer(directory).steps()
    path = directory / "checkpoints" / str(newest)
    (path / "adapter" / "bias.json").unlink()
    message = refused(CheckpointError, run, tiny_config, directory)
    assert f"checkpoint {path} is damaged: adapter/bias.json is missing; choose another --run-dir" in message
    manifest.write_manifest(path)  # as if it had never been there
    message = refused(CheckpointError, run, tiny_config, directory)
    assert f"cannot read the adapter of checkpoint {path}: cannot read the adapter" in message


def test_options_that_turn_out_unusable_do_not_claim_the_directory(run, tiny_config, folder, monkeypatch):
    wrong = dataclasses.replace(tiny_config, method="rad", task="nonsense")
    assert "unknown task" in refused(ConfigError, run, wrong, folder / "typo")
    assert not (folder / "typo" / "config.json").exists()


def test_a_record_is_there_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"round": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"round": 2})
    assert json.loads(path.read_text()) == {"round": 1}


def test_the_loop_state_of_an_earlier_version_is_read():
    """Version 0.1.0 called two counts by other names."""
    state = AgentLoopState.from_dict({"rounds": 2, "asked": 30, "skipped": 4, "data_start": [1, 2]})
    assert (state.frames_queried, state.frames_skipped, state.rounds, state.data_start) == (30, 4, 2, [1, 2])
