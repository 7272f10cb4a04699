"""The learner's speed beside a VLM: without it, with queries in every mode, and with queries during fine-tuning."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from covr_jax import presets, runtime
from covr_jax.config import Config
from covr_jax.training.queries import QueryManager
from covr_jax.vlm.engine import VLMEngine
from covr_jax.vlm.serving.factory import make_service
from covr_jax.vlm.serving.protocol import FinetuneBatch, PriorService
from covr_jax.vlm.serving.supervise import RetryPolicy
from experiments.benchmark.vlm_contest import ACTION_DIM, make_vlm, random_frames

# Keeps one processor busy with almost no memory, to measure the cost of any neighbour on this machine.
SPIN = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"


class Beside:
    """The run's compiled chunks with a VLM that is queried after each one and, optionally, fine-tuned meanwhile.

    Args:
      programs: of the run.
      service: the VLM; None: none.
      batch: samples for a round of fine-tuning per turn; None: no fine-tuning.
      spinning: a processor to keep busy during a turn, instead of a VLM.
    """

    def __init__(
        self,
        programs: Any,
        service: PriorService | None,
        batch: FinetuneBatch | None = None,
        spinning: int | None = None,
    ):
        self._programs, self._service, self._batch, self._spinning = programs, service, batch, spinning
        self._queries = _make_queries(programs, service) if service else None
        self._state = programs.init()
        for _ in range(2):
            self._state = programs.chunk(self._state, learn=False).state
        self.outlasted = True  # so far, every round of fine-tuning was still running at the end of its turn

    def _chunk(self) -> None:
        """One chunk, as in ``training.loop`` once guidance is open."""
        self._state = self._programs.chunk(self._state, learn=True).state
        if self._queries:
            self._state = self._queries.step(self._state, query=True)

    def step(self, chunks: int) -> float:
        """Returns the seconds of some chunks. Fine-tuning starts before and is waited for afterwards, off the clock."""
        if self._service is not None and self._batch is not None:
            self._service.submit_finetune(self._batch)
        neighbour = None
        if self._spinning is not None:
            neighbour = subprocess.Popen([sys.executable, "-S", "-c", SPIN, str(self._spinning)])
            time.sleep(0.2)
        jax.block_until_ready(self._state)
        started = time.perf_counter()
        for _ in range(chunks):
            self._chunk()
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - started
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
        if self._service is not None and self._batch is not None:
            early = self._service.poll_finetune()
            self.outlasted &= early is None
            result = early or self._service.poll_finetune(wait=True)
            if result is None or result.error:
                raise RuntimeError(f"the fine-tuning failed: {result and result.error}")
        return seconds

    def close(self) -> None:
        """Stops the VLM."""
        if self._service is not None:
            self._service.close()


def _make_queries(programs: Any, service: PriorService) -> QueryManager:
    parts, pieces = programs.parts, programs.pieces
    sizes = {"num_slots": parts.num_query_slots, "num_envs": parts.env.num_envs}
    return QueryManager(service, pieces.query, pieces.set_prior, **sizes)


def on_processors(processors: list[int], architecture: str, device: str, options: dict[str, Any]) -> VLMEngine:
    """Makes the VLM on these processors; called in the thread or child process that runs it."""
    os.sched_setaffinity(0, processors)
    torch.set_num_threads(len(processors))
    return make_vlm(architecture, device, **options)


def learner_config(preset: str) -> Config:
    """Returns the config of COVR in a preset's shapes, with a small replay and at most two updates per step.

    The eight updates of demo would hide the cost of the VLM.
    """
    config = presets.make(preset)
    return dataclasses.replace(
        config,
        replay=dataclasses.replace(config.replay, capacity=4_000),
        sac=dataclasses.replace(config.sac, updates_per_step=min(2, config.sac.updates_per_step)),
    )


def learner_rows(
    preset: str, architecture: str, device: str, *, spare: bool, rounds: int, chunks: int, lesson_steps: int
) -> list[dict[str, Any]]:
    """Measures updates per second without a VLM, with queries, and with fine-tuning too in modes async and process.

    Must run in a process of its own.

    Args:
      preset: of the learner.
      architecture: of the VLM.
      device: of the VLM.
      spare: whether the last processor is reserved for the VLM.
      rounds: turns of each contestant.
      chunks: per turn.
      lesson_steps: optimiser steps of a round of fine-tuning.
    """
    processors = sorted(os.sched_getaffinity(0))
    learners, vlms = (processors[:-1], processors[-1:]) if spare else (processors, processors)
    os.sched_setaffinity(0, learners)  # before XLA counts them for its threads
    runtime.configure()
    from covr_jax.training.programs import Programs

    config = learner_config(preset)
    programs = Programs(config)
    options = {"finetune_options": {"steps": lesson_steps}}
    batch = _finetune_batch(config.env.image_size)
    with tempfile.TemporaryDirectory() as folder:

        def service(mode: Any) -> PriorService:
            build = partial(on_processors, learners if mode == "sync" else vlms, architecture, device, options)
            return make_service(build, mode, Path(folder) / mode, RetryPolicy())

        services = {mode: service(mode) for mode in ("async", "process", "sync")}
        entries = {"off": Beside(programs, None), "off_spinning": Beside(programs, None, spinning=vlms[-1])}
        entries |= {f"{mode}_asked": Beside(programs, services[mode]) for mode in ("sync", "async", "process")}
        entries |= {f"{mode}_taught": Beside(programs, services[mode], batch) for mode in ("async", "process")}
        for entry in entries.values():
            entry.step(1)
        turns = {name: [] for name in entries}
        for _ in range(rounds):
            for name, entry in entries.items():
                turns[name].append(entry.step(chunks))
        for each in services.values():
            each.close()
    chunk_updates = programs.parts.chunk_steps * config.sac.updates_per_step
    cores = f"{len(learners)} for the learner, {len(vlms)} for the VLM" if spare else f"{len(learners)} for both"
    queried = config.env.num_envs * programs.parts.chunk_steps // config.vlm.every
    return [
        {
            "processors": cores,
            "updates_per_frame_asked": chunk_updates / queried,
            "vlm": name,
            "updates_per_s": chunks * chunk_updates / statistics.median(seconds),
            "least": chunks * chunk_updates / max(seconds),
            "most": chunks * chunk_updates / min(seconds),
            "of_off": statistics.median(o / s for o, s in zip(turns["off"], seconds, strict=True)),
            "outlasted": entries[name].outlasted,
        }
        for name, seconds in turns.items()
    ]


def _finetune_batch(size: int, count: int = 256) -> FinetuneBatch:
    frames, generator = np.asarray(random_frames(count + 8, size)), np.random.default_rng(0)
    action = generator.uniform(-1, 1, (count + 8, ACTION_DIM)).astype(np.float32)
    return FinetuneBatch(frames[:count], action[:count], np.ones(count, np.float32), frames[count:], action[count:], 2)
