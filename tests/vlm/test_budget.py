"""What fine-tuning saves per sample, which passes fit, and what happens where memory runs out."""

import numpy as np
import pytest
import torch

from covr_jax.vlm import budget, trainer
from covr_jax.vlm.budget import GB, Plan, Saved, needs, plan, saved_bytes
from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.loading import PromptTokens, backbone_from, base_model, tokenize_prompt
from covr_jax.vlm.passes import VLMMemoryError
from covr_jax.vlm.prompts import Prompt
from tests.vlm.test_trainer import Finetuning


def peak_of_saved(setup, samples, labels):
    """Bytes that autograd holds after a forward pass of the trainer's own, counted storage by storage."""
    held, parameters = {}, {p.untyped_storage()._cdata for p in setup.backbone.model.parameters()}

    def note(x):
        held[x.untyped_storage()._cdata] = (x.untyped_storage().nbytes(), x)
        return x

    setup.backbone.model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        logits = trainer.answer_logits(setup.backbone, setup.prompt, setup.frames[:samples], labels[:samples])
        logits.float().log_softmax(-1).sum()
    setup.backbone.model.eval()
    return sum(size for key, (size, _) in held.items() if key not in parameters)


@pytest.fixture
def setup(backbone, frames):
    return Finetuning(backbone, frames)


def test_what_a_sample_saves_is_what_the_trainers_pass_saves(setup):
    labels = trainer.encode_answers(setup.grammar, setup.answers, "cpu")
    saved = saved_bytes(setup.backbone, setup.prompt, labels.shape[1])
    one, four = (peak_of_saved(setup, count, labels) for count in (1, 4))
    assert saved.plain == pytest.approx(one, rel=0.01)
    assert (four - one) / 3 == pytest.approx(saved.plain, rel=0.15)  # masks and positions are saved once
    assert 0 < saved.recomputed < saved.plain
    assert not setup.backbone.model.training and not base_recomputes(setup)


def test_a_row_of_a_query_takes_its_cache_and_its_widest_layer(setup):
    """3 layers with 2 heads of 32 keys and values; a width of 128 and 256 inside; float32."""
    per_token = 4 * (2 * 3 * 2 * 32 + 4 * 128 + 2 * 256)
    assert per_token == 5632
    assert budget.answer_bytes(setup.backbone, setup.prompt, 10) == (len(setup.prompt.ids) + 10) * per_token


def test_a_row_of_linear_attention_takes_its_states_and_float32():
    """Two layers with states of 4 x 32 x 32 and 4 inputs of 2 x 64 + 128; one of softmax; 6 x 64 + 4 x 128 a token."""
    backbone = backbone_from(*tiny.build_tiny(0, "qwen3_5"), is_tiny=True)
    prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
    fixed, per_token = 4 * 2 * (4 * 32 * 32 + 4 * 256), 4 * (2 * 2 * 32 + 4 * 128 + 6 * 64 + 4 * 128)
    assert budget.answer_bytes(backbone, prompt, 10) == fixed + (len(prompt.ids) + 10) * per_token


@pytest.mark.parametrize(("rows", "sizes"), [(1e9, [6]), (5.9, [4, 2]), (1.2, [1] * 6), (0.1, [1] * 6)])
def test_a_query_is_split_to_fit_the_free_memory(make_engine, frames, monkeypatch, rows, sizes):
    engine = make_engine()
    whole, seen = engine.answer(frames), []
    engine._backbone = engine._backbone._replace(is_tiny=False)
    row = budget.answer_bytes(engine._backbone, engine._prompt_tokens, engine._max_new_tokens)
    monkeypatch.setattr(budget, "free_bytes", lambda device: int(rows * row / budget.SAFETY) + 1)
    answer = engine._answer_batch
    monkeypatch.setattr(engine, "_answer_batch", lambda batch, size: (seen.append(len(batch)), answer(batch, size))[1])
    assert engine.answer(frames) == whole and seen == sizes


def base_recomputes(setup):
    return any(getattr(m, "gradient_checkpointing", False) for m in setup.backbone.model.modules())


def test_a_model_without_weights_tells_the_same(any_backbone, frames):
    """On the meta device, as the doctor asks about models that are not loaded."""
    setup = Finetuning(any_backbone, frames)
    here = needs(setup.backbone, setup.prompt, 12)
    base_model(setup.backbone.model.to("meta")).tie_weights()
    there = needs(setup.backbone, PromptTokens(*setup.prompt), 12)
    assert there[:3] == here[:3] and there.kept == here.kept == budget.adapted_bytes(setup.backbone.model, pinned=True)
    # Without a device Torch takes attention in its plain form, which saves more: the estimate is from above.
    for bound, measured in zip(there.saved, here.saved, strict=True):
        assert measured <= bound <= 1.2 * measured
    count = setup.count
    assert here.weights == 4 * (count.total - count.trainable) and here.adapter == 4 * count.trainable
    assert here.to_tune(3, False) == here.weights + 4 * here.adapter + 3 * here.saved.plain


def test_a_configuration_alone_tells_what_a_model_needs(any_backbone):
    backbone, prompt = budget.without_weights(any_backbone.model.config, 84, rank=4)
    found = needs(backbone, prompt, 12)
    assert found.weights == 2 * sum(p.numel() for p in any_backbone.model.parameters())  # bfloat16
    assert 0 < found.saved.recomputed < found.saved.plain
    real = tokenize_prompt(any_backbone, Prompt("", "reacher easy"))
    assert prompt.positions.shape[:-1] == real.positions.shape[:-1]


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (None, Plan(16, False)),  # nobody says
        (80 * GB, Plan(16, False)),  # 0.8 x 80 holds 22 of 2.87
        (40 * GB, Plan(11, False)),
        (15 * GB, Plan(4, False)),
        (10 * GB, Plan(16, True)),  # two without recomputing: 0.8 x 10 / 0.15 is more than a batch
        (1.2 * GB, Plan(6, True)),
        (0.1 * GB, Plan(1, True)),  # a try, before memory runs out
    ],
)
def test_the_largest_passes_that_fit(free, expected):
    assert plan(Saved(int(2.87 * GB), int(0.15 * GB)), None if free is None else int(free), 16) == expected


def test_passes_by_memory_change_no_gradient(setup, monkeypatch):
    labels = trainer.encode_answers(setup.grammar, setup.answers, "cpu")
    size = saved_bytes(setup.backbone, setup.prompt, labels.shape[1]).plain
    before, found = setup.state(), []
    for free in (100 * size, int(5.2 * size)):
        monkeypatch.setattr(budget.memory, "free_bytes", lambda _, free=free: free)
        record = setup.finetune()
        found.append((record["micro_batch"], record["finetune_losses"]))
        with torch.no_grad():
            for name, parameter in setup.backbone.model.named_parameters():
                parameter.copy_(before[name])
    assert [size for size, _ in found] == [6, 4]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)


def run_out(setup, monkeypatch, largest, recomputed=False):
    """Allocations fail in passes of more samples, and in those that keep their activations."""
    real, sizes = trainer.answer_logits, []

    def logits(backbone, prompt, frames, labels):
        sizes.append(len(frames))
        if len(frames) > largest or (recomputed and not base_recomputes(setup)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(backbone, prompt, frames, labels)

    monkeypatch.setattr(trainer, "answer_logits", logits)
    return sizes


def test_where_memory_runs_out_the_batch_starts_again_in_smaller_passes(setup, monkeypatch):
    before = setup.state()
    expected = setup.finetune(steps=2, micro_batch=2)["finetune_losses"]
    with torch.no_grad():
        for name, parameter in setup.backbone.model.named_parameters():
            parameter.copy_(before[name])
    sizes = run_out(setup, monkeypatch, 2)
    record = setup.finetune(steps=2, micro_batch=6)
    assert sizes == [6, 3, 2, 2, 2, 2, 2, 2] and record["micro_batch"] == 2
    assert not record["rolled_back"] and record["finetune_losses"] == expected


def test_single_samples_are_recomputed_and_then_it_is_one_line(setup, monkeypatch):
    sizes = run_out(setup, monkeypatch, 1, recomputed=True)
    assert setup.finetune(steps=1, micro_batch=2)["micro_batch"] == 1 and sizes == [2, 1, *[1] * 6]
    assert not base_recomputes(setup)
    before = setup.state()
    run_out(setup, monkeypatch, 0)
    with pytest.raises(VLMMemoryError, match="runs out of memory with one sample at a time") as caught:
        setup.finetune(steps=1)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], p) for name, p in setup.state().items())


def test_other_errors_are_not_taken_for_memory(setup, monkeypatch):
    monkeypatch.setattr(trainer, "answer_logits", lambda *_: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        setup.finetune(steps=1)
