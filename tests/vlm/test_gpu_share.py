"""How a GPU is divided between Torch and JAX."""

from types import SimpleNamespace

import pytest
import torch

from covr_jax.config import Config, VLMConfig
from covr_jax.vlm import gpu_share
from covr_jax.vlm.budget import GB, Needs, Saved

# Qwen2.5-VL-3B: 7.5 GB of weights, an adapter of 1.3 GB with 3.9 GB of gradients and moments, 2.9 GB per sample.
THREE_B = Needs(int(7.5 * GB), int(1.3 * GB), int(3.9 * GB), Saved(int(2.88 * GB), int(0.08 * GB)), 0)


@pytest.mark.parametrize(
    ("card", "share"),
    [
        (80, (12.7 + 4 * 2.88 / 0.8) / 80),  # four samples per pass leave more than 40% to JAX: 27.1 GB
        (40, (12.7 + 0.08 / 0.8) / 40),  # 27.1 GB would leave less: activations are recomputed
        (24, (12.7 + 0.08 / 0.8) / 24),
        (10, 0.9),  # nothing fits, and the learner still gets a tenth
        (1000, 0.1),
    ],
)
def test_torch_gets_what_the_model_needs(card, share):
    assert gpu_share.share_needed(THREE_B, card * GB, 16) == pytest.approx(share, rel=1e-6)


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * GB))


def share(method="covr", **vlm):
    return gpu_share.torch_share(Config(method=method, vlm=VLMConfig(**vlm)))


def test_the_share_of_each_kind_of_model(card):
    assert share(gpu_share=0.3) == 0.3
    assert share(name="tiny") == share("dgc_like", name="openai/clip-vit-base-patch16") == 0.1
    assert share(name="somebody/unknown") == 0.5
    assert share(name="fake") is share(device="cpu") is share("rad") is share(replay="answers.jsonl") is None


@pytest.mark.slow
def test_the_default_model_on_80_gb(card):
    assert 0.25 < share() < 0.45


def test_without_a_gpu_of_torchs_jax_keeps_its_own():
    assert torch.cuda.is_available() or share() is None
