"""The run asks its VLM about frames, and keeps the answers with the frames that they belong to."""

from __future__ import annotations

from typing import Any

from covr_jax.training import query_selection
from covr_jax.training.programs import Programs
from covr_jax.training.state import TrainState
from covr_jax.vlm.serving.protocol import PriorService


class QueryManager:
    """Questions that are on their way, and counts of what was asked.

    Attributes:
      asked: frames that the VLM was asked about.
      skipped: candidates that it was not, because the policy was certain enough.
    """

    def __init__(self, programs: Programs, vlm: PriorService, asked: int = 0, skipped: int = 0):
        self.asked, self.skipped = asked, skipped
        self._programs, self._vlm = programs, vlm
        self._places: dict[int, Any] = {}  # of the frames asked about, by the time of asking

    def step(self, state: TrainState, *, ask: bool) -> TrainState:
        """After a chunk: hand its frames over if told to, and store what has been answered by now."""
        now, total = int(state.replay.count), self._programs.candidates
        if ask:
            frames, places = self._programs.questions(state)
            dropped = self._vlm.counters.get("dropped", 0)
            self._vlm.submit(now, frames)
            if self._vlm.counters.get("dropped", 0) == dropped:
                self._places[now] = places
                self.asked, self.skipped = self.asked + len(frames), self.skipped + total - len(frames)
        answers = self._vlm.poll(now)
        for asked, prior, _ in answers:
            prior = query_selection.scatter_priors(prior, self._places[asked], self._programs.env.num_envs, total)
            state = self._programs.attach(state, prior, asked)
        if answers:  # what was asked before the newest of them has been dropped or lost
            self._places = {time: place for time, place in self._places.items() if time > answers[-1].time}
        return state

    @property
    def waiting(self) -> list[int]:
        """When the questions were asked whose answers are still to come, in slots written by then."""
        return sorted(self._places)
