"""What a run directory holds, read with patience: a missing piece is None or empty, an unreadable one is a note."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from covr_jax.config import GUIDED
from covr_jax.io.metrics import read_metrics

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_VIDEO_BYTES = 64 * 2**20  # a page of this size still opens


class ReportError(ValueError):
    """No report can be made of this directory; the message is one line."""


class Round(NamedTuple):
    """One fine-tuning round; number 0 is the VLM before any tuning."""

    number: int
    record: dict[str, Any]
    samples: list[dict[str, Any]]  # as samples.json has them; ``frame`` is a data URI or None

    def value(self, name: str) -> float | None:
        """A number of the round's record; None where it has none."""
        return number(self.record.get(name))


class Run(NamedTuple):
    """A run directory in memory."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]  # metrics.jsonl
    before: Round | None  # round 0
    rounds: list[Round]  # 1, 2, ...
    result: dict[str, Any]
    video: str | None  # data URI
    notes: list[str]  # what could not be read

    @property
    def end(self) -> float:
        """Last env step seen."""
        return max((row["env_steps"] for row in self.rows), default=0)

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """X and y of a metric, without the rows that lack it."""
        points = [(row["env_steps"], number(row.get(name))) for row in self.rows]
        return [x for x, y in points if y is not None], [y for _, y in points if y is not None]

    def last(self, name: str) -> float | None:
        """The newest value of a curve; None where it has none."""
        y = self.curve(name)[1]
        return y[-1] if y else None

    def guided(self) -> list[tuple[float, float]]:
        """Stretches of env steps in which the VLM's actions guided the policy."""
        known = [r for r in (self.before, *self.rounds) if r is not None]
        edges = [r.value("env_steps") or 0.0 for r in known] + [float(self.end)]
        spans: list[tuple[float, float]] = []
        for r, a, b in zip(known, edges, edges[1:], strict=False):
            if r.record.get("guidance") and b > a:
                joined = spans and spans[-1][1] == a
                spans.append((spans.pop()[0] if joined else a, b))
        return spans


def simulator(config: dict[str, Any]) -> str | None:
    """What simulated a CARLA task: ``loopback``, or a real server's address; None for other tasks."""
    carla = config.get("carla") if str(config.get("task", "")).startswith("carla_") else None
    return str(carla.get("endpoint", "unknown")) if isinstance(carla, dict) else None


def shown_method(method: Any) -> str:
    """A config's method as it is shown: what reads a paper that is not public does not go by the paper's name."""
    return "DGC-like" if method == "dgc_like" else str(method)


def method_name(config: dict[str, Any]) -> str:
    """What a run is called beside others: the method, its base where that is not RAD, and whose pictures it saw.

    Pictures of another renderer or simulator are another task. ``names.disambiguate`` adds what else differs.
    """
    name = shown_method(config.get("method", "unknown"))
    base = config.get("base", "rad")
    if name in GUIDED and base != "rad":
        name += f" on {base}"
    pictures = simulator(config) or str(config.get("renderer", "unknown"))
    return name if pictures in ("jax", "unknown") else f"{name} ({pictures})"


def number(value: Any) -> float | None:
    """A finite float, or None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def numbers(values: Any) -> list[float]:
    """The finite numbers of a list; empty for what is no list."""
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
    """A PNG of this very folder as a data URI. A name that leads out of it is refused: reports get passed on."""
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    data = path.read_bytes()
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
    """The options of a run; empty where they cannot be read."""
    return _read_json(Path(run_dir) / "config.json", dict, [])


def read_run(run_dir: str | Path) -> Run:
    """Reads a run directory.

    Raises:
      ReportError: no directory, no ``metrics.jsonl``, or one with a row that cannot be read.
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
    rounds = _rounds(folder / "vlm", notes)
    return Run(
        folder=folder,
        config=_read_json(folder / "config.json", dict, notes),
        rows=rows,
        before=next((r for r in rounds if r.number == 0), None),
        rounds=[r for r in rounds if r.number > 0],
        result=_read_json(folder / "result.json", dict, notes),
        video=_video(folder / "videos" / "final.mp4", notes),
        notes=notes,
    )
