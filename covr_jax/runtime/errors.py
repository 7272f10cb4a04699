"""Exceptions as text: one line that fits into a log, a message of another process or another exception."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or the name of its type where the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
