"""Records the answers of a service to a file and plays the file back as a service, to repeat a run without its model.

The file has one JSON object per line. The first one is ``{"facts": ModelInfo}``. The others hold what the training loop
received, and in ``taken`` the step of the replay at which it did:

  answer    a result of ``poll``; its ``time`` is the query step
  outcome   a result of ``poll_finetune``
  query     a result of ``query``
  busy      no round of fine-tuning could be submitted at this step
  resumed   the run went on from a checkpoint of this step, so that entries taken later are void (no ``taken``)
"""

from __future__ import annotations

import json
import os
import zlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covr_jax.types import Prior
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

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Frames

_MARKER = "replayed.json"  # takes the place of the adapter in checkpoints


class RecordingService:
    """Records what another service returns. The recorded step is that of the last ``poll``.

    Args:
      service: is recorded.
      path: file to write, or to append to after ``restore``.
    """

    def __init__(self, service: PriorService, path: Path):
        self._service, self._path, self._step = service, Path(path), 0
        self._digests: dict[int, int] = {}  # of the frames, by query step
        self.model_info, self.counters = service.model_info, service.counters
        self.submit_finetune, self.save_adapter = service.submit_finetune, service.save_adapter
        self.metrics, self.close = service.metrics, service.close
        self._continues = not self._path.exists()  # else: the run goes on from a checkpoint, or starts anew
        if self._continues:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(facts=self.model_info._asdict())
        else:
            _drop_torn_line(self._path)

    @property
    def fault(self) -> str:
        """See ``PriorService``."""
        return self._service.fault

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        ready = self._service.ready
        if not ready:
            self._write(taken=self._step, busy=True)
        return ready

    def submit(self, query_step: int, frames: Frames) -> bool:
        """See ``PriorService``."""
        self._digests[query_step] = digest(frames)
        return self._service.submit(query_step, frames)

    def poll(self, step: int) -> list[Answer]:
        """See ``PriorService``."""
        self._step = step
        answers = self._service.poll(step)
        for query_step, prior, version in answers:
            query = {"time": query_step, "digest": self._digests[query_step], "version": version}
            self._write(taken=step, answer=query | _to_json(prior))
        if answers:
            self._digests = {s: d for s, d in self._digests.items() if s > answers[-1].query_step}
        return answers

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        result = self._service.poll_finetune(report, wait=wait)
        if result is not None:
            self._write(taken=self._step, outcome=result._asdict())
        return result

    def query(self, frames: Frames) -> Prior:
        """See ``PriorService``."""
        prior = self._service.query(frames)
        self._write(taken=self._step, query={"digest": digest(frames)} | _to_json(prior))
        return prior

    def restore(self, directory: Path, counters: dict[str, float], step: int) -> None:
        """See ``PriorService``."""
        self._service.restore(directory, counters, step)
        self._step, self._continues = step, True
        self._write(resumed=step)

    def _write(self, **entry: Any) -> None:
        if not self._continues:
            self._continues = True
            self._write(resumed=-1)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


class PlaybackService:
    """Plays a recording back. Frames other than the recorded ones get no answer and are counted as ``missed``.

    Args:
      path: the recording.

    Raises:
      PriorError: if the file cannot be read.
    """

    fault = ""

    def __init__(self, path: Path):
        self.model_info, entries = read_recording(Path(path))
        self._entries, self._step, self._finetuning = entries, 0, False
        self._digests: dict[int, int] = {}  # of the frames, by query step
        self.counters: dict[str, float] = dict.fromkeys(
            ("queries", "frames", "parse_failures", "latency_s", "query_s", "rounds", "missed"), 0
        )
        self._rewind(-1)

    def _rewind(self, after: int) -> None:
        """Fills one queue per kind of entry with what was taken later than step ``after``."""
        later = [entry for entry in self._entries if entry["taken"] > after]
        pick = lambda kind: deque((entry["taken"], entry[kind]) for entry in later if kind in entry)  # noqa: E731
        self._answers, self._results, self._priors = pick("answer"), pick("outcome"), pick("query")
        self._busy = {entry["taken"] for entry in later if "busy" in entry}

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        return not self._finetuning and self._step not in self._busy

    def submit(self, query_step: int, frames: Frames) -> bool:
        """See ``PriorService``. Recordings do not tell which queries were dropped: they get no answer."""
        self._digests[query_step] = digest(frames)
        return True

    def poll(self, step: int) -> list[Answer]:
        """See ``PriorService``."""
        self._step, answers = step, []
        while self._answers and self._answers[0][0] <= step:
            _, answer = self._answers.popleft()
            if self._digests.pop(answer["time"], None) != answer["digest"]:
                self.counters["missed"] += 1
                continue
            answers.append(Answer(answer["time"], self._count(answer), answer["version"]))
        return answers

    def submit_finetune(self, batch: FinetuneBatch) -> None:
        """See ``PriorService``."""
        del batch
        self._finetuning = True

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        del report
        if not self._finetuning or not (wait or (self._results and self._results[0][0] <= self._step)):
            return None
        self._finetuning = False
        if not self._results:
            return FinetuneResult({}, "the recording ends before this round does")
        _, result = self._results.popleft()
        self.counters["rounds"] += not result["error"]
        return FinetuneResult(**result)

    def query(self, frames: Frames) -> Prior:
        """See ``PriorService``."""
        if not self._priors:
            raise PriorError("the recording holds no further answers")
        _, entry = self._priors.popleft()
        if entry.get("digest", digest(frames)) != digest(frames):  # older recordings have none
            self.counters["missed"] += 1
            raise PriorError("the recording holds answers to other frames")
        return self._count(entry)

    def _count(self, entry: dict[str, Any]) -> Prior:
        """Counts an entry and returns its prior."""
        prior = Prior(np.asarray(entry["action"], np.float32), np.asarray(entry["valid"], bool))
        prior = prior._replace(action=prior.action.reshape(len(prior.valid), -1))
        self.counters["queries"] += 1
        self.counters["frames"] += len(prior.valid)
        self.counters["parse_failures"] += int((~prior.valid).sum())
        return prior

    def save_adapter(self, directory: Path) -> None:
        """See ``PriorService``."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / _MARKER).write_text(json.dumps({"taken": self._step}))

    def restore(self, directory: Path, counters: dict[str, float], step: int) -> None:
        """See ``PriorService``."""
        if not (Path(directory) / _MARKER).exists():
            raise PriorError(f"{directory} holds an adapter, not the place in a recording")
        self.counters.update(counters)
        self._step = step
        self._rewind(step)

    def metrics(self) -> dict[str, float]:
        """See ``PriorService``."""
        return query_metrics(self.counters) | {"vlm/missed": self.counters["missed"]}

    def close(self) -> None:
        """See ``PriorService``."""


def digest(frames: Frames) -> int:
    """Returns a checksum of frames u8[N,H,W,C]."""
    return zlib.crc32(np.ascontiguousarray(frames).tobytes())


def _to_json(prior: Prior) -> dict[str, Any]:
    return {"action": np.asarray(prior.action).tolist(), "valid": np.asarray(prior.valid).tolist()}


def _drop_torn_line(path: Path) -> None:
    """Removes a last line that a killed process did not complete."""
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)


def read_recording(path: Path) -> tuple[ModelInfo, list[dict[str, Any]]]:
    """Returns the description of the VLM and the valid entries of a recording.

    Raises:
      PriorError: if the file cannot be read.
    """
    entries: list[dict[str, Any]] = []
    try:
        lines = path.read_text().splitlines(keepends=True)
        info = ModelInfo(**json.loads(lines[0])["facts"])
        whole = [line for line in lines[1:] if line.endswith("\n")]  # a killed process may leave an incomplete line
        for entry in map(json.loads, whole):
            if "resumed" in entry:
                entries = [earlier for earlier in entries if earlier["taken"] <= entry["resumed"]]
            else:
                entries.append(entry)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PriorError(f"cannot read the recording {path}: {type(error).__name__}: {error}") from error
    return info, entries
