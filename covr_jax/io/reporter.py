"""What a front end shows of a run; ``commands.console`` implements it for terminals."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives what a run has to say while it runs."""

    def message(self, text: str) -> None:
        """Shows one line of text."""

    def update(self, env_steps: int, shown: dict[str, float]) -> None:
        """Shows progress and a row of metrics."""

    def finetune(self, step: int, steps: int, loss: float) -> None:
        """Shows one of ``steps`` optimiser steps of the VLM's fine-tuning and its loss."""


class Silent:
    """A ``Reporter`` that shows nothing: of several processes that train one run, the first one reports."""

    def message(self, text: str) -> None:
        """Does nothing."""

    def update(self, env_steps: int, shown: dict[str, float]) -> None:
        """Does nothing."""

    def finetune(self, step: int, steps: int, loss: float) -> None:
        """Does nothing."""
