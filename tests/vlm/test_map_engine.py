"""Maps against the released classes' own forward pass, one patch at a time, and the engine around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor

from covr_jax.vlm.map_engine import MapVLM, similarity, to_cells
from covr_jax.vlm.models.clip import build_tiny_clip, load_clip, text_features
from covr_jax.vlm.models.pretrained import VLMLoadError
from covr_jax.vlm.prompts import TASKS, categories_for
from covr_jax.vlm.serving.protocol import PriorError

TASK = "cartpole_swingup"
CPU = (torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny", *CPU)


@pytest.fixture
def engine():
    return MapVLM("tiny", TASK, 49, query_batch=4)


def by_the_model_itself(model, processor, frames, texts):
    """Cosines f32[N,P*P,T] as ``CLIPModel`` computes them for images and texts, each patch posing as the image."""
    inputs = processor(text=list(texts), images=list(frames), return_tensors="pt", padding=True)
    columns = []
    for patch in range(1, 1 + (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2):

        def pose(module, args, kwargs, output, patch=patch):
            output.last_hidden_state = output.last_hidden_state.roll(-patch, dims=1)
            return output

        handle = model.vision_model.encoder.register_forward_hook(pose, with_kwargs=True)
        with torch.no_grad():
            columns.append(model(**inputs).logits_per_image / model.logit_scale.exp())
        handle.remove()
    return torch.stack(columns, 1)


@pytest.mark.parametrize("side", [56, 48])
def test_every_patch_is_as_alike_as_the_models_own_forward_pass_says(clip, side):
    frames = np.random.default_rng(side).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    texts = categories_for(TASK)
    size = {"height": 56, "width": 56}
    image_processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=size)
    model, tokenizer = build_tiny_clip()
    expected = by_the_model_itself(model, CLIPProcessor(image_processor, tokenizer), frames, texts)
    assert expected.shape == (3, 49, len(texts)) and expected.std() > 0.05
    found = similarity(clip, torch.tensor(frames), text_features(clip, texts)).flatten(1)
    # Resizing may differ by two of 256 levels, see test_images.
    np.testing.assert_allclose(found, expected.mean(-1), atol=1e-5 if side == 56 else 2e-2)


def test_cells_are_means_from_0_to_1_and_flat_maps_are_none():
    similar = torch.arange(16.0).reshape(1, 4, 4) / 100
    flat, undefined = torch.full((1, 4, 4), 0.3), torch.full((1, 4, 4), torch.nan)
    maps, valid = to_cells(torch.cat([similar, flat, undefined]), 2)
    assert valid.tolist() == [True, False, False]
    np.testing.assert_allclose(maps[0], [0.0, 0.2, 0.8, 1.0], atol=1e-6)  # means 2.5, 4.5, 10.5, 12.5
    assert not maps[1:].any()


def test_the_engine_answers_frame_by_frame(engine, frames):
    prior = engine.query(frames)  # six frames, in passes of four and two
    assert prior.action.shape == (6, 49) and np.asarray(prior.valid).all()
    np.testing.assert_allclose(np.asarray(prior.action).min(1), 0.0)
    np.testing.assert_allclose(np.asarray(prior.action).max(1), 1.0)
    for index in range(6):
        alone = engine.query(frames[index : index + 1])
        np.testing.assert_allclose(alone.action[0], prior.action[index], atol=1e-4)
    assert np.ptp(np.asarray(prior.action), axis=0).max() > 0.5  # and they differ
    assert (engine.counters["queries"], engine.counters["frames"], engine.counters["parse_failures"]) == (7, 12, 0)


def test_other_texts_give_other_maps(engine, frames):
    other = MapVLM("tiny", "walker_walk", 49)
    assert np.abs(np.asarray(other.query(frames).action) - np.asarray(engine.query(frames).action)).max() > 0.1


@pytest.mark.parametrize("task", TASKS)
def test_the_tiny_tokenizer_knows_every_word(clip, task):
    texts = categories_for(task)
    tokens = clip.tokenizer(list(texts)).input_ids
    for text, ids in zip(texts, tokens, strict=True):
        assert clip.tokenizer.unk_token_id not in ids and len(ids) == len(text.split()) + 2
        assert (ids[0], ids[-1]) == (clip.tokenizer.bos_token_id, clip.model.config.text_config.eos_token_id)


def test_padding_changes_no_text(clip):
    texts = categories_for(TASK)
    together = text_features(clip, texts)
    for row, text in zip(together, texts, strict=True):
        np.testing.assert_allclose(row, text_features(clip, (text,))[0], atol=1e-5)


def test_a_local_directory_gives_what_is_in_memory(engine, frames, tmp_path):
    model, tokenizer = build_tiny_clip()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = MapVLM(str(tmp_path), TASK, 49)
    assert isinstance(loaded.clip.model, CLIPModel)
    np.testing.assert_allclose(loaded.query(frames).action, engine.query(frames).action, atol=1e-6)
    assert str(loaded.parameter_count).startswith("trainable parameters: 0 of ")


def test_what_cannot_be_loaded_is_one_line(backbone, tmp_path):
    with pytest.raises(VLMLoadError, match="the safetensors snapshot of openai/clip-vit-base-patch16") as error:
        MapVLM(str(tmp_path / "nothing"), TASK, 49)
    assert "\n" not in str(error.value)
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(VLMLoadError, match="model_type 'qwen2_5_vl' is none of clip"):
        MapVLM(str(tmp_path), TASK, 49)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("tiny", "dog_run", 49), {}, "no prompt for task"),
        (("tiny", TASK, 48), {}, "a square number of cells, not 48"),
        (("tiny", TASK, 49), {"image_size": 84}, "image_size must be 56 for tiny, got 84"),
    ],
)
def test_wrong_arguments(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        MapVLM(*arguments, **options)


def test_a_checkpoint_knows_who_answered(engine, tmp_path):
    engine.save_adapter(tmp_path / "a")
    engine.load_adapter(tmp_path / "a")
    with pytest.raises(VLMLoadError, match="of another model or other texts"):
        MapVLM("tiny", "walker_walk", 49).load_adapter(tmp_path / "a")
    with pytest.raises(VLMLoadError, match="cannot read"):
        engine.load_adapter(tmp_path / "b")


def test_it_is_never_tuned(engine, frames):
    with pytest.raises(PriorError, match="not tuned"):
        engine.finetune(frames, None, None)
    with engine.disable_adapter() as same:
        assert same is engine
    assert engine.answer(frames[:2]) == ["a pole on a cart; a pole; a cart on a rail"] * 2
    assert not any(p.requires_grad for p in engine.clip.model.parameters())
