"""Makes the service of a run, by its mode; recorded, or played back from a recording."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from covr_jax.config import MAP_METHODS, WITH_VLM, Config, ConfigError
from covr_jax.vlm import finetune_round
from covr_jax.vlm.gpu_share import torch_share
from covr_jax.vlm.serving.protocol import (
    Answer,
    Engine,
    FinetuneBatch,
    FinetuneResult,
    PriorError,
    PriorService,
    Report,
    model_info,
    query_metrics,
)
from covr_jax.vlm.serving.recording import PlaybackService, RecordingService
from covr_jax.vlm.serving.server import Build, WorkerSetup
from covr_jax.vlm.serving.supervise import RetryPolicy, SupervisedService
from covr_jax.vlm.serving.worker import ProcessWorker, ThreadWorker, Worker

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Frames

Mode = Literal["sync", "async", "process", "vllm", "ray"]


class SyncService:
    """Reference service: every call blocks until it is done, and errors are raised to the caller.

    Attributes:
      engine: answers and is fine-tuned.
    """

    fault = ""

    def __init__(self, engine: Engine):
        self.engine, self.model_info, self.counters = engine, model_info(engine), engine.counters
        self.query, self.save_adapter = engine.query, engine.save_adapter
        self._answers: list[Answer] = []
        self._batch: FinetuneBatch | None = None
        self._version = 0

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        return self._batch is None

    def submit(self, query_step: int, frames: Frames) -> bool:
        """See ``PriorService``."""
        self._answers.append(Answer(query_step, self.engine.query(frames), self._version))
        return True

    def poll(self, step: int) -> list[Answer]:
        """See ``PriorService``."""
        del step
        answers, self._answers = self._answers, []
        return [answer for answer in answers if answer.version == self._version]

    def submit_finetune(self, batch: FinetuneBatch) -> None:
        """See ``PriorService``."""
        self._batch = batch

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        del wait
        batch, self._batch = self._batch, None
        if batch is None:
            return None
        record = finetune_round.run_finetune_round(self.engine, batch, report)
        self._version += 1
        return FinetuneResult(record)

    def restore(self, directory: Path, counters: dict[str, float], step: int) -> None:
        """See ``PriorService``."""
        del step
        self.engine.load_adapter(directory)
        self.counters.update(counters)

    def metrics(self) -> dict[str, float]:
        """See ``PriorService``."""
        return query_metrics(self.counters)

    def close(self) -> None:
        """See ``PriorService``."""


def build_engine(name: str, task: str, action_dim: int, options: dict[str, Any]) -> Engine:
    """Makes an engine that answers with actions. Torch is imported here and not before.

    Args:
      name: 'fake', or a name of ``VLMEngine``.
      task: chooses the prompt.
      action_dim: A.
      options: further options of ``VLMEngine``.

    Raises:
      RuntimeError: if the model cannot be loaded (``VLMLoadError``).
      ValueError: for options that do not fit.
    """
    if name == "fake":
        from covr_jax.vlm.serving.fake import FakeVLM

        return FakeVLM(action_dim)
    from covr_jax.vlm.engine import VLMEngine

    return VLMEngine(name, task, action_dim, **options)


def build_mapper(name: str, task: str, answer_dim: int, options: dict[str, Any]) -> Engine:
    """Makes an engine that answers with maps.

    Args:
      name: a name of ``MapVLM``.
      task: chooses the texts.
      answer_dim: number of cells of a map.
      options: further options of ``MapVLM``.

    Raises:
      RuntimeError: if the model cannot be loaded (``VLMLoadError``).
      ValueError: for options that do not fit.
    """
    from covr_jax.vlm.map_engine import MapVLM

    return MapVLM(name, task, answer_dim, **options)


def build_served(build: Build, name: str, endpoint: str, patience_s: float, store: Path) -> Engine:
    """Makes an engine that is fine-tuned here and answers on a vLLM server; see ``vllm_engine.VLLMEngine``.

    Args:
      build: makes the engine that is fine-tuned.
      name: of its model.
      endpoint: address of the server.
      patience_s: longest silence of the server during a request.
      store: directory for the adapter that the server reads.

    Raises:
      PriorError: if the server cannot be used, or the package httpx2 is missing.
      RuntimeError: from ``build``.
      ValueError: from ``build``.
    """
    try:
        from covr_jax.vlm.serving.vllm_engine import VLLMEngine
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        raise PriorError("--vlm.mode vllm needs the package httpx2; pip install 'covr_jax[vllm]'") from error
    return cast(
        Any, VLLMEngine(cast(Any, build), name, endpoint, patience_s, store)
    )  # a property is no mutable attribute


def actor_of(build: Build, address: str | None, on_gpu: bool) -> Callable[[WorkerSetup], Worker]:
    """Returns what starts workers in a Ray actor; see ``ray_worker.RayActors``.

    Args:
      build: makes the engine; picklable.
      address: of the cluster; None: Ray is started on this machine.
      on_gpu: the actor takes a GPU where Ray has any.

    Raises:
      PriorError: if the cluster cannot be reached, or the package ray is missing.
    """
    try:
        from covr_jax.vlm.serving.ray_worker import RayActors
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise PriorError("--vlm.mode ray needs the package ray; pip install 'covr_jax[scale]'") from error
    return RayActors(build, address, on_gpu)


def make_service(
    build: Build,
    mode: Mode,
    store: Path,
    retry: RetryPolicy,
    *,
    record: Path | None = None,
    replay: Path | None = None,
    address: str | None = None,
    on_gpu: bool = False,
) -> PriorService:
    """Makes the service of a mode.

    Args:
      build: makes the engine; for 'process' and 'ray' it must be picklable.
      mode: 'sync', 'async', 'process', 'ray' or 'vllm', for which ``build`` is that of ``build_served``.
      store: directory for the worker's adapters.
      retry: time limits and number of restarts of the worker.
      record: file to record every answer to; None: no recording.
      replay: a recording to play back instead of running an engine; None: run one.
      address: of the cluster of mode 'ray'; None: Ray is started on this machine.
      on_gpu: in mode 'ray', the actor takes a GPU where Ray has any.

    Raises:
      PriorError: if the recording cannot be read, or the worker cannot start.
      RuntimeError: from ``build`` in mode 'sync'.
      ValueError: from ``build`` in mode 'sync'.
    """
    if replay is not None:
        return PlaybackService(replay)
    if mode == "sync":
        service: PriorService = SyncService(build())
    else:
        if mode == "ray":
            start = actor_of(build, address, on_gpu)
        else:
            start = partial(ProcessWorker if mode == "process" else ThreadWorker, build)
        service = SupervisedService(start, store, retry)
    return service if record is None else RecordingService(service, record)


def make_vlm(config: Config, answer_dim: int, run_dir: Path) -> PriorService | None:
    """Makes the VLM service of a run.

    Args:
      config: of the run.
      answer_dim: A, or the number of cells of a map.
      run_dir: directory of the run; adapters and recordings are kept in its ``vlm``.

    Returns:
      The service, or None for methods without a VLM.

    Raises:
      ConfigError: if the VLM cannot be loaded, or options do not fit it.
    """
    if config.method not in WITH_VLM:
        return None
    vlm = config.vlm
    finetune_options = {
        "learning_rate": vlm.learning_rate,
        "batch_size": vlm.batch_size,
        "micro_batch": vlm.micro_batch,
        "warmup": vlm.warmup,
        "checkpointing": vlm.checkpointing,
        "label_smoothing": vlm.label_smoothing,
        "steps": vlm.steps,
    }
    options: dict[str, Any] = {name: getattr(vlm, name) for name in ("image_size", "dtype", "device")}
    options["gpu_share"] = torch_share(config)
    engine_options = {
        "seed": config.seed,
        "frames": vlm.frames,
        "decoding": vlm.decoding,
        "rank": vlm.lora_rank,
        "alpha": vlm.lora_alpha,
        "dropout": vlm.lora_dropout,
        "targets": vlm.lora_targets,
        "adapter_dir": vlm.adapter,
        "merge": False if config.method == "vpf" else None,  # its adapter changes with every update
        "finetune_options": {name: value for name, value in finetune_options.items() if value is not None},
    }
    uses_maps = config.method in MAP_METHODS
    builder = build_mapper if uses_maps else build_engine
    build: Build = partial(
        builder, vlm.name, config.task, answer_dim, options if uses_maps else options | engine_options
    )
    if vlm.mode == "vllm":
        patience_s = vlm.hang_s / 2  # a server that hangs must be no hang of the worker, which may be in a round
        build = partial(build_served, build, vlm.name, str(vlm.endpoint), patience_s, run_dir / "vlm" / "served")
    try:
        return make_service(
            build,
            vlm.mode,
            run_dir / "vlm" / "adapters",
            RetryPolicy(vlm.deadline_s, vlm.hang_s, vlm.restarts),
            record=run_dir / "vlm" / "answers.jsonl" if vlm.record else None,
            replay=None if vlm.replay is None else Path(vlm.replay),
            address=vlm.endpoint if vlm.mode == "ray" else None,
            on_gpu=vlm.device != "cpu" and vlm.name != "fake",
        )
    except (RuntimeError, ValueError) as error:  # VLMLoadError is one; importing it would import Torch
        raise ConfigError(str(error)) from error
