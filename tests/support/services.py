"""A service of every mode around ``FakeVLM``, and a story that all of them tell alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from covr_jax.vlm.serving.recording import PlaybackService, RecordingService
from covr_jax.vlm.serving.supervise import RetryPolicy
from tests.support.faults import some_batch, some_frames
from tests.support.vllm_server import VLLMServer

PATIENT = RetryPolicy(deadline_s=60.0, hang_s=60.0)


def make(mode: str, folder: Path, server: VLLMServer | None = None):
    """A service of a mode; 'replay' plays back a recording of ``story`` in mode sync, 'vllm' needs a server."""
    if mode == "replay":
        recording = RecordingService(factory.SyncService(FakeVLM()), folder / "answers.jsonl")
        story(recording, folder / "recorded")
        return PlaybackService(folder / "answers.jsonl")
    build = partial(factory.build_engine, "fake", "any", 1, {})
    if server is not None:
        build = partial(factory.build_served, build, "fake", server.endpoint, PATIENT.hang_s, folder / "served")
    return factory.make_service(build, mode, folder / "store", PATIENT)


def plain(answers):
    """Answers as lists."""
    return [(a.query_step, a.version, np.asarray(a.prior.action).tolist(), a.prior.valid.tolist()) for a in answers]


def story(service, folder):
    """All results of two chunks, a round, a chunk, a measurement, a round, a chunk and a measurement."""
    results, progress = [], []
    results.append(plain(service.poll(5)))
    for step in (10, 20):
        assert service.submit(step, some_frames(step)) is True
        results.append(plain(service.poll(step)))
    for number, step in ((1, 30), (2, 40)):
        results.append((service.ready, service.poll_finetune()))
        service.submit_finetune(some_batch(number))
        result = service.poll_finetune(lambda *step: progress.append(step))
        results.append((result, service.poll_finetune(), service.ready))
        service.submit(step, some_frames(step))
        results.append(plain(service.poll(step)))
        results.append(service.query(some_frames(number)).action.tolist())
    service.save_adapter(folder)
    return results, progress
