import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from covr_jax.vlm import engine
from covr_jax.vlm.engine import VLMEngine
from covr_jax.vlm.models.loading import VLMLoadError
from tests.support.adapters import randomize_adapter


def test_query_gives_a_prior_of_jax_arrays(make_service, frames):
    service = make_service()
    for given in (frames, jnp.asarray(frames)):
        prior = service.query(given)
        assert isinstance(prior.action, jax.Array)
        assert prior.action.shape == (6, 2) and prior.action.dtype == jnp.float32
        assert prior.valid.dtype == jnp.bool_ and bool(prior.valid.all()) and float(jnp.abs(prior.action).max()) <= 1
    texts = service.answer(frames)
    numbers = np.array([json.loads(t.removeprefix("Action: ").replace("+", "")) for t in texts], np.float32)
    np.testing.assert_array_equal(np.asarray(prior.action), numbers)
    assert service.counters["queries"] == 2 and service.counters["frames"] == 12
    assert service.counters["parse_failures"] == 0 and service.counters["latency_s"] > 0


def test_splitting_and_padding_change_no_answer(make_service, frames):
    whole = make_service().answer(frames)
    assert make_service(query_batch=4).answer(frames) == whole
    assert [make_service().answer(frames[i : i + 1])[0] for i in range(6)] == whole
    assert make_service().answer(frames[:0]) == []
    prior = make_service().query(frames[:0])
    assert prior.action.shape == (0, 2) and prior.valid.shape == (0,)


def test_answers_to_several_frames_learn_and_depend_on_their_order(make_service, frames):
    """The label is decided by which of two pictures comes last: no single frame, and no unordered pair, tells it."""
    first, second = frames[:1], frames[1:2]
    pairs = np.concatenate([np.concatenate([first, second], -1), np.concatenate([second, first], -1)])
    options = {"steps": 60, "batch_size": 2}
    service = make_service(frames=2, rank=16, alpha=64.0, finetune_options=options)
    actions = np.array([[0.5, -0.5], [-0.5, 0.5]], np.float32)
    service.finetune(pairs, actions, np.ones(2))
    np.testing.assert_allclose(np.asarray(service.query(pairs).action), actions, atol=1e-6)
    with pytest.raises(ValueError, match=r"uint8 \[N,H,W,6\]"):
        service.query(frames)


def test_free_answers_of_a_blind_model_are_invalid_not_invented(make_service, frames):
    service = make_service(decoding="free")
    prior = service.query(frames)
    assert not prior.valid.any() and not prior.action.any()
    assert service.counters["parse_failures"] == 6


def test_new_adapter_answers_like_the_base(make_service, frames):
    service = make_service()
    with service.disable_adapter():
        base = service.answer(frames)
    assert service.answer(frames) == base
    randomize_adapter(service._backbone.model)
    service._merged = None
    assert service.answer(frames) != base
    with service.disable_adapter():
        assert service.answer(frames) == base


def test_merged_copy_answers_like_the_adapter(make_service, frames):
    merged, beside = make_service(merge=True), make_service(merge=False)
    for service in (merged, beside):
        randomize_adapter(service._backbone.model)
    from covr_jax.vlm.models.loading import model_inputs, preprocess

    pixels = preprocess(torch.from_numpy(frames), merged._backbone.image)
    inputs = model_inputs(merged._backbone, pixels, merged._prompt_tokens.ids.expand(6, -1), merged._prompt_tokens)
    with torch.no_grad():
        a = merged.parts()[0].model(**inputs).logits
        b = beside.parts()[0].model(**inputs).logits
    assert a.std() > 0.1
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)
    assert merged.memory_bytes > beside.memory_bytes > 4 * beside.parameter_count.total - 1


def test_finetune_moves_the_answers_and_only_for_weighted_samples(make_service, frames):
    service = make_service(rank=16, alpha=32.0, finetune_options={"steps": 40, "batch_size": 6})
    actions = np.array([[0.5, -0.5]] * 6, np.float32)
    seen = []
    record = service.finetune(jnp.asarray(frames), actions, np.ones(6), progress=lambda *a: seen.append(a))
    assert record["steps"] == 40 == len(seen) and record["finetune_loss_last"] < record["finetune_loss_first"]
    np.testing.assert_allclose(np.asarray(service.query(frames).action), actions, atol=1e-6)
    assert service.counters["rounds"] == 1


def test_adapter_survives_saving(make_service, frames, tmp_path):
    service = make_service()
    randomize_adapter(service._backbone.model)
    answers = service.answer(frames)
    directory = service.save_adapter(tmp_path / "round_0")
    assert {p.name for p in directory.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    other = make_service(seed=9)
    assert other.answer(frames) != answers
    modules = other.load_adapter(directory)
    assert modules * 2 == sum("lora_" in n for n, _ in service._backbone.model.named_parameters())
    mine, theirs = (dict(s._backbone.model.named_parameters()) for s in (service, other))
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert other.answer(frames) == answers


@pytest.mark.parametrize("fault", ["missing", "truncated", "rank", "renamed"])
def test_adapters_that_do_not_fit_are_refused_and_change_nothing(make_service, frames, tmp_path, fault):
    service = make_service()
    before = service.answer(frames)
    path = make_service(rank=8 if fault == "rank" else 4, seed=1).save_adapter(tmp_path) / "adapter_model.safetensors"
    if fault == "missing":
        path.unlink()
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if fault == "renamed":
        from safetensors.torch import load, save

        path.write_bytes(save({k.replace("base_model.", ""): v for k, v in load(path.read_bytes()).items()}))
    with pytest.raises(VLMLoadError):
        service.load_adapter(tmp_path)
    assert service.answer(frames) == before


def test_wrong_names_fail_before_any_weights_are_read(monkeypatch):

    monkeypatch.setattr(engine, "load_backbone", lambda *a, **k: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match="no prompt"):
        VLMEngine("tiny", "dog_run", 2)
    with pytest.raises(ValueError, match="action components"):
        VLMEngine("tiny", "cartpole_swingup", 2)
    with pytest.raises(ValueError, match="decoding"):
        VLMEngine("tiny", "cartpole_swingup", 1, decoding="beam")


def test_wrong_frames_are_refused(make_service, frames):
    with pytest.raises(ValueError, match="uint8"):
        make_service().query(frames.astype(np.float32))


def test_service_leaves_the_global_generators_alone(make_service, frames):
    state = torch.get_rng_state()
    service = make_service(dropout=0.1, finetune_options={"steps": 1})
    service.query(frames)
    service.finetune(frames, np.zeros((6, 2)), np.ones(6))
    assert torch.equal(state, torch.get_rng_state())
