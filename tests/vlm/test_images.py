import numpy as np
import pytest
import torch

from covr_jax.vlm.models.images import ImageSettings, preprocess, resize
from covr_jax.vlm.models.loading import backbone_from, model_inputs, tokenize_prompt
from covr_jax.vlm.prompts import Prompt

LEVEL = 1 / 255 / 0.26130258  # one of 256 levels after normalisation, in the channel where it is largest
SETTINGS = ImageSettings(84, 14, 2, 2)


def image_processor(family, size):
    """The upstream class (its PIL form, which needs no torchvision), set to squares of one size."""
    if family == "llava":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(size={"shortest_edge": size * size, "longest_edge": size * size})


def upstream(frames, size, family="qwen2_5_vl"):
    from PIL import Image

    out = image_processor(family, size)(images=[Image.fromarray(f) for f in frames], return_tensors="np")
    return np.asarray(out["pixel_values"]), np.asarray(out.get("image_grid_thw"))


def noise(side, n=3):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [84, 112])
def test_patches_equal_the_upstream_processor(size):
    expected, grid = upstream(noise(size), size)
    image = SETTINGS._replace(size=size)
    got = preprocess(torch.from_numpy(noise(size)), image).numpy()
    assert tuple(grid[0]) == image.grid
    # No resampling: only the order of float32 operations differs (measured 2.4e-7 to 4.8e-7).
    np.testing.assert_allclose(got, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
@pytest.mark.parametrize(("side", "size"), [(48, 84), (84, 224), (100, 84), (256, 224), (120, 336)])
def test_resampling_equals_the_upstream_processor(family, side, size):
    """On noise, the hardest case: at most two levels of 255 anywhere, and another level in under 1% of the values.

    Pillow computes in fixed point; what falls on half a level in one of the two passes may be rounded the other way.
    """
    image = SETTINGS._replace(size=size, patches=family != "llava")
    expected, _ = upstream(noise(side), size, family)
    got = preprocess(torch.from_numpy(noise(side)), image).numpy()
    assert got.shape == expected.shape
    difference = np.abs(got - expected)
    assert difference.max() < 2.01 * LEVEL and (difference > 1e-5).mean() < 0.01


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

    name = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen2_vl": "Qwen2VLProcessor", "llava": "LlavaProcessor"}
    family, tokenizer = backbone.description.family, backbone.tokenizer
    options = {"chat_template": tokenizer.chat_template or backbone.description.chat_template}
    if family == "llava":
        options |= {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
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
    # LLaVA's processor makes token types which its model does not take.
    assert set(theirs) - set(ours) == {"attention_mask"} | ({"mm_token_type_ids"} - set(ours))
    assert torch.equal(prompt.types.expand(2, -1), theirs["mm_token_type_ids"])
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
    assert torch.equal(prompt.types.expand(2, -1), theirs["mm_token_type_ids"])
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


def test_llavas_layout():
    from covr_jax.vlm.models import tiny

    backbone = backbone_from(*tiny.build_tiny(0, "llava"), is_tiny=True)
    seen = []
    render = backbone.tokenizer.apply_chat_template

    class Tokenizer:
        chat_template = None
        apply_chat_template = staticmethod(lambda *a, **k: seen.append(render(*a, **k)) or seen[-1])
        __call__ = staticmethod(backbone.tokenizer.__call__)

    tokenize_prompt(backbone._replace(tokenizer=Tokenizer()), Prompt("Rules.", "What now?"))
    assert seen == ["USER: <image>\nRules.\nWhat now? ASSISTANT:"]
    image = backbone.image._replace(frames=2)
    tokenize_prompt(backbone._replace(tokenizer=Tokenizer(), image=image), Prompt("", "What now?"))
    assert seen[1:] == ["USER: <image>\n<image>\nWhat now? ASSISTANT:"]
