"""The VLM's benchmark: its rivals say what we say, and the toy's labels are what they claim.

N samples, A action.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from covr_jax.training.expert_states import ExpertStates  # noqa: E402
from covr_jax.vlm.engine import VLMEngine  # noqa: E402
from covr_jax.vlm.models import tiny  # noqa: E402
from covr_jax.vlm.models.backbones import BACKBONES  # noqa: E402
from covr_jax.vlm.models.loading import backbone_from  # noqa: E402
from experiments.benchmark import expert_vlm, vlm, vlm_contest, vlm_toy  # noqa: E402

pytestmark = pytest.mark.slow


def test_every_architecture_can_be_chosen():
    assert (*tiny.FAMILIES, *vlm_contest.RELEASED) == vlm.ARCHITECTURES
    assert sorted(vlm_contest.RELEASED.values()) == sorted(BACKBONES.values())


@pytest.mark.parametrize(("action_dim", "signed"), [(1, True), (2, False)])
def test_generate_under_the_automaton_says_what_we_say(action_dim, signed):
    """For every rival, frame by frame; unsigned answers differ in length."""
    task = "cartpole_swingup" if action_dim == 1 else "reacher_easy"
    backbone = backbone_from(*tiny.build_tiny(2), is_tiny=True)  # seed 2: answers differ between frames
    service = VLMEngine("tiny", task, action_dim, signed=signed, rank=2, backbone=backbone)
    priors = vlm_contest.Priors(service, 40, 4)
    texts = {name: way() for name, way in priors.contestants(4).items()}
    assert len(texts) == 5 and len(set(texts["ours"])) > 1
    assert all(said == texts["ours"] for said in texts.values())


def test_rows_are_made_of_equal_answers_only(monkeypatch):
    service = VLMEngine("tiny", backbone=backbone_from(*tiny.build_tiny(2), is_tiny=True), rank=2)
    priors = vlm_contest.Priors(service, 40, 2)
    rows = priors.rows(2, 1, 0.001)
    assert [row["same_answers"] for row in rows] == [1.0] * 5 and all(row["answers_per_s"] > 0 for row in rows)
    monkeypatch.setattr(priors, "generated", lambda n, **_: ["Action: [+0.00]"] * n)
    with pytest.raises(AssertionError, match="answers differ"):
        priors.rows(2, 1, 0.001)


def test_queries_with_a_merged_and_a_separate_adapter_take_turns():
    service = VLMEngine("tiny", backbone=backbone_from(*tiny.build_tiny(2), is_tiny=True), rank=2)
    rows = vlm_contest.merging_rows(service, 2, 40, 2, 0.001)
    assert [(row["contestant"], row["same_answers"]) for row in rows] == [("merged", 1.0), ("separate", 1.0)]
    assert all(row["answers_per_s"] > 0 and row["switch_s"] > 0 and row["action_dim"] == 1 for row in rows)


def test_frames_are_lent_not_copied():
    rows = vlm_contest.handover_rows("cpu", [(2, 16)], 1)
    assert [(row["contestant"], row["same_memory"]) for row in rows] == [("dlpack", True), ("numpy_copy", False)]


def test_the_toys_samples(monkeypatch):
    """Half of the labels are random and worth less; COVR's share of them is the smallest, its weights are RALW's."""
    monkeypatch.setattr("experiments.tiny_vlm_scenes.scene_drawer", lambda name: lambda q, size: np.repeat(q, 2, 1))
    toy = vlm_toy.make_toy(512, 0.3, seed=1)
    position, angle = toy.frames[:, 0], toy.frames[:, 2]
    expert = np.clip(0.8 * np.sin(angle) - position, -1, 1)
    np.testing.assert_allclose(toy.expert[:, 0], expert, atol=1e-6)
    assert toy.random.sum() == 256 and len(toy.heldout_frames) == vlm_toy.HELD_OUT
    np.testing.assert_array_equal(toy.action[~toy.random], toy.expert[~toy.random])
    assert np.abs(toy.action - toy.expert)[toy.random].mean() > 0.4
    noise = toy.returns - (1 - np.abs(toy.action[:, 0] - expert))
    assert abs(noise.mean()) < 0.05 and 0.28 < np.abs(noise).max() < 0.3001
    shares = {}
    for way in vlm_toy.WAYS[1:]:
        kept, action, weights = vlm_toy.selected(toy, way)
        np.testing.assert_array_equal(action, toy.action[kept])
        assert len(weights) == len(kept) and 1 - 2**-23 <= weights.max() <= 1  # 2 q - 1, q = 1 or the float below
        shares[way] = (weights * toy.random[kept]).sum() / weights.sum()
    assert shares["uniform"] == 0.5
    assert shares["eddf_ralw"] <= shares["eddf"] < 0.3 and shares["eddf_ralw"] <= shares["ralw"] < 0.5
    kept, action, weights = vlm_toy.selected(toy, "expert")
    np.testing.assert_array_equal(action, toy.expert)
    assert len(kept) == 512 and (weights == 1).all()


def test_a_row_on_an_experts_states(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 40, 40, 40, 9), dtype=np.uint8)
    train, held_out = (ExpertStates(x, np.full((40, 1), 0.25, np.float32)) for x in images)
    row = expert_vlm.row_of(train, held_out, "cartpole_swingup", 3, 2, 1, tmp_path)
    assert (row["frames"], row["states"], row["zero"], row["constant"]) == (3, 40, 0.25, 0.0)
    assert 0 < row["error"] < 2 and 0 < row["loss"] < 20 and (tmp_path / "frames3/adapter_model.safetensors").exists()
