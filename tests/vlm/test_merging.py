"""An adapter merged in place: the same answers, and afterwards the same model bit for bit."""

import numpy as np
import pytest
import torch

from covr_jax.vlm import budget
from covr_jax.vlm.merging import AdapterMerger
from covr_jax.vlm.models import adapter
from covr_jax.vlm.models.loading import add_lora, model_inputs, preprocess, tokenize_prompt
from covr_jax.vlm.ppo.loss import PPOOptions
from covr_jax.vlm.ppo.policy import PPOBatch, TokenPolicy
from covr_jax.vlm.prompts import Prompt
from tests.support.adapters import randomize_adapter

ACTIONS = np.array([[0.5, -0.5]] * 6, np.float32)


def adapted(backbone, targets="all-linear", dtype=torch.float32):
    """A model whose adapter has an effect."""
    backbone.model.to(dtype)
    made, _ = add_lora(backbone, rank=4, alpha=8.0, dropout=0.0, targets=targets)
    randomize_adapter(made.model)
    return made


def state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logits(backbone, frames):
    prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
    pixels = preprocess(torch.from_numpy(frames), backbone.image)
    return backbone.model(**model_inputs(backbone, pixels, prompt.ids.expand(6, -1), prompt)).logits


@pytest.mark.parametrize("targets", ["all-linear", "paper_826"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_and_unmerging_change_no_bit(backbone, targets, dtype):
    model = adapted(backbone, targets, dtype).model
    merger, before = AdapterMerger(model), state(model)
    assert merger.merge()
    merged = state(model)
    merger.unmerge()
    assert same(before, state(model))
    assert merger.merge() and merger.merge()  # the second one changes nothing
    assert same(merged, state(model))
    merger.unmerge()
    merger.unmerge()
    assert same(before, state(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_weights_are_computed_in_float32_and_rounded_once(backbone, dtype):
    """W + alpha / rank * B A, with alpha / rank = 2."""
    model = adapted(backbone, "all-linear", dtype).model
    before = state(model)
    AdapterMerger(model).merge()
    after, count = state(model), 0
    for name in before:
        if not name.endswith("base_layer.weight"):
            assert torch.equal(before[name], after[name])  # biases, norms, embeddings, the adapter
            continue
        a, b = (before[name.replace("base_layer", f"lora_{part}.default")] for part in "AB")
        expected = before[name].double() + 2.0 * b.double() @ a.double()
        assert after[name].dtype == dtype
        if dtype == torch.float32:
            torch.testing.assert_close(after[name].double(), expected, atol=1e-5, rtol=1e-5)
        else:  # half a unit of eight bits, and not one and a half, as of a difference that was rounded before
            assert (after[name].double() - expected).abs().le(expected.abs() * 2**-8 + 1e-6).all()
        count += 1
    assert count > 20


@pytest.mark.parametrize("targets", ["all-linear", "paper_826"])
def test_merged_models_read_and_answer_like_the_adapter(backbone, frames, targets):
    one = adapted(backbone, targets)
    embedding = one.model.get_input_embeddings().weight
    before, words = logits(one, frames), embedding.detach().clone()
    head, tied = one.model.get_output_embeddings(), targets != "all-linear"
    assert (getattr(head, "base_layer", head).weight is embedding) and hasattr(head, "lora_A") == tied
    merger = AdapterMerger(one.model)
    merger.merge()
    calls = []
    for name, module in one.model.named_modules():
        if "lora_" in name:
            module.register_forward_hook(lambda *_: calls.append(1))
    after = logits(one, frames)  # with gradients allowed: nothing that answers requires them
    torch.testing.assert_close(after, before, atol=2e-4, rtol=1e-4)
    assert before.std() > 0.1 and before.requires_grad and not after.requires_grad and not calls
    assert torch.equal(embedding, words) and one.model.get_input_embeddings().weight is embedding
    assert (getattr(head, "base_layer", head).weight is embedding) != tied
    merger.unmerge()
    assert getattr(head, "base_layer", head).weight is embedding
    assert torch.equal(logits(one, frames), before) and calls


def test_every_architecture_answers_merged(any_backbone, frames):
    one = adapted(any_backbone)
    before = logits(one, frames)
    AdapterMerger(one.model).merge()
    torch.testing.assert_close(logits(one, frames), before, atol=2e-4, rtol=1e-4)
    assert before.std() > 0.1


def test_nothing_of_peft_runs_in_a_merged_pass(engine, frames, monkeypatch):
    """Its wrappers alone take as long as a fifth of a tiny model's pass."""
    import peft

    engine.parts()
    for kind in (peft.PeftModel, peft.PeftModelForCausalLM, peft.tuners.lora.Linear):
        monkeypatch.setattr(kind, "forward", lambda *_, **__: pytest.fail("peft was called"))
    engine.answer(frames)


def test_a_merge_that_fails_halfway_is_undone(backbone, monkeypatch):
    model = adapted(backbone).model
    merger, before = AdapterMerger(model), state(model)
    layer = [m for m in model.modules() if hasattr(m, "lora_A")][3]
    monkeypatch.setattr(layer, "get_delta_weight", lambda _: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        merger.merge()
    assert same(before, state(model)) and merger.kept_bytes == 0
    monkeypatch.undo()
    assert merger.merge() and not same(before, state(model))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_weights_are_kept_in_pinned_memory(backbone):
    model = adapted(backbone).model.cuda()
    merger, before = AdapterMerger(model), state(model)
    merger.merge()
    assert all(original.is_pinned() for original in merger._originals.values())
    merger.unmerge()
    assert same(before, state(model))


# ---------------------------------------------------------------------- memory


def test_where_the_host_has_no_memory_the_adapter_stays_separate(make_engine, frames, monkeypatch, capsys):
    expected = make_engine(merge=False).answer(frames)
    needed = budget.adapted_bytes(make_engine()._backbone.model)
    for free, merges in ((int(1.3 * needed), True), (needed, False), (None, True)):
        monkeypatch.setattr(budget.memory, "free_bytes", lambda _, free=free: free)
        engine, anyway = make_engine(), make_engine(merge=True)
        for _ in range(2):
            assert engine.answer(frames) == anyway.answer(frames) == expected
        said = capsys.readouterr().err.strip().splitlines()
        assert engine.merge == merges and anyway.merge and len(said) == (not merges)
        assert (engine._merger.kept_bytes, anyway._merger.kept_bytes) == (merges * needed, needed)
        assert merges or "the adapter is not merged" in said[0]


@pytest.mark.parametrize(
    "words", ["CUDA error: out of memory", "[enforce fail] DefaultCPUAllocator: can't allocate memory"]
)
def test_a_merge_that_runs_out_of_memory_leaves_the_adapter_separate(make_engine, frames, monkeypatch, capsys, words):
    engine, anyway = make_engine(), make_engine(merge=True)
    for one in (engine, anyway):
        layer = [m for m in one._backbone.model.modules() if hasattr(m, "lora_A")][3]
        monkeypatch.setattr(layer, "get_delta_weight", lambda _: (_ for _ in ()).throw(RuntimeError(words)))
    assert engine.answer(frames) == make_engine().answer(frames) and not engine.merge
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(RuntimeError, match="memory"):
        anyway.answer(frames)


def test_adapted_bytes_are_those_of_the_layers(backbone):
    """Every adapted weight, float32; pinned blocks have sizes that are powers of two."""
    model = adapted(backbone).model
    sizes = [4 * p.numel() for name, p in model.named_parameters() if name.endswith("base_layer.weight")]
    assert budget.adapted_bytes(model) == sum(sizes)
    assert sum(sizes) < budget.adapted_bytes(model, pinned=True) < 2 * sum(sizes)


def test_a_tied_output_layer_counts_too(backbone):
    """On a CPU its merged weights are memory of their own."""
    model = adapted(backbone, "paper_826").model
    merger, head = AdapterMerger(model), model.get_output_embeddings().base_layer
    merger.merge()
    assert budget.adapted_bytes(model) == merger.kept_bytes + head.weight.nbytes


# ---------------------------------------------------------------------- engine


@pytest.fixture
def engine(make_engine):
    """An engine with an adapter that has an effect, merged."""
    made = make_engine(rank=16, alpha=32.0, finetune_options={"steps": 3, "batch_size": 6})
    randomize_adapter(made._backbone.model)
    return made


def test_rounds_between_merged_answers_train_as_without(make_engine, engine, frames):
    """The second round too, whose weights were merged twice before."""
    other = make_engine(rank=16, alpha=32.0, finetune_options={"steps": 3, "batch_size": 6}, merge=False)
    randomize_adapter(other._backbone.model)
    base = {name: p for name, p in state(other._backbone.model).items() if "lora_" not in name}
    for _ in range(2):
        assert engine.answer(frames) == other.answer(frames)
        records = [one.finetune(frames, ACTIONS, np.ones(6)) for one in (engine, other)]
        assert records[0]["finetune_losses"] == records[1]["finetune_losses"]
        assert engine._merger.kept_bytes == 0  # rounds have the memory for themselves
        assert same(state(engine._backbone.model), state(other._backbone.model))
    assert all(torch.equal(p, state(engine._backbone.model)[name]) for name, p in base.items())


@pytest.mark.parametrize("fault", ["progress", "memory", "nan"])
def test_a_failed_round_leaves_the_answers_of_before(engine, frames, monkeypatch, fault):
    from covr_jax.vlm import trainer

    answers, before = engine.answer(frames), state(engine._backbone.model)

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory") if fault == "memory" else RuntimeError("stopped")

    if fault == "nan":
        monkeypatch.setattr(trainer, "ralw_loss", lambda logits, *_: logits.sum() * float("nan"))
        assert engine.finetune(frames, ACTIONS, np.ones(6))["rolled_back"]
    else:
        if fault == "memory":
            monkeypatch.setattr(trainer, "answer_logits", fail)
        with pytest.raises(RuntimeError, match=r"stopped|runs out of memory"):
            engine.finetune(frames, ACTIONS, np.ones(6), progress=fail)
    monkeypatch.undo()
    assert engine.answer(frames) == answers and same(state(engine._backbone.model), before)


def test_the_untuned_model_answers_between_merged_answers(make_engine, engine, frames):
    base = make_engine(merge=False).answer(frames)
    answers = engine.answer(frames)
    with engine.disable_adapter():
        assert engine.answer(frames) == base
        assert engine.parts()[0].model.active_adapters == ["default"]
    assert engine.answer(frames) == answers != base


def test_the_separate_adapter_is_asked_for(engine, frames):
    before = state(engine._backbone.model)
    engine.answer(frames)
    assert not same(before, state(engine._backbone.model))
    engine.parts(merged=False)
    assert same(before, state(engine._backbone.model))
    engine.parts(merged=True)
    assert not same(before, state(engine._backbone.model)) and engine.merge


def test_saving_does_not_depend_on_the_merge(engine, frames, tmp_path):
    engine.save_adapter(tmp_path / "separate")
    engine.answer(frames)
    engine.save_adapter(tmp_path / "merged")
    for name in (adapter.ADAPTER_FILE, adapter.CONFIG_FILE):
        assert (tmp_path / "separate" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()


def test_a_loaded_adapter_is_merged_anew(make_engine, engine, frames, tmp_path):
    answers, directory = engine.answer(frames), engine.save_adapter(tmp_path)
    other = make_engine(rank=16, alpha=32.0)
    assert other.answer(frames) != answers
    other.load_adapter(directory)
    assert other.answer(frames) == answers and other._merger.kept_bytes > 0


def test_ppo_updates_what_answers(make_engine):
    """Queries between updates merge; samples, values and updates use the separate adapter."""
    frames = np.random.default_rng(1).integers(0, 256, (8, 28, 28, 3), dtype=np.uint8)
    found = []
    for merge in (True, False):
        engine = make_engine(task="pendulum_swingup", action_dim=1, merge=merge)
        options = PPOOptions(epochs=1, minibatch=8, temperature=1.0, learning_rate=3e-2, max_grad_norm=1.0)
        policy = TokenPolicy(engine, options, hidden=(8,), seed=0)
        answers = [engine.answer(frames)]
        for _ in range(2):
            sampled = policy.sample(frames)
            reward = sampled.action[:, 0]
            engine.answer(frames)
            policy.update(PPOBatch(frames, sampled.tokens, sampled.log_prob, sampled.value, reward, reward))
            answers.append(engine.answer(frames))
        engine.parts(merged=False)
        found.append((answers, state(engine._backbone.model)))
    assert found[0][0] == found[1][0] and same(found[0][1], found[1][1])
    assert found[0][0][0] != found[0][0][-1]
