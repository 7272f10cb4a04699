"""The contract of every service mode: the same numbers as those of the engine itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from covr_jax import config
from covr_jax.config import ConfigError
from covr_jax.config.validate import validate
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from covr_jax.vlm.serving.protocol import PriorError
from covr_jax.vlm.serving.recording import PlaybackService, RecordingService, read_recording
from tests.support.faults import expected, some_batch, some_frames
from tests.support.services import make, story


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return story(factory.SyncService(FakeVLM()), tmp_path_factory.mktemp("reference"))


@pytest.fixture(params=["sync", "async", "process", "vllm", "replay"])
def mode(request):
    return request.param


@pytest.fixture
def endpoint(request, mode):
    """The server of mode vllm; None in the others."""
    return request.getfixturevalue("server") if mode == "vllm" else None


@pytest.fixture
def service(mode, tmp_path, endpoint):
    service = make(mode, tmp_path, endpoint)
    yield service
    service.close()


def test_sync_gives_the_answers_of_the_engine(reference):
    results, progress = reference
    for index, (step, version, bias) in {1: (10, 0, 0.0), 2: (20, 0, 0.0), 5: (30, 1, 1.5), 9: (40, 2, 3.0)}.items():
        prior = expected(some_frames(step), bias)
        assert results[index] == [(step, version, prior.action.tolist(), prior.valid.tolist())]
    assert results[0] == [] and results[3] == (True, None) and results[4][1:] == (None, True)
    error = {
        name: results[4][0].record[name] for name in ("action_error_before", "action_error_untuned", "action_error")
    }
    heldout = some_batch(1).heldout_frames
    before, after = (np.abs(p.action[p.valid]).mean() for p in (expected(heldout), expected(heldout, 1.5)))
    assert list(error.values()) == pytest.approx([before, before, after], rel=1e-6) and before != after
    assert results[4][0].error == "" and len(results[4][0].record["answers"]) == 2
    assert progress == [(1, 1, 0.5)] * 2


def test_every_mode_gives_the_same_results(mode, service, reference, tmp_path):
    results, progress = story(service, tmp_path / "saved")
    if mode == "vllm":  # the server writes what it sees, ``FakeVLM.answer`` always the same
        for index in (4, 8):
            results[index][0].record["answers"] = ["Action: [0.00]"] * 2
    assert results == reference[0]
    assert progress == ([] if mode == "replay" else reference[1])  # recordings hold no progress
    assert (
        service.model_info.name == "fake"
        and service.model_info.prompt == "Which way?"
        and service.model_info.memory_bytes == 8
    )
    assert service.counters["rounds"] == 2 and service.metrics()["vlm/parse_fail_rate"] > 0


def test_adapter_and_counters_of_a_checkpoint_are_restored(mode, service, tmp_path, endpoint):
    story(service, tmp_path / "saved")
    counters = dict(service.counters)
    if mode == "replay":
        restored = PlaybackService(tmp_path / "answers.jsonl")
    else:
        restored = make({"process": "async"}.get(mode, mode), tmp_path / "restored", endpoint)
    restored.restore(tmp_path / "saved", counters, 40)
    assert {k: restored.counters[k] for k in counters} == counters
    restored.submit(50, some_frames(50))
    answers = restored.poll(50)
    if mode == "replay":
        assert answers == []  # the recording ends there
    else:
        np.testing.assert_array_equal(answers[0].prior.action, expected(some_frames(50), 3.0).action)
    with pytest.raises(RuntimeError):
        restored.restore(tmp_path / "nowhere", {}, 40)
    restored.close()


def test_a_saved_adapter_is_not_changed_by_later_rounds(tmp_path, server):
    for mode in ("async", "process", "vllm"):
        service = make(mode, tmp_path / mode, server if mode == "vllm" else None)
        for number in (1, 2):
            service.submit_finetune(some_batch(number))
            assert service.poll_finetune().error == ""
            service.save_adapter(tmp_path / mode / str(number))
        service.close()
        biases = [json.loads((tmp_path / mode / n / "bias.json").read_text()) for n in ("1", "2")]
        assert biases == [1.5, 3.0]


# ------------------------------------------------------------------ recordings


def test_playback_gives_no_answer_for_other_frames(tmp_path):
    service = make("replay", tmp_path)
    assert service.submit(10, some_frames(11)) is True  # playback cannot know that a query was dropped
    assert service.poll(10) == [] and service.counters["missed"] == 1
    service.submit(20, some_frames(20))
    assert len(service.poll(20)) == 1


def test_late_answers_are_played_back_late(tmp_path):
    class Late(factory.SyncService):
        def poll(self, step):
            return super().poll(step) if step >= 30 else []

    path = tmp_path / "late.jsonl"

    def answered(service):
        query_steps = []
        for step in (10, 20, 30, 40):
            service.submit(step, some_frames(step))
            query_steps.append([answer.query_step for answer in service.poll(step)])
        return query_steps

    recorded = answered(RecordingService(Late(FakeVLM()), path))
    assert recorded == [[], [], [10, 20, 30], [40]] == answered(PlaybackService(path))


def test_a_recorded_service_passes_on_that_a_query_was_dropped(tmp_path):
    class Dropping(factory.SyncService):
        def submit(self, query_step, frames):
            return False

    service = RecordingService(Dropping(FakeVLM()), tmp_path / "answers.jsonl")
    assert service.submit(10, some_frames(10)) is False and service.poll(10) == []


def test_a_resumed_recording_holds_every_answer_once(tmp_path):
    path = tmp_path / "answers.jsonl"
    first = RecordingService(factory.SyncService(FakeVLM()), path)
    for step in (10, 20, 30):
        first.submit(step, some_frames(step))
        first.poll(step)
        if step == 20:
            first.save_adapter(tmp_path / "saved")
    with path.open("a") as file:
        file.write('{"taken": 30, "ans')  # the process is killed
    second = RecordingService(factory.SyncService(FakeVLM()), path)
    second.restore(tmp_path / "saved", {}, 20)
    second.submit(30, some_frames(31))
    second.poll(30)
    playback = PlaybackService(path)
    for step, seed in ((10, 10), (20, 20), (30, 31)):
        playback.submit(step, some_frames(seed))
        assert [answer.query_step for answer in playback.poll(step)] == [step]
    assert playback.counters["missed"] == 0
    third = RecordingService(factory.SyncService(FakeVLM()), path)  # the run starts anew, without a checkpoint
    third.query(some_frames(1))
    assert len(read_recording(path)[1]) == 1


@pytest.mark.parametrize("content", [None, "", "{}\n", '{"facts": 1}\n', '{"facts": {"name": "x"}}\n'])
def test_a_file_that_is_not_a_recording_is_refused(tmp_path, content):
    path = tmp_path / "answers.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PriorError, match="cannot read the recording"):
        PlaybackService(path)


# --------------------------------------------------------------------- options


def covr_config(**options):
    return config.Config(vlm=config.VLMConfig(**{"name": "fake", **options}))


@pytest.mark.parametrize("mode", ["sync", "async", "process"])
def test_a_vlm_that_cannot_be_loaded_is_one_line_in_every_mode(tmp_path, mode):
    with pytest.raises(ConfigError) as caught:
        factory.make_vlm(covr_config(name=str(tmp_path / "nothing"), mode=mode), 1, tmp_path)
    assert "\n" not in str(caught.value) and "cannot load the VLM" in str(caught.value)


def test_the_configuration_chooses_the_service(tmp_path):
    for mode, kind in (("sync", factory.SyncService), ("async", factory.SupervisedService)):
        service = factory.make_vlm(covr_config(mode=mode), 1, tmp_path)
        assert type(service) is kind
        service.close()
    recording = factory.make_vlm(covr_config(record=True), 1, tmp_path)
    recording.query(some_frames(0))
    played = covr_config(name="never/loaded", replay=str(tmp_path / "vlm" / "answers.jsonl"))
    playback = factory.make_vlm(played, 1, tmp_path)
    assert type(playback) is PlaybackService
    np.testing.assert_array_equal(playback.query(some_frames(0)).action, expected(some_frames(0)).action)
    assert factory.make_vlm(config.Config(method="rad"), 1, tmp_path) is None
    with pytest.raises(ConfigError, match="exclude"):
        validate(covr_config(record=True, replay="x"))
    with pytest.raises(ConfigError, match="hang-s"):
        validate(covr_config(hang_s=0.0))


TINY = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.supervise import RetryPolicy

def main():
    folder = Path(sys.argv[1])
    build = partial(factory.build_engine, "tiny", "reacher_easy", 2, {"rank": 4})
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    service = factory.make_service(build, "process", folder / "store", RetryPolicy(300.0, 300.0))
    priors = [np.asarray(service.query(frames).action).tolist()]
    assert "torch" not in sys.modules and "jax" not in sys.modules
    service.close()
    priors.append(np.asarray(factory.make_service(build, "sync", folder, RetryPolicy()).query(frames).action).tolist())
    assert priors[0] == priors[1] and np.abs(priors[0]).max() > 0
    print("equal")

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_the_tiny_model_runs_in_a_child_without_torch_in_the_parent(tmp_path):
    script = tmp_path / "tiny.py"
    script.write_text(TINY)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, env=environment)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_decoding_device_and_memory_reach_the_engine(monkeypatch, tmp_path):
    given = {}

    def build(name, task, action_dim, options):
        given.update(options)
        return FakeVLM(action_dim)

    monkeypatch.setattr(factory, "build_engine", build)
    monkeypatch.setattr(factory, "torch_share", lambda config: 0.25)
    factory.make_vlm(covr_config(decoding="free", device="cpu"), 1, tmp_path)
    assert (given["decoding"], given["device"], given["gpu_share"], given["merge"]) == ("free", "cpu", 0.25, None)
    factory.make_vlm(config.Config(method="vpf", vlm=config.VLMConfig(name="fake")), 1, tmp_path)
    assert given["merge"] is False and given["decoding"] == "constrained" and given["device"] == "auto"


def test_a_query_is_played_back_for_its_own_frames_only(tmp_path):
    recording = RecordingService(factory.SyncService(FakeVLM()), tmp_path / "answers.jsonl")
    priors = [recording.query(some_frames(seed)) for seed in (1, 2, 3)]
    playback = PlaybackService(tmp_path / "answers.jsonl")
    np.testing.assert_array_equal(playback.query(some_frames(1)).action, priors[0].action)
    with pytest.raises(PriorError, match="the recording holds answers to other frames"):
        playback.query(some_frames(9))
    assert playback.counters["missed"] == 1
    np.testing.assert_array_equal(playback.query(some_frames(3)).action, priors[2].action)
