"""Whole runs of the training loop with a deterministic stand-in for the VLM, and records of what they did."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import jax
import numpy as np
import pytest

from covr_jax.io.metrics import read_metrics
from covr_jax.training import loop, run
from covr_jax.training.evaluation import Evaluator
from covr_jax.training.programs import Programs
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.reporters import Quiet
from tests.support.trees import host_copy

# What depends on the clock or the machine and not on the run.
TIMING = {"wall_s", "train/env_steps_per_second", "train/updates_per_second", "vlm/latency_s", "mem/device_peak_bytes"}
TIMING |= {"checkpoint/bytes", "checkpoint/seconds", "checkpoint/blocked_seconds"}
TIMING |= {"time/compile_s", "time/compile_cold_s", "compile/programs", "compile/cached"}
TIMING |= {"policy/latency_s", "vlm/mean_latency_s"}


class WatchedVLM(FakeVLM):
    """The fake, which records when it was queried."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def query(self, frames):
        assert frames.dtype == np.uint8 and frames.shape[1:] == (20, 20, 3)
        self.log.queried.append(self.log.phase)
        return super().query(frames)

    def finetune(self, frames, actions, weights, progress=None):
        assert np.min(weights) >= 0 and abs(np.max(weights) - 1) < 1e-6
        return super().finetune(frames, actions, weights, progress)


class Stop(Exception):
    """Stands for a kill."""


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


@dataclasses.dataclass
class Log:
    """What a watched run did."""

    phase: str = "between"  # what the loop is doing when the VLM is queried
    queried: list = dataclasses.field(default_factory=list)
    chunks: list = dataclasses.field(default_factory=list)  # (env steps, rounds, params, valid priors, weight)
    rounds: list = dataclasses.field(default_factory=list)  # (env steps, first time slots of the next D_f)
    saved: dict = dataclasses.field(default_factory=dict)  # env steps -> state at that checkpoint
    began: object = None
    ended: object = None
    vlm: object = None


def watched_run(make_programs, config, run_dir, stop_at=math.inf, reporter=None, **options):
    """Trains with a fake VLM through ``train``, until ``stop_at`` env steps; returns the run's ``Log``.

    Other options are those of ``train``.
    """
    log = Log()

    class Watched(loop.AgentTrainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            log.began = host_copy(self.state)

        def _chunk(self):
            super()._chunk()
            learner, valid = self.state.learner, int(self.state.replay.prior.valid.sum())
            row = (
                self.env_steps,
                self.loop.rounds,
                host_copy(learner.params),
                valid,
                float(learner.guidance_weight),
            )
            log.chunks.append(row)

        def _round(self):
            completed = super()._round()
            if completed:
                log.rounds.append((self.env_steps, list(self.loop.data_start)))
            return completed

        def save(self):
            super().save()
            log.saved[self.env_steps] = host_copy(self.state)
            log.ended = self.state

    def phased(owner, name):
        original = getattr(owner, name)

        def method(self, *arguments, **options):
            log.phase = name
            try:
                return original(self, *arguments, **options)
            finally:
                log.phase = "between"

        return method

    def build_engine(*arguments):
        log.vlm = WatchedVLM(log)
        return log.vlm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Programs", make_programs)
        patch.setattr(run, "AgentTrainer", Watched)
        patch.setattr(factory, "build_engine", build_engine)
        for owner, name in ((Programs, "chunk"), (Evaluator, "evaluate")):
            patch.setattr(owner, name, phased(owner, name))
        with contextlib.suppress(Stop):
            run.train(config, run_dir, reporter or Quiet(stop_at, Stop), **options)
    return log


def with_vlm(config, **options):
    """The config with other options of the VLM."""
    return dataclasses.replace(config, vlm=dataclasses.replace(config.vlm, **options))


def rows_of(directory):
    """A run's rows of metrics without what depends on the clock, or on how the VLM is reached."""
    rows = read_metrics(directory / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMING and not k.startswith("vlm/")} for row in rows]
