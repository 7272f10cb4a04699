"""Batched greedy decoding of actions, constrained to the action grammar (or free).

By hand, since the constrained decoding of transformers runs the model for fixed tokens too. Here the fixed text of an
answer needs no model call of its own: tokens before the first decision are part of the prefill, tokens after the last
decision are not run, and tokens in between are run together with the next decision.
N samples, A action, T tokens of an answer, K grammar symbols, S grammar states.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from covr_jax.vlm.codec import PREFIX, SEPARATOR, SUFFIX, parse_action
from covr_jax.vlm.models.kv_cache import static_cache
from covr_jax.vlm.models.loading import Backbone, PromptTokens, frozen_eval, model_inputs, positions, repeat_positions


class Grammar(NamedTuple):
    """Automaton over the token ids of a tokenizer that accepts the answers ``Action: [x, ...]``."""

    prefix: tuple[int, ...]  # token ids of "Action: [", forced
    symbols: np.ndarray  # i64[K], token ids that may occur between the brackets; the last one pads shorter rows
    table: np.ndarray  # i64[S,K], next state, or -1 for a symbol that is not allowed; starts at 0, ends at S-1
    forced: tuple[int, ...]  # per position, the index of the only possible symbol, or -1 where the model decides
    pieces: dict[str, tuple[int, ...]]  # text piece -> token ids
    end: int  # token id that ends an answer: <|im_end|> or </s>

    def encode(self, answer: str) -> list[int]:
        """Returns the token ids of an answer and the end of turn, piece by piece, exactly as decoding emits them.

        Raises:
          ValueError: for an answer outside the grammar.
        """
        parts = re.split(rf"({re.escape(PREFIX)}|{re.escape(SEPARATOR)}|.)", answer)
        unknown = [p for p in parts if p and p not in self.pieces]
        if unknown:
            raise ValueError(f"answer {answer!r} is outside the grammar at {unknown[0]!r}")
        return [i for part in parts if part for i in self.pieces[part]] + [self.end]


def build_grammar(tokenizer, action_dim: int, signed: bool) -> Grammar:
    """Builds the automaton of answers with ``action_dim`` numbers of two decimals in [-1, 1].

    Args:
      tokenizer: of the model.
      action_dim: A.
      signed: whether positive numbers carry their sign.

    Raises:
      ValueError: if the tokenizer does not encode signs and digits as one token each, or knows no end of text.
    """
    texts = [PREFIX, SEPARATOR, SUFFIX, ".", "+", "-", *"0123456789"]
    pieces = {t: continuation(tokenizer, t) for t in texts}
    if tokenizer.eos_token_id is None:
        raise ValueError("this tokenizer cannot write actions: it has no token that ends an answer")
    unknown = tokenizer.unk_token_id
    for text, ids in pieces.items():
        single = len(text) == 1 and text not in ".]"  # a decision of the model must be one token
        if not ids or (single and len(ids) != 1) or (unknown is not None and unknown in ids):
            raise ValueError(f"this tokenizer cannot write actions: {text!r} becomes {len(ids)} tokens")
    edges: list[dict[int, int]] = [{}]

    def chain(state: int, text: str, target: int | None = None) -> int:
        """Adds the tokens of a fixed text after a state. Returns the state after the text."""
        ids = pieces[text]
        for k, token in enumerate(ids):
            ends = target is not None and k == len(ids) - 1
            following: int = target if ends and target is not None else edges[state].get(token, len(edges))
            if following == len(edges):
                edges.append({})
            edges[state][token] = following
            state = following
        return state

    state = 0
    for i in range(action_dim):
        state = _add_number(chain, edges, pieces, state, signed)
        if i < action_dim - 1:
            state = chain(state, SEPARATOR)
    return _compile(edges, state, pieces, tokenizer)


def continuation(tokenizer, text: str) -> tuple[int, ...]:
    """Returns the token ids of a text that continues earlier text.

    SentencePiece tokenizers, as LLaVA's, prepend a space to every text. After a line feed, which no tokenizer here
    merges with what follows, the ids are those of the text itself.
    """
    before = tokenizer.encode("\n", add_special_tokens=False)
    ids = tokenizer.encode("\n" + text, add_special_tokens=False)
    return tuple(ids[len(before) :]) if ids[: len(before)] == before else ()


def _add_number(chain, edges, pieces, state: int, signed: bool) -> int:
    """Adds one number (sign, then 0.dd or 1.00) after ``state``. Returns the state after the number."""
    unit = chain(state, "-")
    if signed:
        chain(state, "+", unit)
    tenths = chain(chain(unit, "0"), ".")
    ones = chain(chain(chain(unit, "1"), "."), "0")
    hundredths = chain(tenths, "0")
    after = chain(hundredths, "0")
    for digit in "123456789":
        chain(tenths, digit, hundredths)
        chain(hundredths, digit, after)
    chain(ones, "0", after)
    if not signed:
        # A positive number starts with its digit: the same edges as after the minus sign.
        for digit in "01":
            edges[state][pieces[digit][0]] = edges[unit][pieces[digit][0]]
    return after


def _compile(edges, final: int, pieces, tokenizer) -> Grammar:
    """Numbers the states, the final one last, and finds the positions where every path has the same symbol."""
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    order = [s for s in range(len(edges)) if s != final] + [final]
    index = {s: i for i, s in enumerate(order)}
    tokens = sorted({t for e in edges for t in e})
    table = np.full((len(edges), len(tokens) + 1), -1, np.int64)
    for s in order:
        for token, target in edges[s].items():
            table[index[s], tokens.index(token)] = index[target]
    last = len(edges) - 1
    table[last] = -1
    table[last, -1] = last
    forced, level = [], {0}
    while level != {last}:
        options = {(k, int(table[s, k])) for s in level for k in np.flatnonzero(table[s] >= 0)}
        symbols = {k for k, _ in options}
        forced.append(int(symbols.pop()) if len(symbols) == 1 else -1)
        level = {target for _, target in options}
    return Grammar(pieces[PREFIX], np.asarray([*tokens, pad], np.int64), table, tuple(forced), pieces, int(end))


def decode_actions(
    backbone: Backbone,
    prompt: PromptTokens,
    grammar: Grammar,
    pixel_values: torch.Tensor,
    n: int,
    pick: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Decodes N answers token by token under the grammar.

    Prompt, image and forced prefix are run once; their keys and values stay in the cache for the rest of the answer.

    Args:
      backbone: model.
      prompt: of every sample.
      grammar: of the answers.
      pixel_values: of N samples, from ``preprocess``.
      n: N.
      pick: chooses the symbols, scores f32[N,K] (-inf for symbols that are not allowed) -> i64[N]; None: argmax.

    Returns:
      i64[N,T], token ids between the brackets; shorter answers end in the padding symbol.
    """
    device = prompt.ids.device
    symbols = torch.as_tensor(grammar.symbols, device=device)
    table = torch.as_tensor(grammar.table, device=device)
    start = torch.cat([prompt.ids, torch.tensor(grammar.prefix, device=device)])
    length = start.numel() + len(grammar.forced)
    position_ids = repeat_positions(positions(prompt, length), n)
    state = torch.zeros(n, dtype=torch.long, device=device)
    emitted, pending, done = [], 0, start.numel()
    with frozen_eval(backbone.model):
        cache = {"past_key_values": static_cache(backbone.model.config, length), "use_cache": True, "logits_to_keep": 1}
        out = backbone.model(**model_inputs(backbone, pixel_values, start.expand(n, -1), prompt), **cache)
        for forced in grammar.forced:
            if forced >= 0:
                choice = torch.full_like(state, forced)
            else:
                if pending:
                    ids, part = torch.stack(emitted[-pending:], 1), position_ids[..., done : done + pending]
                    out = backbone.model(input_ids=ids, position_ids=part, **cache)
                    pending, done = 0, done + pending
                scores = out.logits[:, -1].index_select(1, symbols).float()
                scores = scores.masked_fill(table[state] < 0, -torch.inf)
                choice = scores.argmax(1) if pick is None else pick(scores)
            emitted.append(symbols[choice])
            state = table[state, choice]
            pending += 1
    return torch.stack(emitted, 1)


def answer_texts(tokenizer, grammar: Grammar, tokens: torch.Tensor) -> list[str]:
    """Returns the complete answers, with their closing bracket, of token ids i64[N,T] from ``decode_actions``."""
    rows = [[t for t in row if t != grammar.symbols[-1]] for row in tokens.tolist()]
    # Decoded together with the prefix: a token by itself may lose its space.
    return [tokenizer.decode([*grammar.prefix, *row], clean_up_tokenization_spaces=False) + SUFFIX for row in rows]


def generate_texts(
    backbone: Backbone, prompt: PromptTokens, pixel_values: torch.Tensor, n: int, max_new_tokens: int
) -> list[str]:
    """Generates N free answers greedily with ``generate`` of transformers. They are untrusted text.

    Args:
      backbone: model.
      prompt: of every sample.
      pixel_values: of N samples, from ``preprocess``.
      n: N.
      max_new_tokens: longest answer.
    """
    inputs = model_inputs(backbone, pixel_values, prompt.ids.expand(n, -1), prompt)
    inputs.pop("position_ids")  # ``generate`` makes its own from the token types
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    end = backbone.tokenizer.eos_token_id
    with frozen_eval(backbone.model):
        out = backbone.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # checkpoints set 1.05, which penalises the second zero of 0.00
            eos_token_id=end,
            pad_token_id=end,
            # An image placeholder in an answer would have no image.
            suppress_tokens=[backbone.model.config.image_token_id],
        )
    return backbone.tokenizer.batch_decode(out[:, prompt.ids.numel() :], skip_special_tokens=True)


def parse_all(texts: list[str], action_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Parses N answers. Returns actions f32[N,A] (zeros where not valid) and valid bool[N]."""
    parsed = [parse_action(text, action_dim) for text in texts]
    actions = np.stack([action for action, _ in parsed]) if parsed else np.zeros((0, action_dim), np.float32)
    return actions, np.asarray([ok for _, ok in parsed], bool)
