"""The service modes: ``sync`` (here), ``async`` and ``process`` (``supervise``), a recording and its replay."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from covr_jax.config import MAP_METHODS, WITH_VLM, Config, ConfigError
from covr_jax.types import Array
from covr_jax.vlm import finetune_round
from covr_jax.vlm.serving.protocol import (
    Answer,
    Engine,
    FinetuneBatch,
    FinetuneResult,
    PriorService,
    Report,
    model_info,
    query_metrics,
)
from covr_jax.vlm.serving.recording import PlaybackService, RecordingService
from covr_jax.vlm.serving.server import Build
from covr_jax.vlm.serving.supervise import RetryPolicy, SupervisedService
from covr_jax.vlm.serving.worker import ProcessWorker, ThreadWorker

Mode = Literal["sync", "async", "process"]


class SyncService:
    """The reference: every call returns when it is done, and an error is the caller's."""

    def __init__(self, engine: Engine):
        self.engine, self.model_info, self.counters = engine, model_info(engine), engine.counters
        self.query, self.save_adapter = engine.query, engine.save_adapter
        self._answers: list[Answer] = []
        self._lesson: FinetuneBatch | None = None
        self._version = 0

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        return self._lesson is None

    def submit(self, time: int, frames: Array) -> None:
        """See ``PriorService``."""
        self._answers.append(Answer(time, self.engine.query(frames), self._version))

    def poll(self, time: int) -> list[Answer]:
        """See ``PriorService``."""
        del time
        found, self._answers = self._answers, []
        return [answer for answer in found if answer.version == self._version]

    def submit_finetune(self, lesson: FinetuneBatch) -> None:
        """See ``PriorService``."""
        self._lesson = lesson

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        del wait
        lesson, self._lesson = self._lesson, None
        if lesson is None:
            return None
        record = finetune_round.run_finetune_round(self.engine, lesson, report)
        self._version += 1
        return FinetuneResult(record)

    def restore(self, directory: Path, counters: dict[str, float], time: int) -> None:
        """See ``PriorService``."""
        del time
        self.engine.load_adapter(directory)
        self.counters.update(counters)

    def metrics(self) -> dict[str, float]:
        """See ``PriorService``."""
        return query_metrics(self.counters)

    def close(self) -> None:
        """See ``PriorService``."""


def build_engine(name: str, task: str, action_dim: int, options: dict[str, Any]) -> Engine:
    """The engine of a name: 'fake', or what ``VLMEngine`` knows. Torch is imported here and not before.

    Raises:
      RuntimeError, ValueError: as ``VLMEngine``.
    """
    if name == "fake":
        from covr_jax.vlm.serving.fake import FakeVLM

        return FakeVLM(action_dim)
    from covr_jax.vlm.engine import VLMEngine

    return VLMEngine(name, task, action_dim, **options)


def build_mapper(name: str, task: str, answer_dim: int, options: dict[str, Any]) -> Engine:
    """The engine that answers with maps.

    Raises:
      RuntimeError, ValueError: as ``MapVLM``.
    """
    from covr_jax.vlm.map_engine import MapVLM

    return MapVLM(name, task, answer_dim, **options)


def make_service(
    build: Build,
    mode: Mode,
    store: Path,
    limits: RetryPolicy,
    *,
    record: Path | None = None,
    replay: Path | None = None,
) -> PriorService:
    """The service of a mode.

    Args:
      build: makes the engine; for 'process' it must be picklable.
      store: directory of the worker's adapters.
      record: file to write every answer to. replay: such a file, played back instead of any engine.

    Raises:
      PriorError: the recording cannot be read, or the worker cannot start. RuntimeError, ValueError: from ``build``.
    """
    if replay is not None:
        return PlaybackService(replay)
    if mode == "sync":
        service: PriorService = SyncService(build())
    else:
        service = SupervisedService(partial(ThreadWorker if mode == "async" else ProcessWorker, build), store, limits)
    return service if record is None else RecordingService(service, record)


def make_vlm(config: Config, answer_dim: int, run_dir: Path) -> PriorService | None:
    """The VLM of a run; None for methods without one. ``answer_dim``: A, or the cells of a map.

    Raises:
      ConfigError: a VLM that cannot be loaded, or options that do not fit it.
    """
    if config.method not in WITH_VLM:
        return None
    vlm = config.vlm
    given = {
        "learning_rate": vlm.learning_rate,
        "batch_size": vlm.batch_size,
        "micro_batch": vlm.micro_batch,
        "warmup": vlm.warmup,
        "checkpointing": vlm.checkpointing,
        "label_smoothing": vlm.label_smoothing,
        "steps": vlm.steps,
    }
    options = {name: getattr(vlm, name) for name in ("image_size", "dtype", "device", "gpu_share")}
    tuned = {
        "seed": config.seed,
        "frames": vlm.frames,
        "decoding": vlm.decoding,
        "rank": vlm.lora_rank,
        "alpha": vlm.lora_alpha,
        "dropout": vlm.lora_dropout,
        "targets": vlm.lora_targets,
        "merge": False if config.method == "vpf" else None,  # each of its updates must be seen at once
        "finetune_options": {name: value for name, value in given.items() if value is not None},
    }
    mapped = config.method in MAP_METHODS
    build = partial(build_mapper if mapped else build_engine, vlm.name, config.task, answer_dim)
    try:
        return make_service(
            partial(build, options if mapped else options | tuned),
            vlm.mode,
            run_dir / "vlm" / "adapters",
            RetryPolicy(vlm.deadline_s, vlm.hang_s, vlm.restarts),
            record=run_dir / "vlm" / "answers.jsonl" if vlm.record else None,
            replay=None if vlm.replay is None else Path(vlm.replay),
        )
    except (RuntimeError, ValueError) as error:  # VLMLoadError among them, without importing Torch
        raise ConfigError(str(error)) from error
