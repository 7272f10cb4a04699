"""The action grammar of one tokenizer: an automaton over the token ids with which it writes ``Action: [0.43, -0.37]``.

Answers are tokenised as the tokenizer encodes the whole sentence, so that a model decides where it was trained to.
Real vocabularies write `` [-`` and `` -`` as one token: there the token before a number decides its sign.
A action, K grammar symbols, S grammar states.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

import numpy as np

from covr_jax.vlm.codec import PREFIX, SEPARATOR, SUFFIX

_NUMBER = re.compile(r"([+-]?)([0-9])\.([0-9])([0-9])")
_MAGNITUDE = r"(?:0\.[0-9][0-9]|1\.00)"  # what ``_add_number`` lets follow a sign
_PROBES = ("0.00", "0.43", "0.97", "1.00")  # numbers with which a tokenizer is tried


class Spelling(NamedTuple):
    """Token ids of the parts of an answer."""

    first: dict[str, tuple[int, ...]]  # sign -> from the beginning up to the first digit
    following: dict[str, tuple[int, ...]]  # sign -> from the last digit of a number to the first one of the next
    digits: dict[str, int]
    point: tuple[int, ...]
    suffix: tuple[int, ...]  # behind the last digit


class Grammar(NamedTuple):
    """Automaton over the token ids of a tokenizer that accepts the answers ``Action: [x, ...]``."""

    prefix: tuple[int, ...]  # token ids that every answer begins with, forced
    symbols: np.ndarray  # i64[K], token ids that may follow up to the last digit; the last one pads shorter rows
    table: np.ndarray  # i64[S,K], next state, or -1 for a symbol that is not allowed; starts at 0, ends at S-1
    forced: tuple[int, ...]  # per position, the index of the only possible symbol, or -1 where the model decides
    spelling: Spelling
    end: int  # token id that ends an answer: <|im_end|> or </s>

    def encode(self, answer: str) -> list[int]:
        """Returns the token ids of an answer and the end of turn, as the tokenizer writes and decoding emits them.

        Raises:
          ValueError: for an answer outside the grammar.
        """
        ids = _spell(self.spelling, answer)
        state, columns = 0, {int(token): k for k, token in enumerate(self.symbols[:-1])}
        for token in ids[len(self.prefix) : len(ids) - len(self.spelling.suffix)]:
            state = int(self.table[state, columns[token]]) if token in columns and state >= 0 else -1
        if not ids or state != len(self.table) - 1:
            raise ValueError(f"answer {answer!r} is outside the grammar")
        return [*ids, self.end]


def build_grammar(tokenizer, action_dim: int, signed: bool, context: str = "\n", space: str = "") -> Grammar:
    """Builds the automaton of answers with ``action_dim`` numbers of two decimals in [-1, 1].

    Args:
      tokenizer: of the model.
      action_dim: A.
      signed: whether positive numbers carry their sign.
      context: text of the chat template right before an answer.
      space: what separates an answer from the context.

    Raises:
      ValueError: if the tokenizer does not encode each digit as one token, writes numbers differently depending on
        what surrounds them, or knows no end of text.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("this tokenizer cannot write actions: it has no token that ends an answer")
    spelling = _spelling(tokenizer, "+" if signed else "", context, space)
    _check(tokenizer, spelling, action_dim, context, space)
    edges: list[dict[int, int]] = [{}]
    state = 0
    for i in range(action_dim):
        state = _add_number(edges, state, spelling.following if i else spelling.first, spelling)
    prefix: list[int] = []
    state_after = 0
    while len(edges[state_after]) == 1:
        [(token, state_after)] = edges[state_after].items()
        prefix.append(token)
    return _compile(edges, state_after, state, tuple(prefix), spelling, tokenizer)


def answer_pattern(action_dim: int, signed: bool, space: str = "") -> str:
    """Returns the answers of ``build_grammar`` as a regular expression, for a server that decodes by one.

    It uses only what the engines of structured output have in common: groups, classes and escaped brackets and points.

    Args:
      action_dim: A.
      signed: whether positive numbers carry their sign.
      space: what separates an answer from the context.
    """
    number = ("[+-]" if signed else "-?") + _MAGNITUDE
    opening, closing = (re.sub(r"([][])", r"\\\1", part) for part in (PREFIX, SUFFIX))
    return space + opening + SEPARATOR.join([number] * action_dim) + closing


def continuation(tokenizer, text: str, context: str = "\n", space: str = "") -> tuple[int, ...]:
    """Returns the token ids of a text that continues a context; none if the context's own ids change with it.

    SentencePiece tokenizers, as LLaVA's, prepend a space to every text, so that a text by itself has other ids.
    """
    before = tokenizer.encode(context, add_special_tokens=False)
    ids = tokenizer.encode(context + space + text, add_special_tokens=False)
    return tuple(ids[len(before) :]) if ids[: len(before)] == before else ()


def _refuse(reason: str) -> ValueError:
    return ValueError(f"this tokenizer cannot write actions: {reason}")


def _spelling(tokenizer, plus: str, context: str, space: str) -> Spelling:
    """Reads the parts of an answer off whole sentences."""
    digits: dict[str, int] = {}
    before = continuation(tokenizer, "0.", context, space)
    for digit in "0123456789":
        ids = continuation(tokenizer, f"0.{digit}", context, space)
        if len(ids) != len(before) + 1 or tokenizer.unk_token_id in ids:
            raise _refuse(f"the digit {digit} is not one token")
        digits[digit] = ids[-1]
    by_id = {token: digit for digit, token in digits.items()}

    def parts(first: str, second: str) -> list[tuple[int, ...]]:
        """Token ids between the six digits of an answer with two numbers, and before and behind them."""
        ids = continuation(tokenizer, f"{PREFIX}{first}0.00{SEPARATOR}{second}0.00{SUFFIX}", context, space)
        found: list[list[int]] = [[]]
        for token in ids:
            if token in by_id:
                found.append([])
            else:
                found[-1].append(token)
        if len(found) != 7 or not ids or tokenizer.unk_token_id in ids:
            raise _refuse("it has no tokens for an answer, or merges digits")
        return [tuple(part) for part in found]

    positive, negative = parts(plus, plus), parts("-", "-")
    return Spelling(
        {plus: positive[0], "-": negative[0]},
        {plus: positive[3], "-": negative[3]},
        digits,
        positive[1],
        positive[6],
    )


def _spell(spelling: Spelling, answer: str) -> list[int]:
    """Returns the token ids of an answer; an empty list for text of another form."""
    body = answer[len(PREFIX) : len(answer) - len(SUFFIX)]
    matches = [_NUMBER.fullmatch(number) for number in body.split(SEPARATOR)]
    if answer != f"{PREFIX}{body}{SUFFIX}":
        return []
    ids: list[int] = []
    for i, match in enumerate(matches):
        lead = spelling.following if i else spelling.first
        if match is None or match[1] not in lead:
            return []
        ones, tenths, hundredths = (spelling.digits[digit] for digit in match.groups()[1:])
        ids += [*lead[match[1]], ones, *spelling.point, tenths, hundredths]
    return [*ids, *spelling.suffix]


def _check(tokenizer, spelling: Spelling, action_dim: int, context: str, space: str) -> None:
    """Compares whole sentences with the tokenizer's own ids: all signs of neighbours, and numbers of each kind."""
    for signs in itertools.product(spelling.first, repeat=min(action_dim, 3)):
        for shift in range(len(_PROBES)):
            numbers = [signs[i % len(signs)] + _PROBES[(i + shift) % len(_PROBES)] for i in range(action_dim)]
            answer = PREFIX + SEPARATOR.join(numbers) + SUFFIX
            if tuple(_spell(spelling, answer)) != continuation(tokenizer, answer, context, space):
                raise _refuse(f"the tokens of {answer!r} depend on more than its parts")


def _common_start(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the ids with which both begin."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return tuple(token for token, _ in pairs)


def _chain(edges: list[dict[int, int]], state: int, ids: tuple[int, ...], target: int | None = None) -> int:
    """Adds tokens after a state, the last one leading to ``target``. Returns the state after them."""
    for k, token in enumerate(ids):
        if target is not None and k == len(ids) - 1:
            edges[state][token] = target
        elif token not in edges[state]:
            edges.append({})
            edges[state][token] = len(edges) - 1
        state = edges[state][token]
    return state


def _add_number(edges: list[dict[int, int]], state: int, lead: dict[str, tuple[int, ...]], spelling: Spelling) -> int:
    """Adds one number (what leads to it, then 0.dd or 1.00) after ``state``. Returns the state after the number."""
    shared = _common_start(*lead.values())
    state = _chain(edges, state, shared)
    edges.append({})
    ones = len(edges) - 1
    digits, point = spelling.digits, spelling.point
    tenths = _chain(edges, ones, (digits["0"], *point))
    after_one = _chain(edges, ones, (digits["1"], *point, digits["0"]))
    hundredths = _chain(edges, tenths, (digits["0"],))
    after = _chain(edges, hundredths, (digits["0"],))
    for digit in "123456789":
        _chain(edges, tenths, (digits[digit],), hundredths)
        _chain(edges, hundredths, (digits[digit],), after)
    _chain(edges, after_one, (digits["0"],), after)
    for ids in lead.values():
        rest = ids[len(shared) :]
        if rest:
            _chain(edges, state, rest, ones)
        else:  # the other sign's tokens go on from here: a number without them starts with its digit
            edges[state].update(edges[ones])
    return after


def _compile(edges, start: int, final: int, prefix: tuple[int, ...], spelling: Spelling, tokenizer) -> Grammar:
    """Numbers the states reachable from ``start``, the final one last; finds positions where paths share a symbol."""
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    order = [start]
    for state in order:
        order += [target for target in dict.fromkeys(edges[state].values()) if target not in order]
    order = [state for state in order if state != final] + [final]
    index = {state: i for i, state in enumerate(order)}
    tokens = sorted({token for state in order for token in edges[state]})
    table = np.full((len(order), len(tokens) + 1), -1, np.int64)
    for state in order:
        for token, target in edges[state].items():
            table[index[state], tokens.index(token)] = index[target]
    last = len(order) - 1
    table[last, -1] = last
    forced, level = [], {0}
    while level != {last}:
        options = {(k, int(table[state, k])) for state in level for k in np.flatnonzero(table[state] >= 0)}
        symbols = {k for k, _ in options}
        forced.append(int(symbols.pop()) if len(symbols) == 1 else -1)
        level = {target for _, target in options}
    return Grammar(prefix, np.asarray([*tokens, pad], np.int64), table, tuple(forced), spelling, int(end))
