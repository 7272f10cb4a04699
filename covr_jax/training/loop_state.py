"""What the host's training loops remember, small records that every checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

# Fields of a loop state in checkpoints of format 1, and what they are called now.
_RENAMED = {"asked": "frames_queried", "skipped": "frames_skipped"}

_NUMBERS = ("random_return", "best_return")  # that may be NaN


@dataclass
class LoopState:
    """What every loop remembers between its iterations."""

    evaluations: int = 0
    next_eval: int = 0  # env steps
    next_checkpoint: int = 0  # env steps
    seconds: float = 0.0  # wall-clock seconds of earlier processes of this run
    random_return: float = math.nan
    best_return: float = math.nan  # mean of the best evaluation so far; NaN before the first one
    metrics_bytes: int | None = None  # size of metrics.jsonl at the checkpoint; None in those of earlier versions
    vlm_counters: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """The loop state that a checkpoint of this or an earlier format holds; null stands for NaN."""
        named: dict[str, Any] = {_RENAMED.get(name, name): value for name, value in values.items()}
        named |= {name: math.nan for name in _NUMBERS if named.get(name) is None}
        return cls(**named)


@dataclass
class AgentLoopState(LoopState):
    """What the loop remembers between chunks."""

    rounds: int = 0  # complete COVR rounds
    tuned_rounds: int | None = None  # of them, those that tuned the VLM; None in checkpoints before 0.2.0: all
    data_start: list[int] = field(default_factory=list)  # first time slot of D_f, per env
    next_log: int = 0  # env steps
    frames_queried: int = 0
    frames_skipped: int = 0
    broken_episodes: int = 0
    own_start: int = 0  # time slot of the run's first step; before it the replay holds demonstrations
    policy_start: int | None = None  # time slot of the policy's first action; None: all actions so far are random

    def __post_init__(self) -> None:
        if self.tuned_rounds is None:
            self.tuned_rounds = self.rounds
