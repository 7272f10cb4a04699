"""Tolerant reader of run directories: a missing file gives None or an empty value, an unreadable one a note."""

from __future__ import annotations

import base64
import bisect
import json
from pathlib import Path
from typing import Any, NamedTuple

from covr_jax.config import GUIDED
from covr_jax.io.metrics import read_metrics

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
LARGEST = 1e300  # the width of an axis beyond it would overflow
MAX_VIDEO_BYTES = 64 * 2**20  # a page of this size still opens


class ReportError(ValueError):
    """A report, table or plot cannot be made; the message is one line."""


class Round(NamedTuple):
    """One fine-tuning round; round 0 is the VLM before any tuning."""

    number: int
    record: dict[str, Any]
    samples: list[dict[str, Any]]  # as samples.json has them; ``frame`` is a data URI or None

    def value(self, name: str) -> float | None:
        """A number of the round's record; None where it is missing or no number."""
        return number(self.record.get(name))


class Run(NamedTuple):
    """A run directory in memory."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]  # metrics.jsonl
    all_rounds: list[Round]  # 0 where it was recorded, 1, 2, ...
    result: dict[str, Any]
    diverged: dict[str, Any]  # where and why the run left the finite numbers; empty if it did not
    video: str | None  # data URI
    notes: list[str]  # what could not be read

    @property
    def end(self) -> float:
        """The last env step in the metrics."""
        return max((row["env_steps"] for row in self.rows), default=0)

    @property
    def random_return(self) -> float | None:
        """Mean return of the random policy: the result's, or else the metrics'."""
        found = number(self.result.get("random_return"))
        return self.last("eval/random_return") if found is None else found

    @property
    def rounds(self) -> list[Round]:
        """The rounds that tuned the VLM."""
        return [r for r in self.all_rounds if r.number > 0]

    def policy_return_at(self, env_steps: float | None) -> float | None:
        """The last evaluation at or before ``env_steps``; None where there is none."""
        x, y = self.curve("eval/episode_return")
        i = bisect.bisect_right(x, env_steps) if env_steps is not None else 0
        return y[i - 1] if i else None

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Env steps and values of a metric, without the rows that lack it."""
        points = [(row["env_steps"], number(row.get(name))) for row in self.rows]
        return [x for x, y in points if y is not None], [y for _, y in points if y is not None]

    def last(self, name: str) -> float | None:
        """The value of a metric in the last row that has it; None where there is none, or that one is no number."""
        return next((number(row[name]) for row in reversed(self.rows) if name in row), None)

    def guided(self) -> list[tuple[float, float]]:
        """Intervals of env steps in which the VLM's actions guided the policy."""
        edges = [r.value("env_steps") or 0.0 for r in self.all_rounds] + [float(self.end)]
        spans: list[tuple[float, float]] = []
        for r, a, b in zip(self.all_rounds, edges, edges[1:], strict=False):
            if r.record.get("guidance") and b > a:
                joined = spans and spans[-1][1] == a
                spans.append((spans.pop()[0] if joined else a, b))
        return spans


def simulator(config: dict[str, Any]) -> str | None:
    """The simulator of a CARLA task: ``loopback`` or a real server's address; None for other tasks."""
    carla = config.get("carla") if str(config.get("task", "")).startswith("carla_") else None
    return str(carla.get("endpoint", "unknown")) if isinstance(carla, dict) else None


def shown_method(method: Any) -> str:
    """The displayed name of a config's method. Our reading of an unpublished paper does not take that paper's name."""
    return "DGC-like" if method == "dgc_like" else str(method)


def method_name(config: dict[str, Any]) -> str:
    """The name of a run beside others: the method, its base if that is not RAD, its renderer if that is not jax.

    Images of another renderer or simulator make another task. ``names.disambiguate`` adds what else differs.
    """
    name = shown_method(config.get("method", "unknown"))
    base = config.get("base", "rad")
    if name in GUIDED and base != "rad":
        name += f" on {base}"
    renderer = simulator(config) or str(config.get("renderer", "unknown"))
    return name if renderer in ("jax", "unknown") else f"{name} ({renderer})"


def number(value: Any) -> float | None:
    """Returns ``value`` as a float if it is a number of at most ``LARGEST``, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LARGEST else None  # False for NaN


def numbers(values: Any) -> list[float]:
    """Returns the numbers of a list; an empty list for anything else."""
    found = [number(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None]


def _read_json(path: Path, kind: type, notes: list[str]) -> Any:
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        notes.append(f"{path.name} in {path.parent.name}/ could not be read: {error}")
        return kind()
    if not isinstance(value, kind):
        notes.append(f"{path.name} in {path.parent.name}/ is not a JSON {'object' if kind is dict else 'list'}")
        return kind()
    return value


def _frame(folder: Path, name: Any) -> str | None:
    """Returns a PNG of this folder as a data URI. Names that lead out of it give None, since reports are shared."""
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        data = path.read_bytes() if inside else b""
    except (TypeError, ValueError, OSError, RuntimeError):  # no text, a null byte, a name too long, a circle of links
        return None
    return _data_uri("image/png", data) if data.startswith(PNG_MAGIC) else None


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _rounds(folder: Path, notes: list[str]) -> list[Round]:
    rounds = []
    for path in folder.glob("round_*"):
        label = path.name.removeprefix("round_")
        if not label.isdecimal() or not path.is_dir():
            continue
        record = _read_json(path / "record.json", dict, notes)
        samples = [s for s in _read_json(path / "samples.json", list, notes) if isinstance(s, dict)]
        samples = [{**sample, "frame": _frame(path, sample.get("frame"))} for sample in samples]
        if record or samples:
            rounds.append(Round(int(label), record, samples))
    return sorted(rounds)


def _video(path: Path, notes: list[str]) -> str | None:
    if not path.is_file():
        return None
    size = path.stat().st_size
    if not 0 < size <= MAX_VIDEO_BYTES:
        notes.append(f"{path.name} of {size} bytes is not shown, the limit is {MAX_VIDEO_BYTES}")
        return None
    return _data_uri("video/mp4", path.read_bytes())


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """Reads the options of a run; an empty dict if they cannot be read."""
    return _read_json(Path(run_dir) / "config.json", dict, [])


def read_result_facts(run_dir: str | Path) -> dict[str, Any]:
    """Reads all that result.json says, its command too (``io.run_dir.read_result``: the numbers); {} without one."""
    return _read_json(Path(run_dir) / "result.json", dict, [])


def read_run(run_dir: str | Path) -> Run:
    """Reads a run directory.

    Raises:
      ReportError: the directory or its ``metrics.jsonl`` is missing, or a row of it cannot be read.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such run directory")
    try:
        rows = read_metrics(folder / "metrics.jsonl")
    except FileNotFoundError:
        raise ReportError(f"{folder}: no metrics.jsonl, so this is no run directory or nothing ran yet") from None
    except (ValueError, OSError) as error:
        raise ReportError(str(error)) from None
    notes: list[str] = []
    return Run(
        folder=folder,
        config=_read_json(folder / "config.json", dict, notes),
        rows=rows,
        all_rounds=_rounds(folder / "vlm", notes),
        result=_read_json(folder / "result.json", dict, notes),
        diverged=_read_json(folder / "diverged.json", dict, notes),
        video=_video(folder / "videos" / "final.mp4", notes),
        notes=notes,
    )
