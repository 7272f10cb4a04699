import numpy as np
import pytest
import torch

from covr_jax.vlm import trainer
from covr_jax.vlm.codec import format_action
from covr_jax.vlm.grammar import build_grammar
from covr_jax.vlm.models.loading import add_lora, base_model, tokenize_prompt
from covr_jax.vlm.passes import Passes
from covr_jax.vlm.prompts import Prompt
from covr_jax.vlm.trainer import (
    IGNORE,
    FinetuneOptions,
    answer_logits,
    encode_answers,
    finetune,
    ralw_loss,
)
from tests.support.adapters import randomize_adapter


def oracle(logits, labels, weights, smoothing):
    """Eq. 6 in float64, sample by sample and token by token."""
    total, count = 0.0, 0
    for b in range(labels.shape[0]):
        sample = 0.0
        for t in range(labels.shape[1]):
            if labels[b, t] == IGNORE:
                continue
            row = logits[b, t].astype(np.float64)
            log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
            sample += (1 - smoothing) * -log_p[labels[b, t]] + smoothing * np.mean(-log_p)
            count += 1
        total += weights[b] * sample
    return total / count


def random_batch(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, 7, 11)).astype(np.float32) * 3
    labels = rng.integers(0, 11, (5, 7))
    labels[1, 5:], labels[3, 2:] = IGNORE, IGNORE
    return logits, labels, np.array([0.0, 1.0, 0.25, 0.7, 0.0], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_equals_the_oracle(smoothing):
    logits, labels, weights = random_batch()
    got = ralw_loss(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(weights), smoothing)
    assert float(got) == pytest.approx(oracle(logits, labels, weights, smoothing), rel=2e-6)


def test_zero_weight_samples_count_in_the_denominator():
    logits, labels, weights = (torch.from_numpy(x) for x in random_batch())
    keep = weights > 0
    full = ralw_loss(logits, labels, weights, 0.1)
    kept = ralw_loss(logits[keep], labels[keep], weights[keep], 0.1)
    tokens, kept_tokens = int((labels != IGNORE).sum()), int((labels[keep] != IGNORE).sum())
    assert kept_tokens < tokens
    assert float(full) == pytest.approx(float(kept) * kept_tokens / tokens, rel=1e-6)


class Finetuning:
    def __init__(self, backbone, frames, action_dim=2):
        self.backbone, self.count = add_lora(backbone, rank=4, alpha=8, dropout=0.0, seed=0)
        randomize_adapter(self.backbone.model)
        self.prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
        self.grammar = build_grammar(backbone.tokenizer, action_dim, True)
        self.frames = torch.from_numpy(frames)
        rng = np.random.default_rng(0)
        self.answers = [format_action(a, True) for a in rng.uniform(-1, 1, (len(frames), action_dim))]
        self.weights = np.array([1.0, 0.0, 0.5, 0.0, 0.2, 0.9], np.float32)

    def gradients(self, answers=None, weights=None):
        self.backbone.model.zero_grad()
        labels = encode_answers(self.grammar, answers or self.answers, "cpu")
        logits = answer_logits(self.backbone, self.prompt, self.frames, labels)
        weights = torch.from_numpy(self.weights if weights is None else weights)
        ralw_loss(logits, labels, weights, 0.1).backward()
        return {n: p.grad.clone() for n, p in self.backbone.model.named_parameters() if p.grad is not None}

    def finetune(self, weights=None, progress=None, seed=0, **options):
        weights = self.weights if weights is None else weights
        settings = FinetuneOptions(**{"learning_rate": 1e-2, "batch_size": 6, "steps": 2, **options})
        args = (self.backbone, self.prompt, self.grammar, self.frames, self.answers, weights, settings)
        return finetune(*args, seed=seed, progress=progress)

    def state(self):
        return {n: p.detach().clone() for n, p in self.backbone.model.named_parameters()}


@pytest.fixture
def setup(backbone, frames):
    return Finetuning(backbone, frames)


def test_labels_of_zero_weight_samples_change_nothing(setup):
    changed = list(setup.answers)
    changed[1], changed[3] = format_action([-0.11, 0.99], True), format_action([1.0, 0.0], True)
    before, after = setup.gradients(), setup.gradients(changed)
    assert before and max(float((before[n] - after[n]).abs().max()) for n in before) <= 1e-7
    changed[0] = changed[1]
    assert max(float((before[n] - setup.gradients(changed)[n]).abs().max()) for n in list(before)[:4]) > 1e-5


def test_only_answer_tokens_carry_loss(setup):
    labels = encode_answers(setup.grammar, setup.answers, "cpu")
    end = setup.grammar.end
    assert labels.shape == (6, 14) and (labels[:, -1] == end).all() and (labels != IGNORE).all()
    logits = answer_logits(setup.backbone, setup.prompt, setup.frames, labels)
    assert logits.shape[:2] == labels.shape
    # The first prediction is made from the prompt alone: it cannot depend on any answer.
    other = answer_logits(setup.backbone, setup.prompt, setup.frames, labels.roll(1, 0))
    torch.testing.assert_close(logits[:, 0], other[:, 0], atol=1e-5, rtol=0)
    assert (logits[:, 2] - other[:, 2]).abs().max() > 1e-3


def test_padding_after_short_answers_changes_nothing(backbone, frames):
    setup = Finetuning(backbone, frames)
    setup.grammar = build_grammar(backbone.tokenizer, 2, False)
    answers = ["Action: [0.10, 0.20]"] * 3 + ["Action: [-0.10, -0.20]"] * 3
    mixed = encode_answers(setup.grammar, answers, "cpu")
    short = encode_answers(setup.grammar, answers[:3], "cpu")
    assert short.shape[1] == 12 and mixed.shape[1] == 14 and (mixed[:3, 12:] == IGNORE).all()
    long = answer_logits(setup.backbone, setup.prompt, setup.frames, mixed)[:3, :12]
    alone = answer_logits(setup.backbone, setup.prompt, setup.frames[:3], short)
    torch.testing.assert_close(long, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulation_changes_neither_loss_nor_gradient(setup, micro_batch):
    """Against one pass over the whole batch; 4 does not divide 6, and the answers differ in length and weight."""
    setup.grammar = build_grammar(setup.backbone.tokenizer, 2, False)
    answers = [[0.1, 0.2], [-0.1, -0.2], [0.3, 0.4], [0.5, 0.6], [-0.7, 0.8], [-0.9, -1.0]]
    setup.answers = [format_action(a) for a in answers]
    labels = encode_answers(setup.grammar, setup.answers, "cpu")
    data = (setup.frames, labels, torch.from_numpy(setup.weights), np.arange(6))
    found = []
    for size in (6, micro_batch):
        setup.backbone.model.zero_grad()
        passes = Passes(setup.backbone, size, False)
        loss = trainer._accumulate(setup.backbone, setup.prompt, *data, FinetuneOptions(), passes)
        found.append((loss, [p.grad.clone() for p in trainer._adapter(setup.backbone)]))
    (whole, gradients), (parts, summed) = found
    assert parts == pytest.approx(whole, rel=1e-6)
    for one, two in zip(gradients, summed, strict=True):
        assert float((one - two).abs().max()) <= 1e-5 * float(one.abs().max())
    # The mean of the parts' own losses, the usual mistake, is something else.
    means = []
    with torch.no_grad():
        for part in torch.split(torch.arange(6), micro_batch):
            logits = answer_logits(setup.backbone, setup.prompt, setup.frames[part], labels[part])
            means.append(float(ralw_loss(logits, labels[part], data[2][part], 0.1)))
    assert abs(np.mean(means) - whole) > 1e-2 * whole


def test_checkpointing_changes_no_number_and_does_recompute(setup):
    start, results = setup.state(), []
    layer = base_model(setup.backbone.model).model.language_model.layers[0].mlp
    calls = []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    for checkpointing in (False, True):
        restore(setup, start)
        calls.clear()
        losses = setup.finetune(steps=3, micro_batch=6, checkpointing=checkpointing)["finetune_losses"]
        results.append((losses, setup.state(), len(calls)))
    (plain, one, once), (recomputed, two, twice) = results
    assert (once, twice) == (3, 6) and recomputed == pytest.approx(plain, rel=1e-6)
    moved = max(float((one[n] - start[n]).abs().max()) for n in start)
    assert max(float((one[n] - two[n]).abs().max()) for n in start) < 1e-3 * moved


@pytest.mark.slow
def test_bfloat16_weights_keep_a_float32_adapter_and_learn(backbone, frames):
    half = backbone._replace(model=backbone.model.to(torch.bfloat16))
    setup = Finetuning(half, frames)
    assert {p.dtype for p in trainer._adapter(setup.backbone)} == {torch.float32}
    assert sum(p.dtype == torch.bfloat16 for p in setup.backbone.model.parameters()) > 20
    record = setup.finetune(steps=30, weights=np.ones(6, np.float32), label_smoothing=0.0)
    assert not record["rolled_back"] and record["finetune_loss_last"] < 0.5 * record["finetune_loss_first"]


def restore(setup, state):
    with torch.no_grad():
        for name, parameter in setup.backbone.model.named_parameters():
            parameter.copy_(state[name])


def test_only_the_adapter_changes(setup):
    before = setup.state()
    record = setup.finetune()
    after = setup.state()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {n for n in before if "lora_" in n}
    assert record["steps"] == 2 and not record["rolled_back"] and record["seconds"] > 0


def test_learns_the_answers_of_weighted_samples_only(setup):
    def losses(answers):
        labels = encode_answers(setup.grammar, answers, "cpu")
        with torch.no_grad():
            logits = answer_logits(setup.backbone, setup.prompt, setup.frames, labels)
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)

    before = losses(setup.answers)
    calls = []
    weights = np.array([1, 0, 1, 0, 1, 0], np.float32)
    record = setup.finetune(steps=50, weights=weights, progress=lambda *a: calls.append(a), label_smoothing=0.0)
    after = losses(setup.answers)
    assert record["finetune_loss_last"] < 0.3 * record["finetune_loss_first"]
    assert float(after[[0, 2, 4]].mean()) < 0.3 < float(after[[1, 3, 5]].min()) and float(before.min()) > 0.5
    assert [c[:2] for c in calls] == [(i + 1, 50) for i in range(50)]
    assert [c[2] for c in calls] == record["finetune_losses"]


def test_batches_without_weight_are_skipped(setup):
    record = setup.finetune(batch_size=1, steps=None, epochs=1)
    assert (record["steps"], record["skipped"]) == (4, 2)
    before = setup.state()
    record = setup.finetune(weights=np.zeros(6, np.float32))
    assert record["steps"] == 0 and np.isnan(record["finetune_loss"])
    assert all(torch.equal(before[n], p) for n, p in setup.state().items())


def test_nan_rolls_the_round_back(setup):
    before = setup.state()

    def poison(step, total, loss):
        if step == 2:
            with torch.no_grad():
                next(p for p in setup.backbone.model.parameters() if p.requires_grad).fill_(float("nan"))

    record = setup.finetune(steps=5, progress=poison)
    assert record["rolled_back"] and record["steps"] == 2
    assert all(torch.equal(before[n], p) for n, p in setup.state().items())
    assert all(p.grad is None for p in setup.backbone.model.parameters())
    assert not setup.finetune(steps=1)["rolled_back"]


def test_a_diverging_loss_rolls_the_round_back(setup):
    before = setup.state()

    def spoil(step, total, loss):
        if step == 8:
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for p in trainer._adapter(setup.backbone):
                    p.add_(5.0 * torch.randn(p.shape, generator=generator))

    record = setup.finetune(steps=30, progress=spoil)
    assert record["rolled_back"] and 8 < record["steps"] < 30 and np.isfinite(record["finetune_losses"]).all()
    assert all(torch.equal(before[n], p) for n, p in setup.state().items())
    assert setup.finetune(steps=30, progress=spoil, divergence=None)["steps"] == 30


def test_an_exception_in_a_round_restores_the_adapter(setup):
    before = setup.state()

    def stop(step, total, loss):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setup.finetune(steps=5, progress=stop)
    assert all(torch.equal(before[n], p) for n, p in setup.state().items())
    assert not setup.backbone.model.training and all(p.grad is None for p in setup.backbone.model.parameters())


def test_same_seed_same_adapter_and_global_generator_untouched(backbone, frames):
    setup = Finetuning(backbone, frames)
    start, generator = setup.state(), torch.get_rng_state()
    results = []
    for seed in (7, 7, 8):
        with torch.no_grad():
            for n, p in setup.backbone.model.named_parameters():
                p.copy_(start[n])
        setup.finetune(seed=seed, batch_size=2, steps=3)
        results.append(setup.state())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(results[0][n], results[1][n]) for n in start)
    assert any(not torch.equal(results[0][n], results[2][n]) for n in start)


@pytest.mark.parametrize("weights", [[-1.0] * 6, [np.nan] * 6, [1.0] * 5, [[1.0]] * 6])
def test_bad_weights_are_refused(setup, weights):
    with pytest.raises(ValueError):
        setup.finetune(weights=np.array(weights, np.float32))
