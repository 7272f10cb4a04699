"""The learner's speed beside a VLM: off, asked in every mode, and asked while it is taught."""

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

# Keeps one processor busy with next to no memory: what any neighbour costs the learner on this machine.
SPIN = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"


class Beside:
    """The run's compiled chunks with a VLM that is asked after each one and, if told so, taught meanwhile.

    Args:
      spinning: a processor to keep busy during a turn, instead of a VLM.
    """

    def __init__(
        self,
        programs: Any,
        service: PriorService | None,
        lesson: FinetuneBatch | None = None,
        spinning: int | None = None,
    ):
        self._programs, self._service, self._lesson, self._spinning = programs, service, lesson, spinning
        self._conversation = QueryManager(programs, service) if service else None
        self._state = programs.init()
        for _ in range(2):
            self._state, _ = programs.chunk(self._state, learn=False)
        self.outlasted = True  # so far, every lesson was still going on when its turn ended

    def _chunk(self) -> None:
        """As ``loop.Trainer`` does it once guidance is open."""
        self._state, _ = self._programs.chunk(self._state, learn=True)
        if self._conversation:
            self._state = self._conversation.step(self._state, ask=True)

    def step(self, chunks: int) -> float:
        """Seconds of some chunks; a lesson begins before and is waited for afterwards, off the clock."""
        if self._service is not None and self._lesson is not None:
            self._service.submit_finetune(self._lesson)
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
        if self._service is not None and self._lesson is not None:
            early = self._service.poll_finetune()
            self.outlasted &= early is None
            outcome = early or self._service.poll_finetune(wait=True)
            if outcome is None or outcome.error:
                raise RuntimeError(f"the lesson failed: {outcome and outcome.error}")
        return seconds

    def close(self) -> None:
        if self._service is not None:
            self._service.close()


def on_processors(processors: list[int], architecture: str, device: str, options: dict[str, Any]) -> VLMEngine:
    """The VLM on these processors: called in the thread or child that runs it."""
    os.sched_setaffinity(0, processors)
    torch.set_num_threads(len(processors))
    return make_vlm(architecture, device, **options)


def learner_config(preset: str) -> Config:
    """Of COVR in a preset's shapes, with a small replay and two updates per step: demo's eight would hide the VLM."""
    config = presets.make(preset)
    return dataclasses.replace(
        config,
        replay=dataclasses.replace(config.replay, capacity=4_000),
        sac=dataclasses.replace(config.sac, updates_per_step=min(2, config.sac.updates_per_step)),
    )


def learner_rows(
    preset: str, architecture: str, device: str, *, spare: bool, rounds: int, chunks: int, lesson_steps: int
) -> list[dict[str, Any]]:
    """Updates per second beside a VLM: off, asked in every mode, asked and taught in the modes that do not wait.

    Runs in a process of its own: with ``spare`` the learner keeps to all processors but the last, which is the VLM's.
    """
    processors = sorted(os.sched_getaffinity(0))
    learners, vlms = (processors[:-1], processors[-1:]) if spare else (processors, processors)
    os.sched_setaffinity(0, learners)  # before XLA counts them for its threads
    runtime.configure()
    from covr_jax.training.programs import Programs

    config = learner_config(preset)
    programs = Programs(config)
    options = {"finetune_options": {"steps": lesson_steps}}
    lesson = _lesson(config.env.image_size)
    with tempfile.TemporaryDirectory() as folder:

        def service(mode: Any) -> PriorService:
            where = learners if mode == "sync" else vlms
            build = partial(on_processors, where, architecture, device, options)
            return make_service(build, mode, Path(folder) / mode, RetryPolicy())

        services = {mode: service(mode) for mode in ("async", "process", "sync")}
        entries = {"off": Beside(programs, None), "off_spinning": Beside(programs, None, spinning=vlms[-1])}
        entries |= {f"{mode}_asked": Beside(programs, services[mode]) for mode in ("sync", "async", "process")}
        entries |= {f"{mode}_taught": Beside(programs, services[mode], lesson) for mode in ("async", "process")}
        for entry in entries.values():
            entry.step(1)
        turns = {name: [] for name in entries}
        for _ in range(rounds):
            for name, entry in entries.items():
                turns[name].append(entry.step(chunks))
        for each in services.values():
            each.close()
    updates = chunks * programs.chunk_steps * config.sac.updates_per_step
    cores = f"{len(learners)} for the learner, {len(vlms)} for the VLM" if spare else f"{len(learners)} for both"
    asked = config.env.num_envs * programs.chunk_steps // config.vlm.every
    return [
        {
            "processors": cores,
            "updates_per_frame_asked": programs.chunk_steps * config.sac.updates_per_step / asked,
            "vlm": name,
            "updates_per_s": updates / statistics.median(seconds),
            "least": updates / max(seconds),
            "most": updates / min(seconds),
            "of_off": statistics.median(o / s for o, s in zip(turns["off"], seconds, strict=True)),
            "outlasted": entries[name].outlasted,
        }
        for name, seconds in turns.items()
    ]


def _lesson(size: int, count: int = 256) -> FinetuneBatch:
    frames, generator = np.asarray(random_frames(count + 8, size)), np.random.default_rng(0)
    action = generator.uniform(-1, 1, (count + 8, ACTION_DIM)).astype(np.float32)
    return FinetuneBatch(frames[:count], action[:count], np.ones(count, np.float32), frames[count:], action[count:], 2)
