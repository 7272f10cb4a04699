import numpy as np
import pytest
import torch

from covr_jax.vlm.models.backbones import BACKBONES
from covr_jax.vlm.models.images import ImageSettings, preprocess, resize
from covr_jax.vlm.models.loading import backbone_from, model_inputs, tokenize_prompt
from covr_jax.vlm.prompts import Prompt

SETTINGS = ImageSettings(84, 14, 2, 2)


# Mean and standard deviation in the preprocessor_config.json of the released models, where it is not the class's own.
RELEASED = {
    "qwen3_vl": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "qwen3_5": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "internvl": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
}


def image_processor(family, size, patch=14):
    """The upstream class (its PIL form, which needs no torchvision), set to squares of one size."""
    square, normalised = {"height": size, "width": size}, RELEASED.get(family, {})
    if family == "llava":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=square)
    if family == "internvl":
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        return GotOcr2ImageProcessorPil(size=square, **normalised)
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    area = {"shortest_edge": size * size, "longest_edge": size * size}
    return Qwen2VLImageProcessorPil(size=area, patch_size=patch, **normalised)


def upstream(frames, size, family="qwen2_5_vl", patch=14):
    from PIL import Image

    out = image_processor(family, size, patch)(images=[Image.fromarray(f) for f in frames], return_tensors="np")
    return np.asarray(out["pixel_values"]), np.asarray(out.get("image_grid_thw"))


def noise(side, n=3):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("family", "size", "patch"), [("qwen2_5_vl", 84, 14), ("qwen2_5_vl", 112, 14), ("qwen3_vl", 96, 16)]
)
def test_patches_equal_the_upstream_processor(family, size, patch):
    expected, grid = upstream(noise(size), size, family, patch)
    image = SETTINGS._replace(size=size, patch=patch, statistics=BACKBONES[family].statistics)
    got = preprocess(torch.from_numpy(noise(size)), image).numpy()
    assert tuple(grid[0]) == image.grid
    # No resampling: only the order of float32 operations differs (measured 2.4e-7 to 4.8e-7).
    np.testing.assert_allclose(got, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "internvl"])
@pytest.mark.parametrize(("side", "size"), [(48, 84), (84, 224), (100, 84), (256, 224), (120, 336)])
def test_resampling_equals_the_upstream_processor(family, side, size):
    """On noise, the hardest case: at most two levels of 255 anywhere, and another level in under 1% of the values.

    Pillow computes in fixed point; what falls on half a level in one of the two passes may be rounded the other way.
    """
    description = BACKBONES[family]
    image = SETTINGS._replace(size=size, patches=description.native_patches, statistics=description.statistics)
    level = 1 / 255 / min(description.statistics.std)  # of 256, normalised, in the channel where it is largest
    expected, _ = upstream(noise(side), size, family)
    got = preprocess(torch.from_numpy(noise(side)), image).numpy()
    assert got.shape == expected.shape
    difference = np.abs(got - expected)
    assert difference.max() < 2.01 * level and (difference > 1e-5).mean() < 0.01


def test_one_axis_alone_is_resized():
    """Frames that are not square are squeezed; Pillow's own resize is the oracle."""
    from PIL import Image

    wide = np.random.default_rng(0).integers(0, 256, (84, 252, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(wide).resize((84, 84), Image.Resampling.BICUBIC)).astype(np.float32)
    got = resize(torch.from_numpy(wide).permute(2, 0, 1)[None].float(), 84)[0].permute(1, 2, 0).numpy()
    assert np.abs(got - expected).max() <= 1 and (got != expected).mean() < 0.01


def test_frames_of_another_kind_are_refused():
    for bad in (torch.zeros(2, 84, 84, 3), torch.zeros(84, 84, 3, dtype=torch.uint8), torch.zeros(2, 3, 84, 84).byte()):
        with pytest.raises(ValueError, match="uint8"):
            preprocess(bad, SETTINGS)


def test_several_frames_of_a_sample_are_images_in_their_order():
    stacked = torch.from_numpy(np.concatenate([noise(84), noise(84)[:, ::-1]], -1))  # u8[3,84,84,6]
    both = preprocess(stacked, SETTINGS._replace(frames=2)).reshape(3, 2, 36, -1)
    for position in range(2):
        alone = preprocess(stacked[..., 3 * position : 3 * position + 3], SETTINGS).reshape(3, 36, -1)
        assert torch.equal(both[:, position], alone)
    with pytest.raises(ValueError, match=r"uint8 \[N,H,W,6\]"):
        preprocess(stacked[..., :3], SETTINGS._replace(frames=2))


@pytest.mark.parametrize("dtype", ["cpu", "meta"])
def test_frames_stay_on_their_device(dtype):
    """On the meta device any step over the host would fail: there is nothing to copy."""
    frames = torch.empty(4, 48, 48, 3, dtype=torch.uint8, device=dtype)
    assert preprocess(frames, SETTINGS).device.type == dtype


def processor_of(backbone, monkeypatch):
    import transformers

    name = {
        "qwen2_5_vl": "Qwen2_5_VLProcessor",
        "qwen2_vl": "Qwen2VLProcessor",
        "llava": "LlavaProcessor",
        "qwen3_vl": "Qwen3VLProcessor",
        "qwen3_5": "Qwen3VLProcessor",
        "internvl": "InternVLProcessor",
    }
    family, tokenizer = backbone.description.family, backbone.tokenizer
    options = {"chat_template": tokenizer.chat_template or backbone.description.chat_template}
    if family == "llava":
        options |= {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if family == "internvl":
        options["image_seq_length"] = backbone.image.tokens
        tokens = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<unk>"}
        for role, token in tokens.items():
            setattr(tokenizer, f"{role}_token", token)
            setattr(tokenizer, f"{role}_token_id", tokenizer.convert_tokens_to_ids(token))
    # Looking up the classes of video processors needs torchvision; no video occurs here.
    monkeypatch.setattr(transformers.ProcessorMixin, "check_argument_for_proper_class", lambda *a: None)
    return getattr(transformers, name[family])(image_processor(family, backbone.image.size), tokenizer, **options)


def test_inputs_are_all_that_the_upstream_processor_gives(any_backbone, monkeypatch):
    from PIL import Image

    frames, backbone = noise(84, 2), backbone_from(any_backbone.model, any_backbone.tokenizer, 84)
    processor = processor_of(backbone, monkeypatch)
    content = [{"type": "image"}, {"type": "text", "text": "reacher easy"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [Image.fromarray(f) for f in frames]
    theirs = processor(images=images, text=[text] * 2, return_tensors="pt", return_mm_token_type_ids=True)

    prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
    pixels = preprocess(torch.from_numpy(frames), backbone.image)
    ours = model_inputs(backbone, pixels, prompt.ids.expand(2, -1), prompt)
    torch.testing.assert_close(ours["pixel_values"], theirs.pop("pixel_values"), atol=2e-6, rtol=0)
    assert bool((theirs["attention_mask"] == 1).all())  # why we send none
    for key in set(theirs) & set(ours):
        assert torch.equal(ours[key], theirs[key]), key
    # The other processors make token types which their models do not take.
    assert set(theirs) - set(ours) == {"attention_mask"} | ({"mm_token_type_ids"} - set(ours))
    if not backbone.description.native_patches:
        theirs.pop("mm_token_type_ids")
    with torch.no_grad():
        logits = backbone.model(**ours).logits
        expected = backbone.model(**theirs, pixel_values=ours["pixel_values"]).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [2, 3])
def test_inputs_of_several_images_are_the_upstream_processors(any_backbone, monkeypatch, count):
    """The processor gets the images one by one, in the order in which they were taken."""
    from PIL import Image

    frames = noise(84, 2 * count).reshape(2, count, 84, 84, 3)
    backbone = backbone_from(any_backbone.model, any_backbone.tokenizer, 84)
    backbone = backbone._replace(image=backbone.image._replace(frames=count))
    processor = processor_of(backbone, monkeypatch)
    content = [*[{"type": "image"}] * count, {"type": "text", "text": "reacher easy"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [[Image.fromarray(image) for image in sample] for sample in frames]
    theirs = processor(images=images, text=[text] * 2, return_tensors="pt", return_mm_token_type_ids=True)

    prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
    stacked = torch.from_numpy(np.concatenate(list(frames.transpose(1, 0, 2, 3, 4)), -1))  # u8[2,84,84,3*count]
    ours = model_inputs(backbone, preprocess(stacked, backbone.image), prompt.ids.expand(2, -1), prompt)
    assert int(prompt.types.sum()) == count * backbone.image.tokens
    if not backbone.description.native_patches:
        theirs.pop("mm_token_type_ids")
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=2e-6, rtol=0)
    for key in set(theirs) & set(ours) - {"pixel_values"}:
        assert torch.equal(ours[key], theirs[key]), key
    assert set(theirs) - set(ours) == {"attention_mask"}
    with torch.no_grad():
        logits = backbone.model(**ours).logits
        expected = backbone.model(**{**theirs, "pixel_values": ours["pixel_values"]}).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


class Recording:
    """A tokenizer that keeps the texts which templates made, and has a template of its own or none."""

    def __init__(self, tokenizer, chat_template=None):
        self._tokenizer, self.chat_template, self.texts = tokenizer, chat_template, []

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text):
        self.texts.append(text)
        return self._tokenizer(text)


def layout(family, frames=1, chat_template=None, system="Rules."):
    """The text of a prompt, and the tokens of the prompt's first image with the two around it."""
    from covr_jax.vlm.models import tiny

    backbone = backbone_from(*tiny.build_tiny(0, family), is_tiny=True)
    tokenizer = Recording(backbone.tokenizer, chat_template)
    backbone = backbone._replace(tokenizer=tokenizer, image=backbone.image._replace(frames=frames))
    tokens = tokenizer.convert_ids_to_tokens(tokenize_prompt(backbone, Prompt(system, "What now?")).ids.tolist())
    pad = tokenizer.convert_ids_to_tokens(backbone.model.config.image_token_id)
    start = tokens.index(pad)
    return tokenizer.texts[-1], tokens[start - 1 : start + backbone.image.tokens + 1]


def test_llavas_layout():
    assert layout("llava")[0] == "USER: <image>\nRules.\nWhat now? ASSISTANT:"
    assert layout("llava", frames=2, system="")[0] == "USER: <image>\n<image>\nWhat now? ASSISTANT:"


TURNS = "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\n{}What now?<|im_end|>\n<|im_start|>assistant\n{}"
# The end of Qwen3.5's own template from 4B on, which lets the model think unless it is told not to.
THINKS = (
    "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}<|image_pad|>{% endfor %}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% else %}{{ '<think>\\n' }}{% endif %}"
)


def test_layouts_of_later_families():
    """As the released templates write them, each image between its two marks."""
    seen = ["<|vision_start|>", *["<|image_pad|>"] * 9, "<|vision_end|>"]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert layout("qwen3_vl") == (TURNS.format(image, ""), seen)
    assert layout("qwen3_5") == (TURNS.format(image, "<think>\n\n</think>\n\n"), seen)
    text, tokens = layout("internvl", frames=2)
    assert text == TURNS.format("<IMG_CONTEXT>\n<IMG_CONTEXT>\n", "")
    assert tokens == ["<img>", *["<IMG_CONTEXT>"] * 9, "</img>"]


def test_a_model_that_can_think_is_told_to_answer_at_once():
    assert layout("qwen3_5", chat_template=THINKS)[0].endswith("<|image_pad|><think>\n\n</think>\n\n")
