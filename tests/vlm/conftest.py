"""Tiny random models, and engines whose weights need no shipped file."""

from __future__ import annotations

import numpy as np
import pytest

from covr_jax.vlm.models.backbones import BACKBONES
from tests.support.faults import Clock, supervised
from tests.support.vllm_server import VLLMServer

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


@pytest.fixture
def backbone():
    from covr_jax.vlm.models import tiny
    from covr_jax.vlm.models.loading import backbone_from

    return backbone_from(*tiny.build_tiny(0), is_tiny=True)


@pytest.fixture(params=list(BACKBONES))
def any_backbone(request):
    """Every architecture in turn."""
    from covr_jax.vlm.models import tiny
    from covr_jax.vlm.models.loading import backbone_from

    return backbone_from(*tiny.build_tiny(5, request.param), is_tiny=True)  # seed 5: answers differ between frames


@pytest.fixture
def frames():
    """Noise u8[6,40,40,3], so that answers differ."""
    return np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)


@pytest.fixture
def make_engine(monkeypatch):
    from covr_jax.vlm.engine import VLMEngine
    from covr_jax.vlm.models import tiny

    monkeypatch.setattr(tiny, "load_tiny", lambda path=None: tiny.build_tiny(0))

    def make(**options):
        settings = {"rank": 4, "alpha": 8.0, "seed": 3, **options}
        return VLMEngine("tiny", settings.pop("task", "reacher_easy"), settings.pop("action_dim", 2), **settings)

    return make


@pytest.fixture
def server():
    """A server that answers by the rule of ``FakeVLM``, in text."""
    server = VLLMServer()
    yield server
    server.stop()


@pytest.fixture
def start(tmp_path):
    """start(mode, **retry) -> a service around a faulty engine, with a long deadline, and its clock, which stands."""
    started = []

    def start_service(mode, clock=None, **retry):
        clock = clock or Clock()
        service = supervised(mode, tmp_path, clock, **retry)
        started.append(service)
        return service, clock

    yield start_service
    (tmp_path / "go").touch()
    for service in started:
        service.close()
