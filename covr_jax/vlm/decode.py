"""Batched greedy decoding of actions, constrained to the action grammar (or free).

By hand, since the constrained decoding of transformers runs the model for fixed tokens too. Here the fixed text of an
answer needs no model call of its own: tokens before the first decision are part of the prefill, tokens after the last
decision are not run, and tokens in between are run together with the next decision.
N samples, A action, T tokens of an answer, K grammar symbols.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from covr_jax.vlm.codec import SUFFIX, parse_action
from covr_jax.vlm.grammar import Grammar
from covr_jax.vlm.models.kv_cache import static_cache
from covr_jax.vlm.models.loading import Backbone, PromptTokens, frozen_eval, model_inputs, positions, repeat_positions


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
      i64[N,T], token ids from the grammar's prefix to the last digit; shorter answers end in the padding symbol.
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
    texts = [tokenizer.decode([*grammar.prefix, *row], clean_up_tokenization_spaces=False) for row in rows]
    return [text.strip() + SUFFIX for text in texts]


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
