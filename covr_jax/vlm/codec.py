"""Converts actions to text and back; the only place where an untrusted answer of the VLM becomes numbers.

A action. No Torch: the learner's side imports this file too.
"""

from __future__ import annotations

import re

import numpy as np

PREFIX = "Action: ["
SEPARATOR = ", "
SUFFIX = "]"

# Bounded numbers of digits keep matching linear and float() cheap; only ASCII digits: "1_0", "nan", Arabic digits fail.
_NUMBER = r"[+-]?(?:[0-9]{1,3}(?:\.[0-9]{0,6})?|\.[0-9]{1,6})(?:[eE][+-]?[0-9]{1,2})?"
_FULL_NUMBER = re.compile(_NUMBER)
# A free-standing number: adjacent characters must not make it part of something else ("v2", "1.2.3", "1/2", "50%").
_FREE_NUMBER = re.compile(rf"(?<![\w.+\-/^]){_NUMBER}(?![\w+\-/^%]|\.[0-9.]|[ ]%)", re.ASCII)
_LOOSE_SIGN = re.compile(r"[+\-]\s+[.0-9]", re.ASCII)
_LIST = re.compile(r"\[([^\[\]]*)\]")
_MARKER = re.compile(r"\baction", re.IGNORECASE | re.ASCII)
# Punctuation around numbers may be full-width; the numbers themselves are ASCII, sign and point included.
_PUNCTUATION = str.maketrans({"［": "[", "］": "]", "【": "[", "】": "]", "，": ","})
_LARGEST = 1000.0  # a number of more than three digits is not an imprecise action but another quantity


def format_action(action, signed: bool = False) -> str:
    """Returns an action as the text that the VLM is trained on: ``Action: [0.43, -0.37]``.

    Args:
      action: float[A] (any array or sequence), clipped to [-1, 1].
      signed: whether every number carries its sign and has the same width (``+0.43``), which small models learn faster.

    Raises:
      ValueError: if a component is not finite or the action is not one-dimensional.
    """
    return PREFIX + format_numbers(action, signed) + SUFFIX


def format_numbers(values, signed: bool = False) -> str:
    """Returns the text inside the brackets: two decimals, clipped to [-1, 1], never ``-0.00``."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"an action must be a finite vector, got shape {values.shape}: {values}")
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    rounded = np.round(np.clip(values, -1.0, 1.0), 2) + 0.0
    return SEPARATOR.join(f"{v:+.2f}" if signed else f"{v:.2f}" for v in rounded)


def max_answer_tokens(action_dim: int) -> int:
    """Returns a number of tokens that every tokenizer's answer fits into, with room for a few words around it."""
    return 16 + 8 * action_dim


def parse_action(text, action_dim: int) -> tuple[np.ndarray, bool]:
    """Parses an action from free text. It never raises and never makes up a number.

    Rules, in this order: (1) after the last word "Action" the last bracketed list must hold exactly A numbers;
    (2) without such a list, the last bracketed list of A numbers anywhere; (3) without any list, ASCII text must hold
    exactly A free-standing decimals in [-1, 1] and no other digit. Nested and truncated lists fail, and so do two
    different lists of A numbers. Numbers are ASCII decimals of at most three digits before the point; in a list
    magnitudes above 1 are clipped, magnitudes from 1000 on fail. Time is linear in the length of the text.

    Args:
      text: an answer; other types than ``str`` fail.
      action_dim: A.

    Returns:
      (action f32[A] in [-1, 1], True), or (zeros f32[A], False).
    """
    failure = np.zeros(max(int(action_dim), 0), np.float32), False
    if not isinstance(text, str) or action_dim < 1:
        return failure
    text = text.translate(_PUNCTUATION)
    ends = [match.end() for match in _MARKER.finditer(text)]
    after = text[ends[-1] :] if ends else ""
    if _unbalanced(after):
        return failure
    if bodies := _LIST.findall(after):
        values = _last_list(bodies, action_dim, strict=True)
    elif _unbalanced(text):
        return failure
    elif bodies := _LIST.findall(text):
        values = _last_list(bodies, action_dim, strict=False)
    else:
        values = _free_numbers(after if ends else text, action_dim)
    if values is None:
        return failure
    # Adding 0.0 turns "-0.00" into plain zero.
    return np.clip(np.asarray(values, np.float32), -1.0, 1.0) + np.float32(0.0), True


def _unbalanced(text: str) -> bool:
    """Whether brackets remain outside of all lists, as of a nested or truncated list."""
    rest = _LIST.sub("", text)
    return "[" in rest or "]" in rest


def _numbers(body: str, action_dim: int) -> list[float] | None:
    """Returns the A numbers of one bracketed list, or None."""
    if body.count(",") != action_dim - 1:
        return None
    values = []
    for item in body.split(","):
        item = item.strip(" \t\n\r")
        if not _FULL_NUMBER.fullmatch(item):
            return None
        values.append(float(item))
    return values if all(abs(v) < _LARGEST for v in values) else None


def _last_list(bodies: list[str], action_dim: int, strict: bool) -> list[float] | None:
    """Returns the last list of A numbers, or None if such lists differ. ``strict``: no other list may follow it."""
    found = [_numbers(body, action_dim) for body in bodies]
    if strict and found[-1] is None:
        return None
    found = [values for values in found if values is not None]
    if not found or any(values != found[-1] for values in found):
        return None
    return found[-1]


def _free_numbers(text: str, action_dim: int) -> list[float] | None:
    """Returns the A decimals of a text without lists, or None; an integer ("5 times") or 2.5 is not an action.

    Text outside ASCII fails, as a dash may be a minus sign; "- 0.2" fails, as it may be a number or an item of a list.
    """
    if not text.isascii() or _LOOSE_SIGN.search(text):
        return None
    matches = _FREE_NUMBER.findall(text)
    if len(matches) != action_dim or not all("." in m for m in matches):
        return None
    # Digits outside of the numbers found mean that the text was not understood.
    if sum(c.isdigit() for c in text) != sum(c.isdigit() for m in matches for c in m):
        return None
    values = [float(m) for m in matches]
    return values if all(abs(v) <= 1.0 for v in values) else None
