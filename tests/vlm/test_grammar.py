"""Answers are tokenised as the tokenizer encodes whole sentences, and decoding follows the same ids."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from covr_jax.vlm.codec import format_action, parse_action
from covr_jax.vlm.decode import answer_texts
from covr_jax.vlm.grammar import answer_pattern, build_grammar, continuation
from tests.support.byte_tokenizer import byte_tokenizer
from tests.support.qwen_tokenizer import qwen_tokenizer


@pytest.mark.parametrize("signed", [True, False])
def test_grammar_speaks_exactly_the_codecs_language(backbone, signed):
    grammar = build_grammar(backbone.tokenizer, 1, signed)
    spoken = set()

    def walk(state, ids):
        if state == len(grammar.table) - 1:
            spoken.add(answer_texts(backbone.tokenizer, grammar, torch.tensor([ids]))[0])
            return
        for k in np.flatnonzero(grammar.table[state] >= 0):
            walk(grammar.table[state, k], [*ids, int(grammar.symbols[k])])

    walk(0, [])
    written = {format_action([i / 100], signed) for i in range(-100, 101)}
    assert spoken - written == {"Action: [-0.00]"} and written <= spoken
    assert all(parse_action(text, 1)[1] for text in spoken)


@pytest.mark.parametrize("signed", [True, False])
def test_the_pattern_for_servers_is_the_grammar(backbone, signed):
    """All texts of three digits with any sign, alone and behind another number."""
    pattern = {n: answer_pattern(n, signed, space=" " * (n - 1)) for n in (1, 2)}
    grammar = {n: build_grammar(backbone.tokenizer, n, signed) for n in (1, 2)}
    first = "-0.50, "

    def speaks(count, text):
        try:
            return bool(grammar[count].encode(text))
        except ValueError:
            return False

    numbers = [f"{sign}{i // 100}.{i % 100:02d}" for sign in ("", "+", "-") for i in range(220)]
    for number in [*numbers, "0.5", "0.500", "00.50", ".50", "0,50", ""]:
        for count, before in ((1, ""), (2, first)):
            text = f"Action: [{before}{number}]"
            spoken = speaks(count, text)
            assert bool(re.fullmatch(pattern[count], " " * (count - 1) + text)) is spoken, text
    assert speaks(2, f"Action: [{first}{'+' if signed else ''}0.07]")


def test_training_tokens_are_the_decoded_tokens(backbone):
    grammar = build_grammar(backbone.tokenizer, 2, True)
    ids = grammar.encode("Action: [+0.43, -1.00]")
    state, body = 0, ids[len(grammar.prefix) : -2]
    for token in body:
        state = grammar.table[state, list(grammar.symbols).index(token)]
    assert tuple(ids[: len(grammar.prefix)]) == grammar.prefix and state == len(grammar.table) - 1
    assert backbone.tokenizer.decode(ids) == "Action: [+0.43, -1.00]<|im_end|>"
    with pytest.raises(ValueError, match="outside the grammar"):
        grammar.encode("Action: [left]")


def test_fixed_width_grammar_decides_only_signs_and_digits(backbone):
    grammar = build_grammar(backbone.tokenizer, 2, True)
    kinds = "".join("?" if f < 0 else "." for f in grammar.forced)
    assert kinds == "??.??.??.??"


def sentencepiece_tokenizer(merges=(("▁", "-"), ("▁", "A"))):
    """As Llama's: a space before every text, spaces as ▁, unknown characters as bytes, merges as there."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"Action:[],.+-0123456789", "▁"]
    vocabulary += [a + b for a, b in merges]
    vocabulary = {t: i for i, t in enumerate(vocabulary)}
    core = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")


def test_grammar_survives_tokenizers_that_prepend_a_space():
    tokenizer = sentencepiece_tokenizer()
    assert len(tokenizer.encode("0")) == 2  # the trap: a digit alone is two tokens
    grammar = build_grammar(tokenizer, 2, False)
    ids = grammar.encode("Action: [0.43, -1.00]")
    assert tokenizer.convert_ids_to_tokens(ids[-7:]) == ["▁-", "1", ".", "0", "0", "]", "</s>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Action: [0.43, -1.00]"
    body = torch.tensor([ids[len(grammar.prefix) : -2]])
    assert answer_texts(tokenizer, grammar, body) == ["Action: [0.43, -1.00]"]


def test_grammar_is_built_from_any_tokenizer():
    tokenizer = byte_tokenizer([("A", "c")])
    grammar = build_grammar(tokenizer, 2, False)
    assert len(grammar.prefix) == len("Action: [") - 1
    assert tokenizer.decode(grammar.encode("Action: [0.43, -1.00]")) == "Action: [0.43, -1.00]<|im_end|>"
    assert answer_texts(tokenizer, grammar, torch.tensor([grammar.encode("Action: [0.43, -1.00]")[8:-2]])) == [
        "Action: [0.43, -1.00]"
    ]


def test_tokenizers_that_cannot_write_actions_are_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<unk>": 0, "Action": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match="cannot write actions"):
        build_grammar(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>"), 1, True)


def whole_answers(action_dim, signed, count=40):
    """Grid values with every combination of signs of the first components."""
    generator = np.random.default_rng(action_dim)
    corners = [[a, b, *[1.0] * 6][:action_dim] for a in (-1.0, 0.0, 0.07, 1.0) for b in (-0.9, 0.0, 0.3, 1.0)]
    drawn = generator.uniform(-1.0, 1.0, (count, action_dim)).tolist()
    return [format_action(action, signed) for action in [*corners, *drawn]]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("action_dim", range(1, 7))
def test_answers_have_the_tokens_of_the_real_vocabulary(action_dim, signed):
    tokenizer = qwen_tokenizer()
    grammar = build_grammar(tokenizer, action_dim, signed)
    for answer in whole_answers(action_dim, signed):
        assert tuple(grammar.encode(answer)[:-1]) == continuation(tokenizer, answer), answer
    assert sum(forced < 0 for forced in grammar.forced) == 4 * action_dim  # sign, ones, tenths, hundredths


def test_the_token_before_a_number_decides_its_sign():
    tokenizer = qwen_tokenizer()
    grammar = build_grammar(tokenizer, 2, signed=False)
    assert tokenizer.convert_ids_to_tokens(list(grammar.prefix)) == ["Action", ":"]
    first = [int(grammar.symbols[k]) for k in np.flatnonzero(grammar.table[0] >= 0)]
    assert set(tokenizer.convert_ids_to_tokens(first)) == {"Ġ[", "Ġ[-"}
    expected = ["Action", ":", "Ġ[-", "0", ".", "4", "3", ",", "Ġ-", "1", ".", "0", "0", "]", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(grammar.encode("Action: [-0.43, -1.00]")) == expected


def test_llava_answers_follow_a_space():
    """`ASSISTANT:` is followed by a space, which SentencePiece makes part of the first token."""
    tokenizer = sentencepiece_tokenizer()
    grammar = build_grammar(tokenizer, 1, signed=False, context="ASSISTANT:", space=" ")
    assert tokenizer.convert_ids_to_tokens(grammar.encode("Action: [0.43]")[:1]) == ["▁A"]
    assert grammar.encode("Action: [0.43]")[:-1] == tokenizer.encode("ASSISTANT: Action: [0.43]")[-14:]


def test_tokenizers_that_merge_digits_are_refused():
    with pytest.raises(ValueError, match="cannot write actions"):
        build_grammar(byte_tokenizer([("4", "3")]), 1, signed=False)
