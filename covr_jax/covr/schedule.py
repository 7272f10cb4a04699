"""When COVR fine-tunes: the progressive interval psi_c and the cold-start gate. Host integers, no arrays."""

from __future__ import annotations

import math

KINDS = ("linear", "recursive")


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not float(value).is_integer() or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


def interval(round: int, psi_0: int, kind: str = "linear") -> int:
    """psi_{c+1} = psi_0 (1 + c): env steps between fine-tuning round c (0: the start of training) and the next.

    The paper prints psi_{c+1} = psi_c + psi_c c and says that the interval grows linearly. ``linear`` takes the text,
    and alone gives the five rounds in 100K steps that its tables count; ``recursive`` takes the formula, which from
    psi_1 = psi_0 is psi_0 (c+1)!. Env steps (agent steps times the action repeat), as the budgets of the tables.

    Args:
      round: c >= 0, rounds done so far.
      psi_0: first interval in env steps, >= 1.
      kind: ``linear`` or ``recursive``.

    Returns:
      Env steps, >= psi_0: so the first round is never at step 0.

    Raises:
      ValueError: unknown kind, psi_0 < 1, round < 0.
    """
    _check_count("psi_0", psi_0, 1)
    _check_count("round", round, 0)
    if kind == "linear":
        return int(psi_0) * (1 + int(round))
    if kind == "recursive":
        return int(psi_0) * math.factorial(int(round) + 1)
    raise ValueError(f"unknown schedule {kind!r}, expected one of {', '.join(KINDS)}")


def round_steps(psi_0: int, total_steps: int, kind: str = "linear") -> list[int]:
    """t_c = psi_1 + ... + psi_c: the env steps at which rounds 1, 2, ... fall due within a run.

    Algorithm 1 of the paper tests ft mod psi = 0 and so would fire at ft = 0, with an empty D_f; sums of intervals
    start at psi_0 instead. psi_0 = 5000 in 100K steps gives 5000, 15000, 30000, 50000, 75000.

    Args:
      psi_0: first interval in env steps, >= 1.
      total_steps: length of the run in env steps, >= 0; a round due exactly at the end is included.
      kind: see ``interval``.

    Returns:
      Rising env steps, empty for a run shorter than psi_0.

    Raises:
      ValueError: as ``interval``, or total_steps < 0.
    """
    _check_count("total_steps", total_steps, 0)
    steps, due = [], interval(0, psi_0, kind)
    while due <= total_steps:
        steps.append(due)
        due += interval(len(steps), psi_0, kind)
    return steps


def gate_open(tuned_rounds: int, cold_start_rounds: int) -> bool:
    """Rounds that tuned the VLM >= cold-start rounds: whether a_v may guide (2 in CARLA, 4 in DMControl, 0 at once).

    Raises:
      ValueError: a negative count.
    """
    _check_count("tuned_rounds", tuned_rounds, 0)
    _check_count("cold_start_rounds", cold_start_rounds, 0)
    return tuned_rounds >= cold_start_rounds
