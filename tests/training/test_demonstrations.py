"""Episodes of a run as a dataset, and runs that begin with one: bytes, rounds, resuming, refusals."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from covr_jax import replay, runtime
from covr_jax.commands import export
from covr_jax.config import ConfigError
from covr_jax.io.checkpoint import Checkpointer
from covr_jax.io.datasets import Dataset
from covr_jax.training import demonstrations, past_rounds
from covr_jax.training.recorded import export_episodes
from covr_jax.training.resolve import resolve
from covr_jax.training.state import ExperienceState, initial_progress
from covr_jax.types import StepType
from tests.support.reporters import Quiet
from tests.support.trees import assert_trees_equal, host_copy

if missing := [name for name in ("minari", "h5py") if importlib.util.find_spec(name) is None]:
    pytest.skip(f"no {missing[0]}", allow_module_level=True)

import minari

pytestmark = pytest.mark.xdist_group("training")
STEPS = 25  # of every episode of ``tiny_config``


@pytest.fixture(scope="module")
def exported(rad, folder, tmp_path_factory):
    """The dataset of the run ``rad``, and what the command printed."""
    path, printed = tmp_path_factory.mktemp("datasets") / "rad", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "configure", lambda: None)
        patch.setattr(sys, "argv", ["export.py", str(folder / "rad"), "--dataset", str(path)])
        patch.setattr("builtins.print", lambda *words: printed.append(" ".join(words)))
        assert export.main() == 0
    return path, printed


def ends_of(ring):
    """(time, lane) at which the whole episodes of a ring end, in that order, where all have ``STEPS`` steps."""
    count, slots = int(ring.count), ring.step_type.shape[0]
    kinds = np.asarray(ring.step_type)[np.arange(count - slots, count) % slots]
    return [(count - slots + row, lane) for row, lane in np.argwhere(kinds == StepType.LAST) if row >= STEPS]


def test_the_command_writes_what_the_replay_holds_byte_for_byte(rad, exported, folder, tiny_config):
    path, printed = exported
    ring, dataset = rad.ended.replay, minari.MinariDataset(path)
    ends = ends_of(ring)
    assert dataset.total_episodes == len(ends) > 4 and dataset.total_steps == STEPS * len(ends)
    for episode, (last, lane) in zip(dataset.iterate_episodes(), ends, strict=True):
        time = np.arange(last - STEPS, last + 1)
        slot = time % ring.step_type.shape[0]
        assert ring.step_type[slot[0], lane] == StepType.FIRST
        seen = np.asarray(replay.observations(ring, time, np.full(len(time), lane), 3))
        assert episode.observations.dtype == np.uint8 and episode.rewards.dtype == np.float32
        np.testing.assert_array_equal(episode.observations, seen)
        np.testing.assert_array_equal(episode.actions, ring.action[slot[:-1], lane])
        np.testing.assert_array_equal(episode.rewards, ring.reward[slot[1:], lane])
        assert not episode.terminations.any() and episode.truncations.tolist() == [False] * (STEPS - 1) + [True]
    result = json.loads((folder / "rad" / "result.json").read_text())
    about = dataset.storage.metadata["covr_jax"]
    expected = {"task": "cartpole_swingup", "method": "rad", "base": None, "seed": 1, "env_steps": result["env_steps"]}
    expected |= {"action_repeat": 40, "frame_stack": 3, "image_size": 20, "renderer": "jax", "distractors": "none"}
    made_by = json.loads((folder / "rad" / "config.json").read_text())["provenance"]
    expected |= {"command": result["command"], "commit": made_by["commit"]}
    assert expected.items() <= about.items()
    assert dataset.id == "covr_jax/cartpole_swingup/rad-v0"
    shown = (
        f"{path}: {len(ends)} episodes of {STEPS * len(ends)} steps, cartpole_swingup at {result['env_steps']:,} env"
    )
    assert printed[0].startswith(shown)
    slots = np.asarray(ring.step_type) < StepType.LAST
    left = int(slots.sum()) - 2 - STEPS * len(ends)  # the newest slots start nothing that is stored
    assert printed[1] == (
        f"left out: 2 episodes overwritten in part, 0 broken off and 2 not at their end ({left} steps)"
    )


@pytest.mark.slow
def test_the_environment_of_a_dataset_gives_its_observations(exported):
    dataset = minari.MinariDataset(exported[0])
    env = dataset.recover_environment()
    assert env.observation_space == dataset.observation_space and env.action_space == dataset.action_space
    observation, _ = env.reset(seed=1)
    assert dataset.observation_space.contains(observation)


def test_an_earlier_checkpoint_has_its_own_episodes(rad, folder, tmp_path):
    first, *_ = Checkpointer(folder / "rad").steps()
    made = export_episodes(folder / "rad", first, str(tmp_path / "first"))
    assert made.about["env_steps"] == first and made.episodes == len(ends_of(rad.saved[first].replay))


@pytest.mark.field
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", "best"], "--checkpoint best keeps a policy without its replay"),
        (["--output", "x"], "--dataset writes no policy: leave --output and --stablehlo out"),
        (["--stablehlo", "cpu"], "--dataset writes no policy: leave --output and --stablehlo out"),
    ],
)
def test_what_does_not_go_with_a_dataset_is_refused(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export.py", "runs/a", "--dataset", "demos", *arguments])
    with pytest.raises(SystemExit) as left:
        export.parse()
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and error.count("\n") == 1


@pytest.mark.field
def test_runs_without_whole_episodes_or_a_replay_are_refused(rad, folder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="holds no run"):
        export_episodes(tmp_path, None, str(tmp_path / "demos"))
    options = json.loads((folder / "rad" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(options | {"method": "vbe"}))
    with pytest.raises(ConfigError, match="has no replay: in vbe the VLM acts"):
        export_episodes(tmp_path, None, str(tmp_path / "demos"))
    monkeypatch.setattr(replay, "find_episodes", lambda *_: ([], replay.LeftOut(1, 0, 2, 9)))
    said = (
        r"holds no whole episode, only 1 episodes overwritten in part, 0 broken off and 2 not at their end \(9 steps\)"
    )
    with pytest.raises(ConfigError, match=said):
        export_episodes(folder / "rad", None, str(tmp_path / "demos"))
    assert not (tmp_path / "demos").exists()


def begun(make_programs, config, path, slots=None):
    """What ``begin`` refuses before anything is compiled."""
    parts = make_programs(resolve(config)).parts
    options = dataclasses.replace(config.replay, demonstrations=str(path))
    programs = SimpleNamespace(
        config=dataclasses.replace(config, replay=options), parts=parts._replace(slots=slots or parts.slots)
    )
    with pytest.raises(ConfigError) as caught:
        demonstrations.begin(programs, Quiet())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.field
def test_demonstrations_that_do_not_fit_the_run_are_refused(rad, exported, tiny_config, make_programs, tmp_path):
    path, _ = exported
    config = dataclasses.replace(tiny_config, method="rad")
    assert "there is no Minari dataset" in begun(make_programs, config, tmp_path)
    other = dataclasses.replace(config, env=dataclasses.replace(config.env, image_size=24))
    said = begun(lambda _: make_programs(resolve(config)), other, path)
    assert "holds images of 20x20 pixels, the run's have 24x24: give --env.image-size as recorded" in said
    said = begun(make_programs, config, path, slots=STEPS)
    assert said == (
        "the newest demonstration has 25 steps, and the replay takes 24 per environment: raise --replay.capacity to 50,"
        " or lower --env.num-envs"
    )


def test_older_episodes_are_left_out_where_the_replay_has_no_room(exported, tiny_config, make_programs):
    """Two lanes of 30 slots take an episode of 26 slots each."""
    path, told = exported[0], Quiet()
    config = dataclasses.replace(tiny_config, method="rad")
    programs = SimpleNamespace(
        config=dataclasses.replace(config, replay=dataclasses.replace(config.replay, demonstrations=str(path))),
        parts=make_programs(resolve(config)).parts._replace(slots=30),
        pieces=SimpleNamespace(add=jax.jit(replay.add)),
        init=lambda: ExperienceState(replay.init(30, 2, 20, 1), initial_progress(2)),
    )
    ring = demonstrations.begin(programs, told).replay
    dataset = minari.MinariDataset(path)
    found, left_out = replay.find_episodes(ring)
    assert [stretch[:2] for stretch in found] == [(0, 0), (1, 0)] and left_out.steps == 0
    newest = (dataset[dataset.total_episodes - 1], dataset[dataset.total_episodes - 2])
    for episode, same in zip(replay.read_episodes(ring, found, 3), newest, strict=True):
        for one, other in zip(episode[:3], (same.observations, same.actions, same.rewards), strict=True):
            np.testing.assert_array_equal(one, other)
    older = dataset.total_episodes - 2
    taken = f"demonstrations: 2 episodes of 50 steps from {path}"
    assert told.messages == [f"{taken}; {older} older ones are left out, for want of --replay.capacity"]


def test_what_was_recorded_otherwise_is_told(exported, tiny_config, make_programs):
    parts = make_programs(resolve(dataclasses.replace(tiny_config, method="rad"))).parts
    dataset = Dataset(str(exported[0]))
    dataset.about |= {"action_repeat": 8, "task": "walker_walk", "seed": 99}
    lines = demonstrations._lines(dataset, replay.distribute(dataset.steps, 2, 104), parts)
    assert lines[1:] == [
        "the demonstrations were recorded otherwise (action_repeat 8 -> 40, task walker_walk -> cartpole_swingup)"
    ]


# ---------------------------------------------------------------- a run that begins with demonstrations


@pytest.fixture(scope="module")
def imitation(exported, tiny_config):
    """COVR with three environments."""
    return dataclasses.replace(
        tiny_config,
        total_steps=8000,
        env=dataclasses.replace(tiny_config.env, num_envs=3),
        replay=dataclasses.replace(tiny_config.replay, demonstrations=str(exported[0])),
    )


@pytest.fixture(scope="module")
def begun_with(run, imitation, folder):
    return run(imitation, folder / "imitation")


@pytest.mark.slow
def test_a_run_begins_with_the_newest_episodes_in_its_replay(begun_with, exported):
    dataset, ring = minari.MinariDataset(exported[0]), begun_with.began.replay
    found, left_out = replay.find_episodes(ring)
    assert len(found) == dataset.total_episodes and left_out.steps == 0
    assert {stretch.env_id for stretch in found} == {0, 1, 2} and int(begun_with.began.progress.transitions) == 0
    unseen = {tuple(episode.actions.ravel()): episode for episode in dataset.iterate_episodes()}
    for episode in replay.read_episodes(ring, found, 3):
        same = unseen.pop(tuple(episode.action.ravel()))
        np.testing.assert_array_equal(episode.observation, same.observations)
        np.testing.assert_array_equal(episode.reward, same.rewards)
    assert not unseen


@pytest.mark.slow
def test_random_steps_and_rounds_are_of_the_run_s_own_experience(begun_with, folder, imitation):
    newest = folder / "imitation" / "checkpoints" / str(Checkpointer(folder / "imitation").steps()[-1])
    host, began = json.loads((newest / "host.json").read_text()), int(begun_with.began.replay.count)
    assert host["own_start"] == began == 2 * (STEPS + 1)
    # 40 random transitions take two chunks of ten agent steps of three environments.
    assert host["policy_start"] == began + 20
    record = json.loads((folder / "imitation" / "vlm" / "round_1" / "record.json").read_text())
    assert record["samples"] == 3 * STEPS  # of the first episodes that the run's environments ended
    state = begun_with.saved[min(step for step in begun_with.saved if step > record["env_steps"])]
    again = past_rounds.repeat_round(resolve(imitation), state, [record], host["own_start"])
    assert again.keep.sum() == record["kept"]


@pytest.mark.slow
def test_a_resumed_run_loads_nothing_a_second_time(run, begun_with, imitation, exported, folder):
    killed = run(imitation, folder / "imitation_resumed", 5300)
    path, told = exported[0], Quiet()
    path.rename(path.with_name("gone"))
    try:
        resumed = run(imitation, folder / "imitation_resumed", reporter=told)
    finally:
        path.with_name("gone").rename(path)
    assert_trees_equal(resumed.began, killed.saved[max(killed.saved)])
    assert_trees_equal(host_copy(resumed.ended), host_copy(begun_with.ended))
    assert not [line for line in told.messages if line.startswith("demonstrations")]


@pytest.mark.slow
def test_the_dataset_of_such_a_run_has_its_own_episodes_alone(begun_with, folder, tmp_path):
    step = Checkpointer(folder / "imitation").steps()[0]
    made = export_episodes(folder / "imitation", step, str(tmp_path / "own"))
    began, ring = int(begun_with.began.replay.count), begun_with.saved[step].replay
    assert int(ring.count) - len(ring.step_type) < began - 1  # a part of some demonstrations is still stored
    slots = np.arange(began, int(ring.count)) % len(ring.step_type)
    assert made.episodes == (ring.step_type[slots] == StepType.LAST).sum() > 0
    assert made.steps == STEPS * made.episodes and made.left_out.overwritten == 0
