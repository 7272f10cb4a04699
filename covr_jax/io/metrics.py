"""The one logger: a JSON line per row in ``metrics.jsonl``, the same numbers to ``sinks``. Host code, no arrays kept.

A row is ``{"env_steps": int, "agent_steps": int, "updates": int, "wall_s": float, name: float or null, ...}``. Names
are ``group/name`` (``eval/episode_return``, ``losses/critic``, ``covr/tau``, ...); a row carries those it has.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covr_jax.io.sinks import Sink

FILE_NAME = "metrics.jsonl"
COUNTERS = ("env_steps", "agent_steps", "updates", "wall_s")


def _parse(text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of a file and the numbers (from 1) of the lines that are none."""
    rows, bad = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            whole = math.isfinite(row["env_steps"])  # a row without its x is none
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            whole = False
        rows.append(row) if whole else bad.append(number)
    return rows, bad


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, in the order written; null stays None.

    The last line may be torn: the run may be writing it now, or have died at it. It is left out.

    Raises:
      ValueError: any other line that is no row.
      OSError: no such file.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    rows, bad = _parse(text)
    if bad and bad != [len(text.rstrip("\n").split("\n"))]:
        raise ValueError(f"{path}, line {bad[0]}: not a row of metrics")
    return rows


def _cut(path: Path, last_env_steps: int, size: int | None) -> list[dict[str, Any]]:
    """Rewrites the file in one move, so that no torn row swallows the next.

    Args:
      path: of the file.
      last_env_steps: whole rows up to here stay.
      size: bytes that the file had when the checkpoint was written; what follows goes. None: not known.
    """
    data = path.read_bytes()
    if size is not None and len(data) < size:
        warnings.warn(f"{path} has lost {size - len(data):,} of {size:,} bytes: the history has a gap", stacklevel=3)
    text = data[:size].decode("utf-8", errors="replace")
    rows, bad = _parse(text)
    if bad and bad != [len(text.rstrip("\n").split("\n"))]:
        warnings.warn(f"{path}: dropped {len(bad)} lines that are no rows, the first is line {bad[0]}", stacklevel=3)
    kept = [row for row in rows if row["env_steps"] <= last_env_steps]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return kept


def _finite(name: str, value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"metric {name!r} is not a scalar: {value!r:.80}") from None
    return number if math.isfinite(number) else None


class MetricsLogger:
    """Appends rows to ``run_dir/metrics.jsonl`` and to sinks.

    Args:
      run_dir: made if missing.
      resume_env_steps: x of the checkpoint that the run resumes from. Rows after it are cut, since the run will write
        them again, a torn last line is repaired, and ``wall_s`` goes on from the last row. None is a new run; rows
        that stand in its way are set aside as ``metrics.jsonl.old``.
      resume_bytes: ``size`` when the checkpoint was written; rows after it are cut too. None: not known.
      sinks: take the same rows, but for what is not finite.
    """

    def __init__(
        self,
        run_dir: str | Path,
        resume_env_steps: int | None = None,
        resume_bytes: int | None = None,
        sinks: Sequence[Sink] = (),
    ):
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / FILE_NAME
        kept: list[dict[str, Any]] = []
        if path.exists():
            if resume_env_steps is None:
                path.replace(path.with_name(FILE_NAME + ".old"))
            else:
                kept = _cut(path, resume_env_steps, resume_bytes)
        elif resume_bytes:
            warnings.warn(f"{path} is gone: the run goes on without its history", stacklevel=3)
        already = float(kept[-1].get("wall_s") or 0.0) if kept else 0.0
        self._start = time.monotonic() - already
        self._file = path.open("a", encoding="utf-8", buffering=1)  # a row is whole or absent, short of a crash in it
        self._sinks = sinks

    def write(self, metrics: Mapping[str, Any], *, env_steps: int, agent_steps: int, updates: int) -> None:
        """Appends one row.

        Args:
          metrics: name -> scalar (float, NumPy or JAX); NaN and infinities are written as null.
          env_steps: agent steps x action repeat, the x of every curve.
          agent_steps: actions chosen, over all environments.
          updates: gradient updates of the critic.

        Raises:
          ValueError: a value that is no scalar, a name of a counter, or a closed logger.
        """
        taken = [name for name in metrics if name in COUNTERS]
        if taken:
            raise ValueError(f"metric {taken[0]!r} has the name of a counter")
        values = {name: _finite(name, value) for name, value in metrics.items()}
        counters = {"env_steps": int(env_steps), "agent_steps": int(agent_steps), "updates": int(updates)}
        wall = round(time.monotonic() - self._start, 3)
        self._file.write(json.dumps({**counters, "wall_s": wall, **values}, allow_nan=False) + "\n")
        finite = {name: value for name, value in values.items() if value is not None}
        for sink in self._sinks:
            sink.write({**counters, "wall_s": wall}, finite)

    @property
    def size(self) -> int:
        """Bytes of ``metrics.jsonl`` after ``flush``."""
        return os.fstat(self._file.fileno()).st_size

    def flush(self) -> None:
        """Forces everything to the disk; call it when a checkpoint is written, which a resume is measured by."""
        self._file.flush()
        os.fsync(self._file.fileno())
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Flushes and closes; a second call does nothing."""
        if not self._file.closed:
            self.flush()
            self._file.close()
            for sink in self._sinks:
                sink.close()

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class NoMetrics(MetricsLogger):
    """Takes rows and writes none: of several processes that train one run, the first one logs."""

    def __init__(self) -> None:
        """Opens nothing."""

    @property
    def size(self) -> int:
        """0: there is no file."""
        return 0

    def write(self, metrics: Mapping[str, Any], *, env_steps: int, agent_steps: int, updates: int) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
