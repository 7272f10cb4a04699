import json
import logging
import re

import numpy as np
import pytest
import torch

from covr_jax.vlm.models import pretrained, tiny
from covr_jax.vlm.models.backbones import BACKBONES, lora_pattern
from covr_jax.vlm.models.loading import (
    VLMLoadError,
    add_lora,
    backbone_from,
    load_backbone,
    model_inputs,
    preprocess,
    tokenize_prompt,
)
from covr_jax.vlm.models.pretrained import placement
from covr_jax.vlm.models.vision import NAME
from covr_jax.vlm.prompts import Prompt, prompt_for
from tests.support.adapters import randomize_adapter

NATIVE = [family for family, description in BACKBONES.items() if description.native_patches]


@pytest.mark.parametrize("any_backbone", NATIVE, indirect=True)
def test_own_positions_equal_the_models(any_backbone, frames):
    backbone = any_backbone
    prompt = tokenize_prompt(backbone, Prompt("", "cartpole swingup"))
    assert int(prompt.types.sum()) == backbone.image.tokens == 9
    answer = torch.tensor(backbone.tokenizer.encode("Action: [+0.12]", add_special_tokens=False))
    ids = torch.cat([prompt.ids, answer]).expand(6, -1)
    inputs = model_inputs(backbone, preprocess(torch.from_numpy(frames), backbone.image), ids, prompt)
    with torch.no_grad():
        ours = backbone.model(**inputs).logits
        inputs.pop("position_ids")
        theirs = backbone.model(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    inputs.pop("mm_token_type_ids")
    if backbone.description.family != "qwen2_5_vl":
        with pytest.raises(ValueError, match="mm_token_type_ids"):
            backbone.model(**inputs)
        return
    with torch.no_grad():
        without_types = backbone.model(**inputs).logits
    assert (ours - without_types).abs().max() > 1e-3  # the silent trap


@pytest.mark.parametrize("any_backbone", NATIVE, indirect=True)
@pytest.mark.parametrize("size", [84, 140, 224])  # one window; windows of 8 and 2 patches; four equal windows
def test_vision_in_one_call_equals_the_upstream_loop(any_backbone, size):
    backbone = any_backbone
    image = backbone.image._replace(size=size)
    frames = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    pixels, grid = preprocess(torch.from_numpy(frames), image), torch.tensor([image.grid] * 3)
    visual = backbone.model.model.visual
    features = {}
    with torch.no_grad():
        for name in (NAME, "sdpa"):
            visual.config._attn_implementation = name
            out = visual(pixels, grid_thw=grid)
            features[name] = [out.pooler_output, *(getattr(out, "deepstack_features", None) or [])]
    torch.testing.assert_close(features[NAME], features["sdpa"], atol=1e-5, rtol=0)
    assert len(features[NAME]) == (3 if backbone.description.family == "qwen3_vl" else 1)
    assert all(x.std() > 0.01 for x in features[NAME])


def test_the_image_matters(any_backbone, frames):
    backbone = any_backbone
    prompt = tokenize_prompt(backbone, Prompt("", "cartpole swingup"))
    pixels = preprocess(torch.from_numpy(frames), backbone.image)
    with torch.no_grad():
        logits = backbone.model(**model_inputs(backbone, pixels, prompt.ids.expand(6, -1), prompt)).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_lora_counts_are_exact_and_start_neutral(any_backbone, frames):
    backbone = any_backbone
    prompt = tokenize_prompt(backbone, Prompt("", "cartpole swingup"))
    pixels = preprocess(torch.from_numpy(frames), backbone.image)
    inputs = model_inputs(backbone, pixels, prompt.ids.expand(6, -1), prompt)
    with torch.no_grad():
        base = backbone.model(**inputs).logits
    linears = {n: m for n, m in backbone.model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n}
    expected = sum(4 * (m.in_features + m.out_features) for m in linears.values())
    adapted, count = add_lora(backbone, rank=4, alpha=8, dropout=0.0, seed=0)
    assert count.trainable == expected and f"{expected:,}" in str(count)
    with torch.no_grad():
        assert torch.equal(adapted.model(**inputs).logits, base)  # B = 0
        randomize_adapter(adapted.model)
        assert (adapted.model(**inputs).logits - base).abs().max() > 1e-2
        with adapted.model.disable_adapter():
            assert torch.equal(adapted.model(**inputs).logits, base)


def test_language_targets_are_the_linear_layers_of_the_language_model(any_backbone):
    """Whatever the layers are called: none of a block is left out, and none of the vision tower is taken."""
    pattern = re.compile(lora_pattern(any_backbone.description, "language"))
    names = {n for n, m in any_backbone.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {n for n in names if pattern.fullmatch(n)} == {n for n in names if ".language_model.layers." in n}


def test_language_targets_leave_the_vision_tower_alone(backbone):
    adapted, count = add_lora(backbone, rank=2, alpha=2, dropout=0.0, targets="language")
    names = [n for n, p in adapted.model.named_parameters() if p.requires_grad]
    assert len(names) == 3 * 7 * 2 and all("language_model" in n for n in names)
    assert count.trainable == 3 * 2 * sum(
        a + b for a, b in [(128, 128), (128, 64), (128, 64), (128, 128), (128, 256), (128, 256), (256, 128)]
    )


def test_local_directories_load_through_the_same_path(tmp_path, backbone, frames):
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_backbone(str(tmp_path / "model"), image_size=84)
    assert not loaded.is_tiny and loaded.image == backbone.image
    prompt = tokenize_prompt(loaded, Prompt("", "reacher easy"))
    pixels = preprocess(torch.from_numpy(frames), loaded.image)
    inputs = model_inputs(loaded, pixels, prompt.ids.expand(6, -1), prompt)
    with torch.no_grad():
        assert torch.equal(loaded.model(**inputs).logits, backbone.model(**inputs).logits)


@pytest.mark.field
def test_missing_weights_give_one_clear_line(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), str(tmp_path / "nowhere"), "no-such-owner/no-such-model"):
        with pytest.raises(VLMLoadError) as error:
            load_backbone(name)
        assert "\n" not in str(error.value)
        assert "--vlm <path or hub id>" in str(error.value) and "Qwen/Qwen2.5-VL-3B-Instruct" in str(error.value)


def test_image_size_must_fit_the_patches(backbone):
    with pytest.raises(ValueError, match="multiple of 28"):
        backbone_from(backbone.model, backbone.tokenizer, 90)


def test_tiny_is_deterministic_and_small():
    state = torch.get_rng_state()
    first, second = (tiny.build_tiny(5)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(v.numel() for k, v in first.items() if k != "lm_head.weight") < 1_000_000
    other = tiny.build_tiny(6)[0].state_dict()
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_tiny_tokenizer_round_trips_answers():
    tokenizer = tiny.tiny_tokenizer()
    ids = tokenizer.encode("Action: [+0.43, -1.00]", add_special_tokens=False)
    assert len(ids) == 13 and tokenizer.decode(ids) == "Action: [+0.43, -1.00]"
    assert tokenizer.encode("zebra", add_special_tokens=False) == [tokenizer.unk_token_id]


def test_shipped_asset_is_the_recorded_one():
    assert tiny.ASSET.stat().st_size < 5_000_000
    model, _ = tiny.load_tiny()
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    record = json.loads(tiny.ASSET.with_suffix(".json").read_text())
    assert record["bytes"] == tiny.ASSET.stat().st_size


def test_shipped_base_reads_the_cartpole():
    record = json.loads(tiny.ASSET.with_suffix(".json").read_text())
    assert max(record["held_out_mae"]["cartpole, pole in the picture"]) <= 0.03


@pytest.mark.field
@pytest.mark.parametrize("fault", ["missing", "no record", "flipped", "truncated", "bad record"])
def test_damaged_asset_gives_one_line(tmp_path, fault):
    path = tmp_path / tiny.ASSET.name
    content, record = tiny.ASSET.read_bytes(), tiny.ASSET.with_suffix(".json").read_text()
    if fault == "flipped":
        content = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    if fault == "truncated":
        content = content[: len(content) // 2]
    if fault != "missing":
        path.write_bytes(content)
    if fault != "no record":
        path.with_suffix(".json").write_text("{" if fault == "bad record" else record)
    with pytest.raises(tiny.TinyAssetError) as error:
        tiny.load_tiny(path)
    assert "\n" not in str(error.value) and "build" in str(error.value)


def test_real_prompt_is_built_from_the_tokenizers_own_template(backbone):
    tokens = tokenize_prompt(backbone, prompt_for("cartpole_swingup", 1))
    text = backbone.tokenizer.decode(tokens.ids)
    assert text.count("<|image_pad|>") == 9 and text.endswith("<|im_start|>") and text.count("<|im_start|>") == 3


@pytest.mark.field
def test_a_gpu_that_torch_does_not_find_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(VLMLoadError, match=r"^--vlm.device cuda: Torch finds no GPU; use --vlm.device cpu"):
        placement("cuda", "auto", is_tiny=True)
    assert placement("auto", "auto", is_tiny=False) == (torch.device("cpu"), torch.float32)


@pytest.fixture
def saved_model(tmp_path, backbone):
    """A tiny Qwen2.5-VL as a directory."""
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.field
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: None if "layers.1.mlp" in name else name, "3 tensors are missing, the first is .*layers.1.mlp"),
        (lambda name: f"base_model.model.{name}", "tensors are missing"),
        (
            lambda name: [name, "model.extra.weight"] if "norm1" in name else name,
            "tensors are unknown to the model, the first is .*extra.weight",
        ),
    ],
)
def test_weights_that_do_not_match_are_refused(saved_model, change, said):
    from safetensors.torch import load_file, save_file

    path = saved_model / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        names = change(name)
        for each in names if isinstance(names, list) else [names] if names else []:
            tensors[each] = tensor.clone()
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(VLMLoadError, match=said) as caught:
        load_backbone(str(saved_model))
    assert "\n" not in str(caught.value)


@pytest.mark.field
def test_weights_that_take_twice_the_memory_on_a_cpu_are_warned_of(saved_model, monkeypatch, recwarn):
    load_backbone(str(saved_model))
    assert not [w for w in recwarn if "float32" in str(w.message)]
    size = 4 * sum(p.numel() for p in load_backbone(str(saved_model)).model.parameters())
    monkeypatch.setattr(pretrained, "_LARGE_BYTES", size - 1)
    with pytest.warns(
        UserWarning, match=r"in float32, the default on CPUs, takes 0 GB of memory; --vlm\.dtype bfloat16"
    ):
        load_backbone(str(saved_model))
    recwarn.clear()
    load_backbone(str(saved_model), dtype="bfloat16")
    monkeypatch.setattr(pretrained, "_LARGE_BYTES", size)
    load_backbone(str(saved_model))
    assert not [w for w in recwarn if "float32" in str(w.message)]


@pytest.mark.field
def test_a_directory_with_an_adapter_is_no_model(saved_model):
    (saved_model / "adapter_config.json").write_text("{}")
    with pytest.raises(VLMLoadError, match="holds a LoRA adapter: merge it into its base model first"):
        load_backbone(str(saved_model))


@pytest.mark.field
def test_quantised_weights_are_refused(saved_model):
    config = json.loads((saved_model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (saved_model / "config.json").write_text(json.dumps(config))
    with pytest.raises(VLMLoadError, match="quantised, which cannot be fine-tuned here"):
        load_backbone(str(saved_model))


@pytest.mark.field
def test_an_adapter_of_another_scale_is_refused(make_engine, tmp_path):
    make_engine(alpha=64.0).save_adapter(tmp_path)
    engine = make_engine(alpha=4.0)
    with pytest.raises(VLMLoadError, match=r"has lora_alpha 64\.0, this model's has 4\.0"):
        engine.load_adapter(tmp_path)
    assert make_engine(alpha=64.0).load_adapter(tmp_path) > 0
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(VLMLoadError, match="cannot read the adapter's"):
        engine.load_adapter(tmp_path)


TEXT_ONLY = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + m['content'] + '<|im_end|>' }}{% endfor %}"
SILENT = "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_end|>{% endfor %}"


@pytest.mark.field
@pytest.mark.parametrize("template", [None, TEXT_ONLY, SILENT])
def test_a_template_without_images_is_replaced_by_the_models_own(backbone, template):
    """Qwen2.5-VL-7B's tokenizer has a text template; adding lists to text is a TypeError."""
    backbone.tokenizer.chat_template = template
    prompt = tokenize_prompt(backbone, prompt_for("reacher_easy", 2))
    assert int(prompt.types.sum()) == backbone.image.tokens
    text = backbone.tokenizer.decode(prompt.ids)
    assert text.count("<|im_start|>") == 3 and text.count("<|im_end|>") == 2  # system, user, the answer's beginning
