"""The contract that every service mode keeps: the same numbers as the engine asked directly, whatever carries them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from covr_jax import config
from covr_jax.config import ConfigError
from covr_jax.config.validate import validate
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from covr_jax.vlm.serving.protocol import PriorError
from covr_jax.vlm.serving.recording import PlaybackService, RecordingService
from covr_jax.vlm.serving.supervise import RetryPolicy
from tests.support.faults import expected, some_frames, some_lesson

PATIENT = RetryPolicy(deadline_s=60.0, hang_s=60.0)


def make(mode, folder):
    """A service of a mode around the fake; 'replay' plays what ``story`` left behind in sync mode."""
    if mode == "replay":
        recorder = RecordingService(factory.SyncService(FakeVLM()), folder / "answers.jsonl")
        story(recorder, folder / "recorded")
        return PlaybackService(folder / "answers.jsonl")
    return factory.make_service(partial(factory.build_engine, "fake", "any", 1, {}), mode, folder / "store", PATIENT)


def plain(answers):
    return [(a.time, a.version, np.asarray(a.prior.action).tolist(), a.prior.valid.tolist()) for a in answers]


def story(service, folder):
    """Two chunks, a lesson, a chunk, a measurement, a lesson, a chunk: all that came out of it."""
    told, steps = [], []
    told.append(plain(service.poll(5)))
    for time in (10, 20):
        service.submit(time, some_frames(time))
        told.append(plain(service.poll(time)))
    for number, time in ((1, 30), (2, 40)):
        told.append((service.ready, service.poll_finetune()))
        service.submit_finetune(some_lesson(number))
        outcome = service.poll_finetune(lambda *step: steps.append(step))
        told.append((outcome, service.poll_finetune(), service.ready))
        service.submit(time, some_frames(time))
        told.append(plain(service.poll(time)))
        told.append(service.query(some_frames(number)).action.tolist())
    service.save_adapter(folder)
    return told, steps


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return story(factory.SyncService(FakeVLM()), tmp_path_factory.mktemp("straight"))


@pytest.fixture(params=["sync", "async", "process", "replay"])
def service(request, tmp_path):
    service = make(request.param, tmp_path)
    yield service
    service.close()


def test_sync_gives_the_engines_own_answers(straight):
    told, steps = straight
    for index, (time, version, bias) in {1: (10, 0, 0.0), 2: (20, 0, 0.0), 5: (30, 1, 1.5), 9: (40, 2, 3.0)}.items():
        prior = expected(some_frames(time), bias)
        assert told[index] == [(time, version, prior.action.tolist(), prior.valid.tolist())]
    assert told[0] == [] and told[3] == (True, None) and told[4][1:] == (None, True)
    error = {name: told[4][0].record[name] for name in ("action_error_before", "action_error_untuned", "action_error")}
    held = some_lesson(1).held_frames
    before, after = (np.abs(p.action[p.valid]).mean() for p in (expected(held), expected(held, 1.5)))
    assert list(error.values()) == pytest.approx([before, before, after], rel=1e-6) and before != after
    assert told[4][0].error == "" and len(told[4][0].record["answers"]) == 2
    assert steps == [(1, 1, 0.5)] * 2


def test_every_mode_tells_the_same_story(service, straight, tmp_path):
    told, steps = story(service, tmp_path / "saved")
    assert told == straight[0]
    assert steps == ([] if isinstance(service, PlaybackService) else straight[1])  # a recording has no steps to report
    assert (
        service.model_info.name == "fake"
        and service.model_info.prompt == "Which way?"
        and service.model_info.memory_bytes == 8
    )
    assert service.counters["rounds"] == 2 and service.metrics()["vlm/parse_fail_rate"] > 0


def test_a_checkpoints_adapter_and_counters_come_back(service, tmp_path):
    story(service, tmp_path / "saved")
    counters = dict(service.counters)
    again = make("sync" if isinstance(service, factory.SyncService) else "async", tmp_path / "again")
    if isinstance(service, PlaybackService):
        again = PlaybackService(tmp_path / "answers.jsonl")
    again.restore(tmp_path / "saved", counters, 40)
    assert {k: again.counters[k] for k in counters} == counters
    again.submit(50, some_frames(50))
    found = again.poll(50)
    if isinstance(service, PlaybackService):
        assert found == []  # the recording ends there
    else:
        np.testing.assert_array_equal(found[0].prior.action, expected(some_frames(50), 3.0).action)
    with pytest.raises(RuntimeError):
        again.restore(tmp_path / "nowhere", {}, 40)
    again.close()


def test_what_was_saved_is_not_touched_by_later_lessons(tmp_path):
    for mode in ("async", "process"):
        service = make(mode, tmp_path / mode)
        for number in (1, 2):
            service.submit_finetune(some_lesson(number))
            assert service.poll_finetune().error == ""
            service.save_adapter(tmp_path / mode / str(number))
        service.close()
        biases = [json.loads((tmp_path / mode / n / "bias.json").read_text()) for n in ("1", "2")]
        assert biases == [1.5, 3.0]


# ------------------------------------------------------------------ recordings


def test_a_replay_gives_no_answer_to_other_frames(tmp_path):
    service = make("replay", tmp_path)
    service.submit(10, some_frames(11))
    assert service.poll(10) == [] and service.counters["missed"] == 1
    service.submit(20, some_frames(20))
    assert len(service.poll(20)) == 1


def test_late_answers_are_replayed_as_late(tmp_path):
    class Late(factory.SyncService):
        def poll(self, time):
            return super().poll(time) if time >= 30 else []

    path = tmp_path / "late.jsonl"

    def walk(service):
        taken = []
        for time in (10, 20, 30, 40):
            service.submit(time, some_frames(time))
            taken.append([answer.time for answer in service.poll(time)])
        return taken

    taken = walk(RecordingService(Late(FakeVLM()), path))
    assert taken == [[], [], [10, 20, 30], [40]] == walk(PlaybackService(path))


def test_a_resumed_recording_holds_every_answer_once(tmp_path):
    path = tmp_path / "answers.jsonl"
    first = RecordingService(factory.SyncService(FakeVLM()), path)
    for time in (10, 20, 30):
        first.submit(time, some_frames(time))
        first.poll(time)
        if time == 20:
            first.save_adapter(tmp_path / "saved")
    with path.open("a") as file:
        file.write('{"taken": 30, "ans')  # killed here
    second = RecordingService(factory.SyncService(FakeVLM()), path)
    second.restore(tmp_path / "saved", {}, 20)
    second.submit(30, some_frames(31))
    second.poll(30)
    replay = PlaybackService(path)
    for time, seed in ((10, 10), (20, 20), (30, 31)):
        replay.submit(time, some_frames(seed))
        assert [answer.time for answer in replay.poll(time)] == [time]
    assert replay.counters["missed"] == 0
    RecordingService(factory.SyncService(FakeVLM()), path).query(
        some_frames(1)
    )  # the run begins anew, without a checkpoint
    assert len(PlaybackService(path)._entries) == 1


@pytest.mark.parametrize("content", [None, "", "{}\n", '{"facts": 1}\n', '{"facts": {"name": "x"}}\n'])
def test_what_is_no_recording_is_refused(tmp_path, content):
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


def test_modes_by_configuration(tmp_path):
    for mode, kind in (("sync", factory.SyncService), ("async", factory.SupervisedService)):
        service = factory.make_vlm(covr_config(mode=mode), 1, tmp_path)
        assert type(service) is kind
        service.close()
    recorder = factory.make_vlm(covr_config(record=True), 1, tmp_path)
    recorder.query(some_frames(0))
    played = covr_config(name="never/loaded", replay=str(tmp_path / "vlm" / "answers.jsonl"))
    replay = factory.make_vlm(played, 1, tmp_path)
    assert type(replay) is PlaybackService
    np.testing.assert_array_equal(replay.query(some_frames(0)).action, expected(some_frames(0)).action)
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


def test_the_tiny_model_in_a_child_and_no_torch_in_the_parent(tmp_path):
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
    factory.make_vlm(covr_config(decoding="free", device="cpu", gpu_share=0.25), 1, tmp_path)
    assert (given["decoding"], given["device"], given["gpu_share"], given["merge"]) == ("free", "cpu", 0.25, None)
    factory.make_vlm(config.Config(method="vpf", vlm=config.VLMConfig(name="fake")), 1, tmp_path)
    assert given["merge"] is False and given["decoding"] == "constrained" and given["device"] == "auto"


def test_a_replayed_query_answers_to_its_own_frames_only(tmp_path):
    recorder = RecordingService(factory.SyncService(FakeVLM()), tmp_path / "answers.jsonl")
    given = [recorder.query(some_frames(seed)) for seed in (1, 2, 3)]
    replay = PlaybackService(tmp_path / "answers.jsonl")
    np.testing.assert_array_equal(replay.query(some_frames(1)).action, given[0].action)
    with pytest.raises(PriorError, match="the recording holds answers to other frames"):
        replay.query(some_frames(9))
    assert replay.counters["missed"] == 1
    np.testing.assert_array_equal(replay.query(some_frames(3)).action, given[2].action)
