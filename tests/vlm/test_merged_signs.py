"""A model that writes signs as real vocabularies do, `` [-`` and `` -`` in one token, answers negative numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from covr_jax.vlm.codec import format_action
from covr_jax.vlm.decode import parse_all
from covr_jax.vlm.engine import VLMEngine
from covr_jax.vlm.grammar import continuation
from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.loading import backbone_from, frozen_eval, model_inputs, preprocess, tokenize_prompt
from covr_jax.vlm.prompts import short_prompt_for
from tests.support.byte_tokenizer import byte_tokenizer

TASK, ACTION_DIM, SIZE = "reacher_easy", 2, 28
STEPS, BATCH = 200, 32
MERGES = [("Ġ", "["), ("Ġ[", "-"), ("Ġ", "-")]


def examples(count, generator):
    """Images whose halves show the two numbers: red is negative, blue positive, brightness the size."""
    action = generator.choice([-1.0, 1.0], (count, ACTION_DIM)) * generator.uniform(0.1, 1.0, (count, ACTION_DIM))
    frames = np.full((count, SIZE, SIZE, 3), 20, np.uint8)
    half = SIZE // 2
    for image, numbers in zip(frames, action, strict=True):
        for k, number in enumerate(numbers):
            image[half * k : half * (k + 1), :, 0 if number < 0 else 2] = int(60 + 190 * abs(number))
    return frames, np.round(action, 2).astype(np.float32)


@pytest.fixture(scope="module")
def engine():
    """A tiny Qwen2.5-VL, trained as released models were: on the tokenizer's own tokens of whole sentences."""
    tokenizer = byte_tokenizer(MERGES, tiny.QWEN_SPECIALS)
    tokenizer.chat_template = tiny.CHAT_TEMPLATE
    torch.manual_seed(0)
    model_class = pytest.importorskip("transformers").Qwen2_5_VLForConditionalGeneration
    backbone = backbone_from(model_class(tiny.tiny_config(tokenizer)), tokenizer, SIZE, is_tiny=True)
    prompt = tokenize_prompt(backbone, short_prompt_for(TASK, ACTION_DIM))
    model, generator = backbone.model.train(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for _ in range(STEPS):
        frames, action = examples(BATCH, generator)
        rows = [[*continuation(tokenizer, format_action(row)), tokenizer.eos_token_id] for row in action]
        labels = torch.tensor(rows)  # of one length, as signs are part of other tokens
        ids = torch.cat([prompt.ids.expand(BATCH, -1), labels], 1)
        inputs = model_inputs(backbone, preprocess(torch.from_numpy(frames), backbone.image), ids, prompt)
        logits = model(**inputs, use_cache=False, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return VLMEngine("merged", TASK, ACTION_DIM, backbone=backbone, signed=False, rank=4)


@pytest.mark.slow
def test_constrained_answers_have_the_signs_of_free_ones(engine):
    frames, action = examples(64, np.random.default_rng(99))
    answers = {}
    for decoding in ("free", "constrained"):
        engine.decoding = decoding
        answers[decoding] = engine.answer(frames)
    assert answers["constrained"] == answers["free"]
    answered, valid = parse_all(answers["constrained"], ACTION_DIM)
    assert valid.all() and (np.sign(answered) == np.sign(action)).all()


@pytest.mark.slow
def test_the_first_decision_has_the_probabilities_of_an_unconstrained_pass(engine):
    frames, action = examples(16, np.random.default_rng(7))
    model, prompt, grammar = engine.parts(merged=False)
    ids = torch.cat([prompt.ids, torch.tensor(grammar.prefix)]).expand(len(frames), -1)
    with frozen_eval(model.model):
        pixels = preprocess(torch.from_numpy(frames), model.image)
        logits = model.model(**model_inputs(model, pixels, ids, prompt), logits_to_keep=1).logits[:, -1]
    allowed = [int(grammar.symbols[k]) for k in np.flatnonzero(grammar.table[0] >= 0)]
    probability = torch.softmax(logits.float(), -1)[:, allowed]
    assert probability.sum(1).min() > 0.99  # nothing that the model would say is cut off
    negative = probability[:, allowed.index(model.tokenizer.convert_tokens_to_ids("Ġ[-"))].numpy()
    np.testing.assert_array_equal(negative > 0.5, action[:, 0] < 0)
