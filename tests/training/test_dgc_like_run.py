"""Whole small runs of dgc_like with the tiny CLIP: whose frame a map belongs to, what is refused, how it is shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import config as configuration
from covr_jax import presets, replay
from covr_jax.config import ConfigError
from covr_jax.config.validate import validate
from covr_jax.report import write_report
from covr_jax.report.compare import read_curve
from covr_jax.training import loop
from covr_jax.training.resolve import resolve
from covr_jax.training.restore import load_run
from covr_jax.types import Prior, TimeStep
from tests.support.reporters import Quiet

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]

from covr_jax.commands import cli  # noqa: E402
from covr_jax.vlm.map_engine import MapVLM  # noqa: E402


@pytest.fixture(scope="module")
def short(tiny_config):
    return dataclasses.replace(
        tiny_config,
        method="dgc_like",
        total_steps=4_000,
        augment=configuration.AugmentConfig(),
        vlm=configuration.VLMConfig(name="tiny", every=5, hold=False),
        eval=dataclasses.replace(tiny_config.eval, every=100_000),
        run=dataclasses.replace(tiny_config.run, checkpoint_every=2_000),
    )


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory):
    """A run's directory and its trainer."""
    directory = tmp_path_factory.mktemp("run")
    trainer = loop.AgentTrainer(resolve(short), directory, Quiet())
    (directory / "config.json").write_text(json.dumps(configuration.to_dict(short)))
    result = trainer.run()
    (directory / "result.json").write_text(json.dumps(result._asdict()))
    return directory, trainer


def assert_maps_are_of_their_frames(store, every):
    """Every stored map is the answer to the very frame beside it, and there is one in ``every`` slots."""
    valid = np.asarray(store.prior.valid)
    filled = min(int(store.count), len(valid))
    times, lanes = np.nonzero(valid)
    assert 0 < len(times) <= (filled // every + 1) * valid.shape[1]
    # The ring has not wrapped: a slot is a time.
    assert int(store.count) <= len(valid) and set(times % every) == {0}
    again = MapVLM("tiny", "cartpole_swingup", 49).query(np.asarray(store.pictures)[times, lanes])
    np.testing.assert_allclose(np.asarray(store.prior.action)[times, lanes], again.action, atol=1e-3)
    assert np.ptp(np.asarray(again.action), axis=0).max() > 0.02  # frames differ, or this would show nothing
    assert not np.asarray(store.prior.action)[~valid].any()
    return len(times)


@pytest.mark.slow
def test_a_run_learns_from_maps_of_the_frames_that_were_asked_about(finished):
    directory, trainer = finished
    store = trainer.state.replay
    chunks = int(store.count) // trainer.programs.parts.chunk_steps
    assert chunks * trainer.programs.parts.chunk_steps == int(store.count)
    found = assert_maps_are_of_their_frames(store, every=5)
    assert found == int(store.count) // 5 * 2  # lanes
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    learning = [row for row in rows if "losses/map" in row]
    assert any(row["losses/map"] > 0 for row in learning)
    assert all(row["losses/guidance"] == 0 for row in learning)
    assert not any(name.startswith("covr/") for row in rows for name in row)
    assert rows[-1]["vlm/memory_bytes"] > 0 and rows[-1]["vlm/frames_per_query"] == 4
    assert not list(directory.glob("vlm/round_*"))


@pytest.mark.slow
def test_a_batch_holds_the_map_of_its_newest_frame_and_no_prior(finished):
    _, trainer = finished
    store = trainer.state.replay
    batch = replay.sample(store, jax.random.key(0), 64, 3, maps=True)
    time, env_id = (np.asarray(x) for x in batch.index)
    np.testing.assert_array_equal(batch.maps.value, np.asarray(store.prior.action)[time, env_id])
    np.testing.assert_array_equal(batch.maps.valid, np.asarray(store.prior.valid)[time, env_id])
    np.testing.assert_array_equal(batch.observation[..., -3:], np.asarray(store.pictures)[time, env_id])
    assert 0 < batch.maps.valid.sum() < 64
    assert batch.prior.action.shape == batch.action.shape and not batch.prior.valid.any()


@pytest.mark.slow
def test_it_resumes_and_is_evaluated_without_the_vlm(short, finished, tmp_path, monkeypatch):
    directory, trainer = finished
    half = dataclasses.replace(short, total_steps=2_000)
    loop.AgentTrainer(resolve(half), tmp_path, Quiet()).run()
    resumed = loop.AgentTrainer(resolve(short), tmp_path, Quiet())
    assert 2_000 <= resumed.env_steps < 4_000
    resumed.run()
    for one, two in zip(*(jax.tree.leaves(t.state.learner.params) for t in (trainer, resumed)), strict=True):
        np.testing.assert_array_equal(one, two)
    monkeypatch.setattr(MapVLM, "query", None)
    _, programs, state = load_run(directory, None, None)
    assert np.isfinite(programs.evaluator.evaluate(programs.evaluator.eval_policy(state.learner), 1, 0)).all()


@pytest.mark.slow
def test_a_child_answers_too(short, tmp_path):
    vlm = dataclasses.replace(short.vlm, mode="process", deadline_s=300.0)
    config = dataclasses.replace(short, vlm=vlm, total_steps=2_000)
    trainer = loop.AgentTrainer(resolve(config), tmp_path, Quiet())
    try:
        trainer.run()
        assert trainer.vlm.counters["failures"] == trainer.vlm.counters["hangs"] == 0
    finally:
        trainer.vlm.close()
    assert_maps_are_of_their_frames(trainer.state.replay, every=5)


def test_answers_wider_than_actions_are_attached_by_index():
    store = replay.init(12, 2, 4, 1, answer_dim=9)
    assert replay.nbytes(12, 2, 4, 1, 9) == sum(x.nbytes for x in jax.tree.leaves(store)) - 8
    lanes = jnp.zeros(2)
    for t in range(9):
        image = jnp.full((2, 4, 4, 3), t, jnp.uint8)
        store = replay.add(store, TimeStep(jnp.ones(2, jnp.int32), lanes, lanes, image), jnp.zeros((2, 1)))
    maps = np.arange(2 * 2 * 9, dtype=np.float32).reshape(2, 2, 9)
    valid = np.array([[True, True], [True, False]])
    store = replay.set_prior(store, Prior(maps, valid), jnp.asarray(8), every=4, hold=False)
    expected = np.zeros((12, 2, 9), np.float32)
    expected[0], expected[4, 0] = maps[0], maps[1, 0]
    np.testing.assert_array_equal(store.prior.action, expected)
    np.testing.assert_array_equal(store.prior.valid, expected.any(-1) | (np.arange(12) == 0)[:, None])


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_knows_it(name):
    config = presets.make(name, "dgc_like")
    validate(config)
    assert (config.vlm.hold, config.vlm.return_episodes, config.method) == (False, 0, "dgc_like")
    released = "openai/clip-vit-base-patch16"
    assert config.vlm.name == (released if name in ("paper", "throughput") else "tiny")
    validate(cli.parse_config(["--preset", name, "--method", "dgc_like", "--vlm", "tiny"], "train.py", ""))
    assert presets.make(name, "deepmdp").vlm == presets.make(name).vlm


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vlm": {"name": "none"}}, "dgc_like needs a VLM"),
        ({"vlm": {"name": "fake"}}, "dgc_like needs maps, which --vlm fake cannot give"),
        ({"vlm": {"hold": True}}, "dgc_like takes --vlm.no-hold only"),
        ({"vlm": {"return_episodes": 1}}, "dgc_like takes --vlm.return-episodes 0 only"),
        ({"replay": {"sampling": "elite"}}, "is for runs without a VLM"),
        ({"method": "covr", "base": "dgc_like"}, "cannot be a --base; use --method dgc_like"),
    ],
)
def test_what_does_not_go_together_is_refused(short, changes, said):
    values = {
        name: dataclasses.replace(getattr(short, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    with pytest.raises(ConfigError, match=said):
        validate(dataclasses.replace(short, **values))


def test_a_wrong_model_and_a_wrong_base_are_one_line(short, tmp_path, capsys):
    config = dataclasses.replace(short, vlm=dataclasses.replace(short.vlm, name=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="cannot load the VLM"):
        loop.AgentTrainer(resolve(config), tmp_path / "run", Quiet())
    with pytest.raises(SystemExit):
        cli.parse_config(["--method", "covr", "--base", "dgc_like"], "train.py", "")
    assert capsys.readouterr().err.strip().endswith("cannot be a --base; use --method dgc_like")


@pytest.mark.slow
def test_it_is_shown_as_a_reading(finished):
    directory, _ = finished
    page = write_report(directory).read_text()
    assert "DGC-like" in page and "Feature map to the VLM" in page
    assert page.count("dgc_like") == 1 and "<td class=mono>dgc_like</td>" in page  # among the options, as it was given
    (directory / "metrics.jsonl").open("a").write(json.dumps({"env_steps": 4_000, "eval/episode_return": 1.0}) + "\n")
    assert read_curve(directory).method == "DGC-like"
