"""Exceptions of the child process, and their form as messages."""

from __future__ import annotations

from covr_jax.carla.channel import Failure


class Fault(Exception):
    """A failure that a new client or a new server may cure; ``kind`` is one word."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


class Refusal(Exception):
    """A failure that no new attempt can cure."""


def failure_of(error: Exception) -> Failure:
    """Converts an exception to a message of one line.

    The client raises RuntimeError for everything, so its kind is read from the text.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Refusal):
        return Failure("refused", text, final=True)
    if isinstance(error, Fault):
        return Failure(error.kind, text)
    if not isinstance(error, RuntimeError):
        return Failure("worker", f"{type(error).__name__}: {text}")
    if "Host not found" in text:
        return Failure("refused", text, final=True)
    if "time-out" in text:
        return Failure("timeout", text)
    if "rpc_error" in text or "bad_cast" in text:
        return Failure("protocol", text)
    return Failure("client", text)
