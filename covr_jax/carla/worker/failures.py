"""What can go wrong here, by name."""

from __future__ import annotations

from covr_jax.carla.channel import Failure


class Fault(Exception):
    """Something that a new client, or a new server, may cure."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


class Refusal(Exception):
    """Something that trying again cannot cure."""


def failure_of(error: Exception) -> Failure:
    """An exception as a message. The client raises RuntimeError for everything and tells the reason in words."""
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
