"""What a run with a vLLM server refuses, at once and in one line."""

from __future__ import annotations

import numpy as np
import pytest

from covr_jax import config
from covr_jax.config import ConfigError
from covr_jax.config.validate import validate
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.protocol import PriorError
from covr_jax.vlm.serving.vllm_client import API_KEY
from covr_jax.vlm.serving.vllm_engine import VLLMEngine
from tests.support.faults import expected, some_frames
from tests.support.vllm_server import LOAD, MODELS

# --------------------------------------------------------------------- options


def served_config(**options):
    options = {"mode": "vllm", "endpoint": "http://localhost:8000", "lora_targets": "language", **options}
    method = options.pop("method", "covr")
    hold = {"hold": False} if method == "dgc_like" else {}
    return config.Config(method=method, vlm=config.VLMConfig(**{"name": "tiny", **hold, **options}))


@pytest.mark.field
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoint": None}, "--vlm.mode vllm needs --vlm.endpoint, such as http://localhost:8000"),
        ({"mode": "async"}, "add --vlm.mode vllm"),
        ({"endpoint": "localhost:8000"}, "must be http://host:port, got 'localhost:8000'"),
        ({"endpoint": "http://host:eight"}, "must be http://host:port"),
        ({"endpoint": "http://host:0"}, "must be http://host:port"),
        ({"endpoint": "http://host:8000?key=1"}, "must be http://host:port"),
        ({"endpoint": "http://me:secret@host:8000"}, "put the key into COVR_VLLM_API_KEY"),
        ({"lora_targets": "all-linear"}, "takes --vlm.lora-targets language only"),
        ({"method": "vpf"}, "vpf trains the VLM itself"),
        ({"method": "dgc_like"}, "dgc_like asks for maps, which a vLLM server cannot give"),
    ],
)
def test_options_that_do_not_go_with_a_server_are_one_line(options, words):
    with pytest.raises(ConfigError) as caught:
        validate(served_config(**options))
    assert words in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_options_that_go_with_a_server():
    validate(served_config())
    validate(served_config(endpoint="https://host/v1/", method="vbe"))
    validate(served_config(endpoint=None, replay="answers.jsonl"))  # a recording needs no server
    validate(config.Config(method="rad", vlm=config.VLMConfig(endpoint="http://host:1")))  # without a VLM


def test_the_configuration_reaches_server_and_engine(server, tmp_path, monkeypatch):
    monkeypatch.setenv(API_KEY, "  secret ")
    server.key = "secret"
    settings = served_config(name="fake", endpoint=server.endpoint + "/v1/", hang_s=60.0, deadline_s=60.0)
    service = factory.make_vlm(settings, 1, tmp_path)
    service.submit(10, some_frames(10))
    [answer] = service.poll(10)
    np.testing.assert_array_equal(answer.prior.action, expected(some_frames(10)).action)
    assert (tmp_path / "vlm/served").is_dir() and service.model_info.name == "fake"
    names = ("queries", "parse_fail_rate", "unanswered", "push_failures", "failures", "down")
    share = 1 - answer.prior.valid.mean()
    assert [service.metrics()[f"vlm/{name}"] for name in names] == [1, pytest.approx(share), 0, 0, 0, 0]
    service.close()


# ----------------------------------------------------------------------- start


def refuse(server, how, monkeypatch):
    """Makes the start fail; returns what the one line must say."""
    if how == "away":
        server.stop()
        return [f"cannot reach the vLLM server at {server.endpoint}", "start it as docs/vlm.md says"]
    if how == "key":
        server.key = "other"
        return ["refuses the key", API_KEY]
    if how == "encoding":
        monkeypatch.setenv(API_KEY, "sécret")
        return [f"{API_KEY} must hold printable ASCII"]
    if how == "model":
        server.model = "another"
        return ["serves another, not fake", "--served-model-name fake"]
    if how == "adapters":
        server.faults[LOAD].append(404)
        return ["answers 404 to /v1/load_lora_adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"]
    server.faults[MODELS].append("malformed" if how == "text" else "empty")
    return ["sent something else than JSON"] if how == "text" else ["lists no models: it is no vLLM server"]


@pytest.mark.field
@pytest.mark.parametrize("how", ["away", "key", "encoding", "model", "adapters", "text", "list"])
def test_a_server_that_cannot_be_used_ends_the_start_in_one_line(server, tmp_path, monkeypatch, how):
    monkeypatch.setenv(API_KEY, "secret")
    words = refuse(server, how, monkeypatch)
    with pytest.raises(ConfigError) as caught:
        factory.make_vlm(served_config(name="fake", endpoint=server.endpoint), 1, tmp_path)
    text = str(caught.value)
    assert "\n" not in text and "secret" not in text and "sécret" not in text
    for part in words:
        assert part in text


def test_weights_are_loaded_after_the_server_has_answered(server, tmp_path):
    server.stop()
    with pytest.raises(PriorError, match="cannot reach"):
        VLLMEngine(lambda: pytest.fail("loaded"), "fake", server.endpoint, 60.0, tmp_path)
