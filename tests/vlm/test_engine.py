import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from covr_jax.vlm import engine as engine_module
from covr_jax.vlm.engine import VLMEngine
from covr_jax.vlm.models.loading import VLMLoadError
from tests.support.adapters import randomize_adapter


@pytest.mark.parametrize("merge", [True, False])
def test_every_layer_is_a_sign_of_work(make_engine, frames, merge):
    engine, signs = make_engine(merge=merge), []
    engine.working = lambda: signs.append(1)
    engine.query(frames[:1])
    blocks = 2 * engine._backbone.model.config.text_config.num_hidden_layers
    assert len(signs) >= blocks  # the prompt, and one token at least


def test_query_gives_a_prior_of_jax_arrays(make_engine, frames):
    engine = make_engine()
    for given in (frames, jnp.asarray(frames)):
        prior = engine.query(given)
        assert isinstance(prior.action, jax.Array)
        assert prior.action.shape == (6, 2) and prior.action.dtype == jnp.float32
        assert prior.valid.dtype == jnp.bool_ and bool(prior.valid.all()) and float(jnp.abs(prior.action).max()) <= 1
    texts = engine.answer(frames)
    numbers = np.array([json.loads(t.removeprefix("Action: ").replace("+", "")) for t in texts], np.float32)
    np.testing.assert_array_equal(np.asarray(prior.action), numbers)
    assert engine.counters["queries"] == 2 and engine.counters["frames"] == 12
    assert engine.counters["parse_failures"] == 0 and engine.counters["latency_s"] > 0


def test_splitting_and_padding_change_no_answer(make_engine, frames):
    whole = make_engine().answer(frames)
    assert make_engine(query_batch=4).answer(frames) == whole
    assert [make_engine().answer(frames[i : i + 1])[0] for i in range(6)] == whole
    assert make_engine().answer(frames[:0]) == []
    prior = make_engine().query(frames[:0])
    assert prior.action.shape == (0, 2) and prior.valid.shape == (0,)


def test_answers_to_several_frames_learn_and_depend_on_their_order(make_engine, frames):
    """The label is decided by which of two images comes last: no single frame, and no unordered pair, tells it."""
    first, second = frames[:1], frames[1:2]
    pairs = np.concatenate([np.concatenate([first, second], -1), np.concatenate([second, first], -1)])
    options = {"steps": 60, "batch_size": 2}
    engine = make_engine(frames=2, rank=16, alpha=64.0, finetune_options=options)
    actions = np.array([[0.5, -0.5], [-0.5, 0.5]], np.float32)
    engine.finetune(pairs, actions, np.ones(2))
    np.testing.assert_allclose(np.asarray(engine.query(pairs).action), actions, atol=1e-6)
    with pytest.raises(ValueError, match=r"uint8 \[N,H,W,6\]"):
        engine.query(frames)


def test_free_answers_of_a_blind_model_are_invalid_not_invented(make_engine, frames):
    engine = make_engine(decoding="free")
    prior = engine.query(frames)
    assert not prior.valid.any() and not prior.action.any()
    assert engine.counters["parse_failures"] == 6


def test_new_adapter_answers_like_the_base(make_engine, frames):
    engine = make_engine()
    with engine.disable_adapter():
        base = engine.answer(frames)
    assert engine.answer(frames) == base
    engine.parts(merged=False)
    randomize_adapter(engine._backbone.model)
    assert engine.answer(frames) != base
    with engine.disable_adapter():
        assert engine.answer(frames) == base


def test_memory_counts_the_weights_that_are_kept_aside(make_engine, frames):
    merged, beside = make_engine(merge=True), make_engine(merge=False)
    assert merged.memory_bytes == beside.memory_bytes > 4 * beside.parameter_count.total - 1
    for engine in (merged, beside):
        engine.answer(frames)
    kept = sum(p.nbytes for n, p in merged._backbone.model.named_parameters() if n.endswith("base_layer.weight"))
    assert merged.memory_bytes == beside.memory_bytes + kept


def test_finetune_moves_the_answers_and_only_for_weighted_samples(make_engine, frames):
    engine = make_engine(rank=16, alpha=32.0, finetune_options={"steps": 40, "batch_size": 6})
    actions = np.array([[0.5, -0.5]] * 6, np.float32)
    calls = []
    record = engine.finetune(jnp.asarray(frames), actions, np.ones(6), progress=lambda *a: calls.append(a))
    assert record["steps"] == 40 == len(calls) and record["finetune_loss_last"] < record["finetune_loss_first"]
    np.testing.assert_allclose(np.asarray(engine.query(frames).action), actions, atol=1e-6)
    assert engine.counters["rounds"] == 1


def test_adapter_survives_saving(make_engine, frames, tmp_path):
    engine = make_engine()
    randomize_adapter(engine._backbone.model)
    answers = engine.answer(frames)
    directory = engine.save_adapter(tmp_path / "round_0")
    assert {p.name for p in directory.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    other = make_engine(seed=9)
    assert other.answer(frames) != answers
    modules = other.load_adapter(directory)
    assert modules * 2 == sum("lora_" in n for n, _ in engine._backbone.model.named_parameters())
    mine, theirs = (dict(s.parts(merged=False)[0].model.named_parameters()) for s in (engine, other))
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert other.answer(frames) == answers
    assert make_engine(seed=9, adapter_dir=directory).answer(frames) == answers  # as --vlm.adapter


@pytest.mark.parametrize("fault", ["missing", "truncated", "rank", "renamed"])
def test_adapters_that_do_not_fit_are_refused_and_change_nothing(make_engine, frames, tmp_path, fault):
    engine = make_engine()
    before = engine.answer(frames)
    path = make_engine(rank=8 if fault == "rank" else 4, seed=1).save_adapter(tmp_path) / "adapter_model.safetensors"
    if fault == "missing":
        path.unlink()
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if fault == "renamed":
        from safetensors.torch import load, save

        path.write_bytes(save({k.replace("base_model.", ""): v for k, v in load(path.read_bytes()).items()}))
    with pytest.raises(VLMLoadError):
        engine.load_adapter(tmp_path)
    assert engine.answer(frames) == before


def test_wrong_names_fail_before_any_weights_are_read(monkeypatch):
    monkeypatch.setattr(engine_module, "load_backbone", lambda *a, **k: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match="no prompt"):
        VLMEngine("tiny", "dog_run", 2)
    with pytest.raises(ValueError, match="action components"):
        VLMEngine("tiny", "cartpole_swingup", 2)
    with pytest.raises(ValueError, match="decoding"):
        VLMEngine("tiny", "cartpole_swingup", 1, decoding="beam")
    with pytest.raises(ValueError, match="a seed must be between 0 and 4294967295, got 20241128184512"):
        VLMEngine("tiny", "cartpole_swingup", 1, seed=20241128184512)


def test_wrong_frames_are_refused(make_engine, frames):
    with pytest.raises(ValueError, match="uint8"):
        make_engine().query(frames.astype(np.float32))


@pytest.mark.parametrize("actions", [np.zeros((2, 6)), np.zeros(12), np.zeros((5, 2)), np.full((6, 2), np.nan)])
def test_wrong_actions_are_refused(make_engine, frames, actions):
    """Actions f32[A,N] would be read as others of [N,A]."""
    with pytest.raises(ValueError, match=r"^actions must be \[6,2\], got|an action must be a finite vector"):
        make_engine().finetune(frames, actions, np.ones(6))


def test_the_engine_leaves_the_global_generators_alone(make_engine, frames):
    state = torch.get_rng_state()
    engine = make_engine(dropout=0.1, finetune_options={"steps": 1})
    engine.query(frames)
    engine.finetune(frames, np.zeros((6, 2)), np.ones(6))
    assert torch.equal(state, torch.get_rng_state())
