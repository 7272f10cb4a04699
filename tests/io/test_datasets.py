"""Minari datasets: written, opened by minari itself and read back; what is refused in one line. L steps, A action."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from covr_jax.config import ConfigError
from covr_jax.io import datasets
from covr_jax.io.datasets import Dataset, check_free, check_packages, write_dataset
from covr_jax.types import Episode

if missing := [name for name in ("minari", "h5py") if importlib.util.find_spec(name) is None]:
    pytest.skip(f"no {missing[0]}", allow_module_level=True)

import gymnasium
import minari

SIDE, STACK, ACTIONS = 36, 3, 2  # minari takes images of 32 pixels and more for pictures, which it may compress
SIZES = {"image_size": SIDE, "channels": 3 * STACK, "action_dim": ACTIONS, "default_id": "covr_jax/toy/rad-v0"}
ABOUT = {"task": "toy", "method": "rad", "seed": 7}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


def make_episode(seed, steps, *, terminated):
    """Noise, which no picture format keeps in small; each observation has the frames of the two before it."""
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (steps + 1, SIDE, SIDE, 3), np.uint8)
    stacked = [np.concatenate([frames[max(t - age, 0)] for age in (2, 1, 0)], -1) for t in range(steps + 1)]
    action = generator.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32)
    return Episode(np.stack(stacked), action, generator.normal(size=steps).astype(np.float32), terminated)


EPISODES = [
    make_episode(0, 4, terminated=False),
    make_episode(1, 1, terminated=True),
    make_episode(2, 6, terminated=False),
]


def written(name, episodes=EPISODES, **changes):
    return write_dataset(str(name), iter(episodes), about=ABOUT, **SIZES | changes)


def refused(function, *arguments, **options):
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_minaris_own_reader_finds_every_byte(tmp_path):
    path = written(tmp_path / "new" / "demos")
    assert path == tmp_path / "new" / "demos" and [p.name for p in path.parent.iterdir()] == ["demos"]
    dataset = minari.MinariDataset(path)
    assert (dataset.id, dataset.total_episodes, dataset.total_steps) == ("covr_jax/toy/rad-v0", 3, 11)
    assert dataset.observation_space == gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 9), np.uint8)
    assert dataset.action_space == gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert dataset.storage.metadata["covr_jax"] == ABOUT and dataset.storage.metadata["algorithm_name"] == "rad"
    for found, made in zip(dataset.iterate_episodes(), EPISODES, strict=True):
        steps = len(made.reward)
        for got, expected in (
            (found.observations, made.observation),
            (found.actions, made.action),
            (found.rewards, made.reward),
            (found.terminations, [False] * (steps - 1) + [made.terminated]),
            (found.truncations, [False] * (steps - 1) + [not made.terminated]),
        ):
            assert got.dtype == np.asarray(expected).dtype
            np.testing.assert_array_equal(got, expected)
        assert all(dataset.observation_space.contains(image) for image in found.observations)
        assert f"total_steps={steps}" in repr(found)


def test_a_name_goes_to_minaris_store_and_everything_comes_back(store):
    assert written("people/toy-v3") == store / "people" / "toy-v3" / "data"
    assert list(minari.list_local_datasets()) == ["people/toy-v3"]
    assert minari.load_dataset("people/toy-v3").spec.version == 3
    for name in ("people/toy-v3", str(store / "people" / "toy-v3"), str(store / "people" / "toy-v3" / "data")):
        dataset = Dataset(name)
        dataset.check_spaces(SIDE, ACTIONS)
        assert dataset.steps == [4, 1, 6] and dataset.about == ABOUT
    for index, made in enumerate(EPISODES):
        for got, expected in zip(dataset.read(index), made, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_an_environment_is_recovered_from_what_is_written_of_it(tmp_path):
    path = written(tmp_path / "demos", env_spec=gymnasium.spec("CartPole-v1"))
    env = minari.MinariDataset(path).recover_environment()
    assert env.spec.id == "CartPole-v1"


@pytest.mark.field
def test_a_dataset_is_whole_or_not_there(tmp_path, store):
    def breaks():
        yield EPISODES[0]
        raise OSError(28, "No space left on device")

    for name, folder in ((tmp_path / "demos", tmp_path), ("people/toy-v0", store / "people" / "toy-v0")):
        with pytest.raises(OSError, match="No space left"):
            written(name, breaks())
        assert not [path for path in folder.iterdir() if path.name.startswith(("demos", "data"))]
    (tmp_path / "demos.partial").mkdir()  # of a process that was killed
    (tmp_path / "demos.partial" / "metadata.json").write_text("{}")
    written(tmp_path / "demos")
    assert not (tmp_path / "demos.partial").exists()
    before = (tmp_path / "demos" / "main_data.hdf5").read_bytes()
    assert (
        refused(written, tmp_path / "demos") == f"{tmp_path}/demos exists already; give another --dataset, or remove it"
    )
    assert (tmp_path / "demos" / "main_data.hdf5").read_bytes() == before
    written("people/toy-v0")
    assert "people/toy-v0/data exists already" in refused(check_free, "people/toy-v0")


@pytest.mark.field
def test_what_is_no_dataset_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(Dataset, "demos") == "there is no Minari dataset demos: demos has no metadata.json"
    (tmp_path / "demos-v0").mkdir()
    assert refused(Dataset, "demos-v0").endswith(
        "store/demos-v0/data has no metadata.json; for a directory give ./demos-v0"
    )
    assert "store" not in refused(Dataset, "./demos-v0")
    path = written(tmp_path / "demos")
    metadata = json.loads((path / "metadata.json").read_text())
    for content, said in (
        ("{", "cannot be read: Expecting"),
        (json.dumps(metadata | {"minari_version": "9.0"}), "cannot be read: The installed Minari version"),
        (json.dumps(metadata | {"data_format": "stone"}), "cannot be read: 'stone'"),
        (json.dumps(metadata | {"total_episodes": 9}), "cannot be read: "),
        (json.dumps(metadata | {"total_episodes": 0}), "holds no episode"),
    ):
        (path / "metadata.json").write_text(content)
        assert said in refused(Dataset, str(path))
    (path / "metadata.json").write_text(json.dumps(metadata))
    (path / "main_data.hdf5").write_bytes(b"no HDF5")
    assert "cannot be read: " in refused(Dataset, str(path))


@pytest.mark.field
@pytest.mark.parametrize("package", ["minari", "h5py", "PIL"])
def test_a_missing_package_is_named_with_the_extra(package, monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None if name == package else name)
    said = f"Minari datasets need the package {package}: pip install 'covr_jax[data]'"
    assert refused(check_packages) == refused(Dataset, "demos") == said


def other_dataset(path, observation_space, action_space):
    """A dataset of others: one episode of two steps, of zeros."""
    storage = minari.dataset.minari_storage.MinariStorage.new(
        path, observation_space, action_space, jpeg_encoding=False
    )
    storage.update_metadata({"dataset_id": "others/toy-v0", "minari_version": minari.__version__})
    space = observation_space if observation_space.shape is not None else next(iter(observation_space.values()))
    images = np.zeros((3, *space.shape), space.dtype)
    flags = np.array([False, True])
    buffer = minari.data_collector.EpisodeBuffer(
        observations=images if observation_space is space else {"image": images},
        actions=np.zeros((2, *action_space.shape), action_space.dtype),
        rewards=np.zeros(2),
        terminations=flags,
        truncations=~flags & False,
    )
    storage.update_episodes([buffer])
    return Dataset(str(path))


Box, PIXELS = gymnasium.spaces.Box, gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
UNIT = Box(-1, 1, (2,), np.float32)


@pytest.mark.field
@pytest.mark.parametrize(
    ("observation", "action", "said"),
    [
        (
            Box(-1, 1, (5,), np.float32),
            UNIT,
            "holds observations float32 [5]; a run needs images uint8 [H,W,3 x frames]",
        ),
        (
            Box(0, 1, (SIDE, SIDE, 3), np.float32),
            UNIT,
            "holds observations float32 [36, 36, 3]; a run needs images uint8",
        ),
        (Box(0, 255, (3, SIDE, SIDE), np.uint8), UNIT, "holds images of 3x36 pixels, the run's have 36x36"),
        (
            Box(0, 255, (SIDE, SIDE, 4), np.uint8),
            UNIT,
            "holds observations uint8 [36, 36, 4]; a run needs images uint8",
        ),
        (gymnasium.spaces.Dict(image=PIXELS), UNIT, "holds observations Dict; a run needs images uint8"),
        (
            Box(0, 255, (40, 40, 3), np.uint8),
            UNIT,
            "holds images of 40x40 pixels, the run's have 36x36: give --env.image",
        ),
        (PIXELS, Box(-1, 1, (3,), np.float32), "holds actions float32 [3], the task takes float32 [2]"),
        (PIXELS, gymnasium.spaces.Discrete(4), "holds actions int64 [], the task takes float32 [2]"),
        (PIXELS, Box(-2, 1, (2,), np.float32), "holds actions in [-2, 1], the task takes [-1, 1]: rescale them"),
    ],
)
def test_other_spaces_are_refused(tmp_path, observation, action, said):
    dataset = other_dataset(tmp_path / "others", observation, action)
    assert said in refused(dataset.check_spaces, SIDE, 2)


def test_single_frames_and_doubles_of_others_are_taken(tmp_path):
    dataset = other_dataset(tmp_path / "others", PIXELS, Box(-0.5, 0.5, (2,), np.float64))
    dataset.check_spaces(SIDE, 2)
    episode = dataset.read(0)
    assert dataset.about == {} and episode.terminated and episode.observation.shape == (3, SIDE, SIDE, 3)
    assert (episode.action.dtype, episode.reward.dtype) == (np.float32, np.float32)


@pytest.mark.field
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewards": [0.0, np.nan]}, "has a reward that is not finite"),
        ({"actions": [[0, 0], [0, 1.01]]}, "has an action outside of [-1, 1]; rescale them"),
        ({"actions": [[np.nan, 0], [0, 1]]}, "has an action outside of [-1, 1]; rescale them"),
        ({"actions": [[0], [0]]}, "has actions [2, 1] instead of [2, 2]; record it anew"),
        ({"observations": EPISODES[0].observation[:2]}, "has observations [2, 36, 36, 9] instead of [3, 36, 36, 9]"),
        ({"observations": EPISODES[0].observation[:3] / 2}, "has images of dtype float64 instead of uint8"),
        ({"observations": EPISODES[0].observation[:3][..., ::-1]}, "not those of the steps before, the newest last"),
        ({"terminations": [True, False]}, "has 2 steps and ends at steps [0]: its last step, and no other"),
        ({"terminations": [False, False]}, "has 2 steps and ends at no step: its last step, and no other"),
        ({"truncations": [True, True]}, "has 2 steps and ends at steps [0, 1]: its last step, and no other"),
    ],
)
def test_episodes_that_are_not_what_the_spaces_say_are_refused(tmp_path, change, said):
    arrays = {
        "observations": EPISODES[0].observation[:3],
        "actions": np.zeros((2, 2), np.float32),
        "rewards": np.zeros(2, np.float32),
        "terminations": np.array([False, True]),
        "truncations": np.array([False, False]),
    }
    path = written(tmp_path / "demos", [])
    buffer = minari.data_collector.EpisodeBuffer(**arrays | {name: np.asarray(value) for name, value in change.items()})
    minari.MinariDataset(path).update_dataset_from_buffer([buffer])
    dataset = Dataset(str(path))
    dataset.check_spaces(SIDE, ACTIONS)
    message = refused(dataset.read, 0)
    assert message.startswith(f"episode 0 of {path} ") and said in message
