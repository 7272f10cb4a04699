"""A service's answers in a file, and the file as a service: a run repeated without its model.

One JSON object per line: ``model_info`` first; then, each with the time it was ``taken`` by the loop, answers, lessons'
outcomes, what ``query`` returned, and the times at which no lesson could be handed over; ``resumed`` when the run went
on from a checkpoint, which makes void what was taken after it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from covr_jax.types import Array, Prior
from covr_jax.vlm.serving.protocol import (
    Answer,
    FinetuneBatch,
    FinetuneResult,
    ModelInfo,
    PriorError,
    PriorService,
    Report,
    query_metrics,
)

_MARKER = "replayed.json"  # stands in checkpoints where an adapter would


class RecordingService:
    """A service that writes down what another one gives; the times are those of the last ``poll``."""

    def __init__(self, service: PriorService, path: Path):
        self._service, self._path, self._now = service, Path(path), 0
        self._digests: dict[int, int] = {}
        self.model_info, self.counters = service.model_info, service.counters
        self.submit_finetune, self.save_adapter = service.submit_finetune, service.save_adapter
        self.metrics, self.close = service.metrics, service.close
        self._continues = not self._path.exists()  # else: from a checkpoint, or all over again
        if self._continues:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(facts=self.model_info._asdict())
        else:
            _drop_torn_line(self._path)

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        ready = self._service.ready
        if not ready:
            self._write(taken=self._now, busy=True)
        return ready

    def submit(self, time: int, frames: Array) -> None:
        """See ``PriorService``."""
        self._digests[time] = digest(frames)
        self._service.submit(time, frames)

    def poll(self, time: int) -> list[Answer]:
        """See ``PriorService``."""
        self._now = time
        found = self._service.poll(time)
        for answer in found:
            asked = {"time": answer.time, "digest": self._digests[answer.time], "version": answer.version}
            self._write(taken=time, answer=asked | _plain(answer.prior))
        if found:
            self._digests = {t: d for t, d in self._digests.items() if t > found[-1].time}
        return found

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        outcome = self._service.poll_finetune(report, wait=wait)
        if outcome is not None:
            self._write(taken=self._now, outcome=outcome._asdict())
        return outcome

    def query(self, frames: Array) -> Prior:
        """See ``PriorService``."""
        prior = self._service.query(frames)
        self._write(taken=self._now, query={"digest": digest(frames)} | _plain(prior))
        return prior

    def restore(self, directory: Path, counters: dict[str, float], time: int) -> None:
        """See ``PriorService``."""
        self._service.restore(directory, counters, time)
        self._now, self._continues = time, True
        self._write(resumed=time)

    def _write(self, **entry: Any) -> None:
        if not self._continues:
            self._continues = True
            self._write(resumed=-1)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


class PlaybackService:
    """A recording as a service. Frames other than those recorded get no answer and count as ``missed``.

    Raises:
      PriorError: if the file cannot be read.
    """

    def __init__(self, path: Path):
        self.model_info, entries = _read(Path(path))
        self._entries, self._now, self._teaching = entries, 0, False
        self._digests: dict[int, int] = {}
        self.counters: dict[str, float] = dict.fromkeys(
            ("queries", "frames", "parse_failures", "latency_s", "query_s", "rounds", "missed"), 0
        )
        self._sort(-1)

    def _sort(self, after: int) -> None:
        """Queues per kind of what was taken later than ``after``."""
        later = [entry for entry in self._entries if entry["taken"] > after]
        pick = lambda kind: deque((entry["taken"], entry[kind]) for entry in later if kind in entry)  # noqa: E731
        self._answered, self._outcomes, self._queried = pick("answer"), pick("outcome"), pick("query")
        self._busy = {entry["taken"] for entry in later if "busy" in entry}

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        return not self._teaching and self._now not in self._busy

    def submit(self, time: int, frames: Array) -> None:
        """See ``PriorService``."""
        self._digests[time] = digest(frames)

    def poll(self, time: int) -> list[Answer]:
        """See ``PriorService``."""
        self._now, found = time, []
        while self._answered and self._answered[0][0] <= time:
            _, answer = self._answered.popleft()
            if self._digests.pop(answer["time"], None) != answer["digest"]:
                self.counters["missed"] += 1
                continue
            found.append(Answer(answer["time"], self._count(answer), answer["version"]))
        return found

    def submit_finetune(self, lesson: FinetuneBatch) -> None:
        """See ``PriorService``."""
        del lesson
        self._teaching = True

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        del report
        if not self._teaching or not (wait or (self._outcomes and self._outcomes[0][0] <= self._now)):
            return None
        self._teaching = False
        if not self._outcomes:
            return FinetuneResult({}, "the recording ends before this lesson does")
        _, outcome = self._outcomes.popleft()
        self.counters["rounds"] += not outcome["error"]
        return FinetuneResult(**outcome)

    def query(self, frames: Array) -> Prior:
        """See ``PriorService``."""
        if not self._queried:
            raise PriorError("the recording holds no further answers")
        _, entry = self._queried.popleft()
        if entry.get("digest", digest(frames)) != digest(frames):  # older recordings have none
            self.counters["missed"] += 1
            raise PriorError("the recording holds answers to other frames")
        return self._count(entry)

    def _count(self, entry: dict[str, Any]) -> Prior:
        prior = Prior(np.asarray(entry["action"], np.float32), np.asarray(entry["valid"], bool))
        prior = prior._replace(action=prior.action.reshape(len(prior.valid), -1))
        self.counters["queries"] += 1
        self.counters["frames"] += len(prior.valid)
        self.counters["parse_failures"] += int((~prior.valid).sum())
        return prior

    def save_adapter(self, directory: Path) -> None:
        """See ``PriorService``."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / _MARKER).write_text(json.dumps({"taken": self._now}))

    def restore(self, directory: Path, counters: dict[str, float], time: int) -> None:
        """See ``PriorService``."""
        if not (Path(directory) / _MARKER).exists():
            raise PriorError(f"{directory} holds an adapter, not the place in a recording")
        self.counters.update(counters)
        self._now = time
        self._sort(time)

    def metrics(self) -> dict[str, float]:
        """See ``PriorService``."""
        return query_metrics(self.counters) | {"vlm/missed": self.counters["missed"]}

    def close(self) -> None:
        """See ``PriorService``."""


def digest(frames: Array) -> int:
    """Tells frames apart."""
    return zlib.crc32(np.ascontiguousarray(frames).tobytes())


def _plain(prior: Prior) -> dict[str, Any]:
    return {"action": np.asarray(prior.action).tolist(), "valid": np.asarray(prior.valid).tolist()}


def _drop_torn_line(path: Path) -> None:
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)


def _read(path: Path) -> tuple[ModelInfo, list[dict[str, Any]]]:
    entries: list[dict[str, Any]] = []
    try:
        lines = path.read_text().splitlines(keepends=True)
        facts = ModelInfo(**json.loads(lines[0])["facts"])
        whole = [line for line in lines[1:] if line.endswith("\n")]  # a kill leaves half a line
        for entry in map(json.loads, whole):
            if "resumed" in entry:
                entries = [earlier for earlier in entries if earlier["taken"] <= entry["resumed"]]
            else:
                entries.append(entry)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PriorError(f"cannot read the recording {path}: {type(error).__name__}: {error}") from error
    return facts, entries
