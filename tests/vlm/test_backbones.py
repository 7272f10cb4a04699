import json
import re
import shutil

import pytest
import torch

from covr_jax.vlm.decode import answer_texts, decode_actions, parse_all
from covr_jax.vlm.grammar import build_grammar
from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.backbones import BACKBONES, lora_pattern, released_config
from covr_jax.vlm.models.loading import (
    Backbone,
    VLMLoadError,
    add_lora,
    backbone_from,
    load_backbone,
    model_inputs,
    preprocess,
    tokenize_prompt,
)
from covr_jax.vlm.prompts import Prompt, prompt_for

# Parameters of the released checkpoints, worked out by hand from their sizes; LoRA at rank 128 adds 128 * (in + out).
TOTALS = {
    "qwen2_5_vl": 3_754_622_976,
    "qwen2_vl": 2_208_985_600,
    "llava": 7_063_427_072,
    "qwen3_vl": 2_127_532_032,
    "qwen3_5": 2_213_241_664,
    "internvl": 2_088_957_440,
}
LORA = [
    ("qwen2_5_vl", "all-linear", 330_907_648, 8.0995),
    ("qwen2_5_vl", "language", 239_468_544, 5.996),
    ("qwen2_5_vl", "paper_826", 337_903_616, 8.2566),
    ("qwen2_vl", "all-linear", 233_766_912, 9.570),
    ("qwen2_vl", "language", 147_718_144, 6.268),
    ("qwen2_vl", "paper_826", 198_819_840, 8.2573),
    ("llava", "all-linear", 378_142_720, 5.081),
    ("llava", "language", 319_815_680, 4.332),
    ("qwen3_vl", "all-linear", 197_132_288, 8.480),
    ("qwen3_vl", "language", 139_460_608, 6.152),
    ("qwen3_5", "all-linear", 186_720_256, 7.780),
    ("qwen3_5", "language", 134_553_600, 5.731),
    ("internvl", "all-linear", 205_455_360, 8.955),
    ("internvl", "language", 147_718_144, 6.604),
]


def on_meta(family):
    """The released size with no memory behind it."""
    import transformers

    with torch.device("meta"):
        return getattr(transformers, BACKBONES[family].model_class)(released_config(BACKBONES[family]))


@pytest.mark.parametrize(("family", "targets", "trainable", "percent"), LORA)
def test_released_sizes_and_lora_shares(family, targets, trainable, percent):
    model = on_meta(family)
    assert sum(p.numel() for p in model.parameters()) == TOTALS[family]
    with torch.device("meta"):
        backbone = Backbone(model, None, None, False, BACKBONES[family])
        _, count = add_lora(backbone, rank=128, alpha=16, dropout=0.05, targets=targets)
    assert (count.trainable, count.total) == (trainable, TOTALS[family] + trainable)
    assert 100 * count.trainable / count.total == pytest.approx(percent, abs=5e-4)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "qwen3_5", "internvl"])
def test_the_papers_share_is_refused_where_no_layers_are_known_to_have_it(family):
    with pytest.raises(ValueError, match=rf"paper_826 does not exist for {BACKBONES[family].hub_id}:"):
        lora_pattern(BACKBONES[family], "paper_826")
    assert lora_pattern(BACKBONES[family], r".*\.q_proj") == r".*\.q_proj"


@pytest.mark.parametrize(
    ("family", "size", "tokens"),
    [
        ("qwen2_5_vl", 224, 64),
        ("qwen2_vl", 224, 64),
        ("llava", 336, 576),
        ("qwen3_vl", 224, 49),
        ("qwen3_5", 224, 49),
        ("internvl", 448, 256),
    ],
)
def test_image_tokens_of_the_released_sizes(family, size, tokens):
    backbone = backbone_from(on_meta(family), None)
    assert (backbone.image.size, backbone.image.tokens) == (size, tokens)


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_models_of_pixels_know_one_image_size_only(family):
    model, tokenizer = tiny.build_tiny(0, family)
    with pytest.raises(ValueError, match="image_size must be 84"):
        backbone_from(model, tokenizer, 112)


@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_tiny_names_load(name):
    backbone = load_backbone(name)
    assert backbone.is_tiny and backbone.description.family == tiny.FAMILIES[name] == backbone.model.config.model_type
    assert sum(p.numel() for p in backbone.model.parameters()) < 1_000_000


@pytest.mark.parametrize("name", sorted(set(tiny.FAMILIES) - {"tiny"}))
def test_the_engine_runs_on_every_architecture(name, frames):
    import numpy as np

    from covr_jax.vlm.engine import VLMEngine

    engine = VLMEngine(name, "reacher_easy", 2, rank=8, alpha=32.0, finetune_options={"steps": 30, "batch_size": 6})
    assert bool(engine.query(frames).valid.all())
    actions = np.array([[0.5, -0.5]] * 6, np.float32)
    record = engine.finetune(frames, actions, np.ones(6))
    assert record["finetune_loss_last"] < 0.5 * record["finetune_loss_first"]
    np.testing.assert_allclose(np.asarray(engine.query(frames).action), actions, atol=1e-6)


@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_half_precision_answers_nearly_alike(name, frames):
    logits = []
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone(name, dtype=dtype)
        assert backbone.model.dtype == getattr(torch, dtype)
        prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
        grammar = build_grammar(backbone.tokenizer, 2, True)
        pixels = preprocess(torch.from_numpy(frames), backbone.image)
        tokens = decode_actions(backbone, prompt, grammar, pixels, 6)
        assert parse_all(answer_texts(backbone.tokenizer, grammar, tokens), 2)[1].all()
        with torch.no_grad():
            out = backbone.model(**model_inputs(backbone, pixels, prompt.ids.expand(6, -1), prompt))
        logits.append(out.logits[:, -1].float())
    # bfloat16 has eight bits; the layers add up to a few per cent of the spread.
    assert (logits[0] - logits[1]).abs().mean() < 0.05 * logits[0].std()


def test_ids_come_from_the_tokenizer(any_backbone):
    tokens = tokenize_prompt(any_backbone, prompt_for("cartpole_swingup", 1))
    family, image_id = any_backbone.description.family, any_backbone.model.config.image_token_id
    token = {"llava": "<image>", "internvl": "<IMG_CONTEXT>"}.get(family, "<|image_pad|>")
    assert image_id == tiny.tiny_tokenizer(family).convert_tokens_to_ids(token)
    assert torch.equal(tokens.types, (tokens.ids == image_id).long())
    assert int(tokens.types.sum()) == any_backbone.image.tokens
    # Without a system turn its text still has to be said: the answer's format stands there.
    word = any_backbone.tokenizer.encode("Action: [", add_special_tokens=False)[0]
    assert word in tokens.ids.tolist()


def test_directories_of_every_architecture_load(tmp_path, any_backbone, frames):
    any_backbone.model.save_pretrained(tmp_path)
    any_backbone.tokenizer.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path), image_size=84)
    assert loaded.description is any_backbone.description and loaded.image == any_backbone.image
    prompt = tokenize_prompt(any_backbone, Prompt("", "reacher easy"))
    # To a directory of Qwen3.5 transformers gives the class of its released tokenizer, not one of words; the other
    # directories keep the twin's.
    if type(loaded.tokenizer) is type(any_backbone.tokenizer):
        assert torch.equal(tokenize_prompt(loaded, Prompt("", "reacher easy")).ids, prompt.ids)
    else:
        assert loaded.description.family == "qwen3_5"
    logits = []
    for backbone in (loaded, any_backbone):
        pixels = preprocess(torch.from_numpy(frames), backbone.image)
        with torch.no_grad():
            logits.append(backbone.model(**model_inputs(backbone, pixels, prompt.ids.expand(6, -1), prompt)).logits)
    weights, expected = loaded.model.state_dict(), any_backbone.model.state_dict()
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)
    assert torch.equal(*logits)


def test_other_architectures_and_pickles_are_refused(tmp_path, backbone):
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(VLMLoadError, match="'gpt2' is none of qwen2_5_vl, qwen2_vl, llava"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(backbone.model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(VLMLoadError, match="safetensors"):
        load_backbone(str(tmp_path))


def test_a_pinned_revision_is_the_one_that_loads(tmp_path, monkeypatch):
    import huggingface_hub

    hub = tmp_path / "models--owner--name"
    for revision, seed in (("a" * 40, 1), ("b" * 40, 2)):
        model, tokenizer = tiny.build_tiny(seed)
        model.save_pretrained(hub / "snapshots" / revision)
        tokenizer.save_pretrained(hub / "snapshots" / revision)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("b" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name, seed in (("owner/name", 2), ("owner/name@" + "a" * 40, 1)):
        loaded = load_backbone(name, image_size=84).model.state_dict()
        assert torch.equal(loaded["lm_head.weight"], tiny.build_tiny(seed)[0].state_dict()["lm_head.weight"])
    shutil.rmtree(hub / "snapshots" / ("a" * 40))
    with pytest.raises(VLMLoadError, match="as a hub id"):
        load_backbone("owner/name@" + "a" * 40)


def test_missing_weights_of_a_known_model_are_named(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(VLMLoadError, match=re.escape("hf download llava-hf/llava-1.5-7b-hf --local-dir")) as error:
        load_backbone("llava-hf/llava-1.5-7b-hf")
    assert "\n" not in str(error.value)
