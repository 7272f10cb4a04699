"""Reporters of runs in tests."""

from __future__ import annotations

import math


class Quiet:
    """Says nothing, remembers the messages, and may pull the plug."""

    def __init__(self, stop_at: float = math.inf, stop: type[BaseException] = KeyboardInterrupt):
        self.stop_at, self.stop, self.messages = stop_at, stop, []

    def message(self, text):
        self.messages.append(text)

    def update(self, env_steps, shown):
        if env_steps >= self.stop_at:
            raise self.stop

    def finetune(self, step, steps, loss):
        pass
