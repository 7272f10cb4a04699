"""How long many equal steps will take, said as soon as it is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from covr_jax.report.formatting import duration

_LONG_S = 300.0  # what takes less needs no announcement


class Estimate:
    """Says once how long equal steps will take, where that is long.

    The first step may load or compile something, so the second one is timed.

    Args:
      what: takes the time; begins the message.
      steps: how many there are.
      say: shows one line.
      clock: returns seconds.
    """

    def __init__(self, what: str, steps: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._what, self._steps, self._say, self._clock = what, steps, say, clock
        self._done, self._since = 0, math.nan

    def step(self) -> None:
        """Call it after every step."""
        self._done += 1
        if self._done == 1:
            self._since = self._clock()
        elif self._done == 2:
            seconds = self._clock() - self._since
            if seconds * (self._steps - 2) >= _LONG_S:
                length = duration(seconds * (self._steps - 2))
                self._say(f"{self._what}: about {length}, {self._steps:,} queries of {seconds:.2g} s each")
