"""A vLLM server is asked what the engine itself would be asked, and has every new adapter."""

from __future__ import annotations

import base64
import io
from functools import partial

import numpy as np
import pytest
import torch

from covr_jax.vlm.models.images import resize
from covr_jax.vlm.prompts import Prompt
from covr_jax.vlm.serving import vllm_engine
from covr_jax.vlm.serving.fake import FakeVLM
from covr_jax.vlm.serving.protocol import PriorError, Question
from covr_jax.vlm.serving.vllm_engine import VLLMEngine, png_url
from tests.support.faults import expected, some_batch, some_frames
from tests.support.services import make
from tests.support.vllm_server import CHAT, LOAD, VLLMServer


def engine_of(server, folder, trainer=FakeVLM, name="fake"):
    return VLLMEngine(trainer, name, server.endpoint, 60.0, folder / "served")


def tune(engine, amount=1.5):
    """A round that adds an amount to the bias of ``FakeVLM``."""
    return engine.finetune(some_frames(0, 1), np.full((1, 1), amount, np.float32), np.ones(1, np.float32))


def picture(url):
    from PIL import Image

    assert url.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


# ------------------------------------------------------------------ questions


@pytest.mark.parametrize("size", [None, 28, 56, 40])
def test_a_png_is_what_the_engine_itself_sees(frames, size):
    """Resized by Pillow, which rounds in fixed point: now and then one level off."""
    seen = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    seen = (seen if size is None else resize(seen, size)).permute(0, 2, 3, 1).numpy()
    shown = np.stack([picture(png_url(frame, size)) for frame in frames]).astype(np.float32)
    exact = size in (None, 40)
    assert np.abs(shown - seen).max() <= (0 if exact else 1) and (shown != seen).mean() < 0.01


def test_a_request_holds_the_question(server, tmp_path):
    class Asking(FakeVLM):
        def __init__(self):
            super().__init__()
            self.question = Question(Prompt("You drive.", "Which way?"), True, 16, 1, r"Action: .*|no idea", 24)

    engine = engine_of(server, tmp_path, Asking)
    frames = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 9), dtype=np.uint8)
    engine.query(frames)
    with engine.disable_adapter():
        engine.query(frames)
    tuned, base = server.bodies(CHAT)
    system, user = tuned["messages"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "You drive."}]} and user["role"] == "user"
    *images, text = user["content"]
    assert text == {"type": "text", "text": "Which way?"} and [image["type"] for image in images] == ["image_url"] * 3
    for i, image in enumerate(images):  # oldest first
        np.testing.assert_array_equal(picture(image["image_url"]["url"]), frames[0, :, :, 3 * i : 3 * i + 3])
    assert {name: tuned[name] for name in ("temperature", "max_tokens", "repetition_penalty")} == {
        "temperature": 0,
        "max_tokens": 24,
        "repetition_penalty": 1.0,
    }
    assert tuned["structured_outputs"] == {"regex": r"Action: .*|no idea"}
    assert tuned["model"] in server.adapters and base["model"] == "fake" and "cache_salt" not in base
    assert base["messages"] == tuned["messages"]


def test_a_model_without_a_system_turn_gets_one_message(server, tmp_path):
    class Asking(FakeVLM):
        def __init__(self):
            super().__init__()
            self.question = Question(Prompt("You drive.", "Which way?"), False, None, 1, None, 24)

    engine_of(server, tmp_path, Asking).query(some_frames(0, 1))
    [body] = server.bodies(CHAT)
    assert [message["role"] for message in body["messages"]] == ["user"] and "structured_outputs" not in body
    assert body["messages"][0]["content"][-1]["text"] == "You drive.\nWhich way?"


def test_many_frames_are_asked_at_a_time_over_connections_that_stay(server, tmp_path):
    engine = engine_of(server, tmp_path)
    for _ in range(3):
        prior = engine.query(frames := some_frames(0, 50))
        np.testing.assert_array_equal(prior.action, expected(frames).action)
        np.testing.assert_array_equal(prior.valid, expected(frames).valid)
    assert 2 < server.connections <= 32 and len(server.bodies(CHAT)) == 150
    assert engine.query(some_frames(0, 0)).action.shape == (0, 1)


# ------------------------------------------------------------------- adapters


def test_every_round_reaches_the_server_in_place_and_leaves_one_directory(server, tmp_path):
    engine, names = engine_of(server, tmp_path), set()
    for rounds in range(3):
        names |= set(server.adapters)
        prior = engine.query(frames := some_frames(5))  # the same prompt: nothing remembered of an older adapter counts
        np.testing.assert_array_equal(prior.action, expected(frames, 1.5 * rounds).action)
        with engine.disable_adapter():
            np.testing.assert_array_equal(engine.query(frames).action, expected(frames).action)
        assert "push_error" not in tune(engine)
    assert len(names) == 1 and server.rereads == 0
    first = server.bodies(LOAD)[0]
    assert first["load_inplace"] and first["lora_path"].startswith(str(tmp_path / "served"))
    assert len(list((tmp_path / "served").iterdir())) == 1
    assert engine.counters["rounds"] == 3 and engine.counters["push_failures"] == engine.counters["unanswered"] == 0


def test_two_runs_of_one_server_have_adapters_of_their_own(server, tmp_path):
    one, two = (engine_of(server, tmp_path / name) for name in ("one", "two"))
    tune(one)
    frames = some_frames(5)
    np.testing.assert_array_equal(one.query(frames).action, expected(frames, 1.5).action)
    np.testing.assert_array_equal(two.query(frames).action, expected(frames).action)


def test_an_adapter_that_is_not_taken_leaves_the_one_of_before_and_is_offered_again(server, tmp_path, monkeypatch):
    engine, frames, clock = engine_of(server, tmp_path), some_frames(5), [0.0]
    monkeypatch.setattr(vllm_engine.time, "monotonic", lambda: clock[0])
    tune(engine)
    server.faults[LOAD].extend([500, 500])
    record = tune(engine)
    assert "answers 500 to /v1/load_lora_adapter: out of memory" in record["push_error"]
    assert "\n" not in record["push_error"] and "--max-lora-rank" in record["push_error"]
    assert engine.counters["push_failures"] == 1 and record["finetune_losses"] == [0.5]
    for now, bias, failures in ((59.0, 1.5, 1), (60.5, 1.5, 2), (100.0, 1.5, 2), (121.0, 3.0, 2), (300.0, 3.0, 2)):
        clock[0] = now
        np.testing.assert_array_equal(engine.query(frames).action, expected(frames, bias).action)
        assert engine.counters["push_failures"] == failures
    assert len(list((tmp_path / "served").iterdir())) == 1
    assert len(server.bodies(LOAD)) == 2 * 3 + 2  # two requests for each of three that were taken


def test_the_adapter_of_a_checkpoint_is_brought_to_the_server(server, tmp_path):
    first = make("vllm", tmp_path, server)
    first.submit_finetune(some_batch())
    assert first.poll_finetune().error == ""
    first.save_adapter(tmp_path / "checkpoint")
    counters = dict(first.counters)
    first.submit_finetune(some_batch())  # after the checkpoint
    assert first.poll_finetune().error == ""
    first.close()
    resumed = make("vllm", tmp_path, server)
    frames = some_frames(5)
    np.testing.assert_array_equal(resumed.query(frames).action, expected(frames).action)
    resumed.restore(tmp_path / "checkpoint", counters, 0)
    np.testing.assert_array_equal(resumed.query(frames).action, expected(frames, 1.5).action)
    server.faults[LOAD].extend([500, 500])  # of the adapter so far, and of the checkpoint's
    with pytest.raises(PriorError, match="answers 500"):
        resumed.restore(tmp_path / "checkpoint", counters, 0)
    resumed.close()


# -------------------------------------------------------- the model of this process


@pytest.fixture
def tiny_server(make_engine):
    """Answers as a second tiny engine does that loads the adapters; its frames come as PNG."""
    other = make_engine(rank=4)

    def read(adapter):
        def rule(frames):
            if adapter is None:
                with other.disable_adapter():
                    return other.answer(frames[None])[0]
            other.load_adapter(adapter)
            return other.answer(frames[None])[0]

        return rule

    server = VLLMServer(read, model="tiny")
    yield server
    server.stop()


@pytest.mark.slow
def test_the_tiny_model_answers_there_as_here(make_engine, tiny_server, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 84, 84, 3), dtype=np.uint8)  # of the model's size
    here = make_engine(rank=4, finetune_options={"steps": 4, "learning_rate": 0.05})
    engine = engine_of(tiny_server, tmp_path, lambda: here, "tiny")
    before = here.answer(frames)
    assert engine.answer(frames) == before
    action = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)
    assert "push_error" not in engine.finetune(frames, action, np.ones(6, np.float32))
    after = here.answer(frames)
    assert engine.answer(frames) == after != before
    np.testing.assert_array_equal(engine.query(frames).action, np.asarray(here.query(frames).action))
    with engine.disable_adapter():
        assert engine.answer(frames) == before
    body = tiny_server.bodies(CHAT)[-1]
    assert body["messages"][0]["content"][-1]["text"] == "reacher easy" and body["max_tokens"] == 32
    assert body["structured_outputs"]["regex"].startswith(r"Action: \[[+-]")


def test_the_question_of_the_engine_is_its_own_prompt_and_grammar(make_engine):
    make = partial(make_engine, task="car_racing", action_dim=3)
    signed, unsigned = make().question, make(signed=False, frames=1).question
    assert signed.prompt == Prompt("", "question") and signed.system_role
    assert (signed.image_size, signed.action_dim, signed.max_tokens) == (84, 3, 40)
    assert signed.pattern.count("[+-](?:0") == 3 and unsigned.pattern.count("-?(?:0") == 3
    assert make(decoding="free").question.pattern is None
