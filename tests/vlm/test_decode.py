import numpy as np
import pytest
import torch

from covr_jax.vlm.codec import format_action
from covr_jax.vlm.decode import answer_texts, decode_actions, generate_texts, parse_all
from covr_jax.vlm.grammar import build_grammar
from covr_jax.vlm.models.kv_cache import cache_bytes, static_cache
from covr_jax.vlm.models.loading import model_inputs, positions, preprocess, repeat_positions, tokenize_prompt
from covr_jax.vlm.prompts import Prompt

TASKS = [(1, True), (2, True), (3, False), (1, False)]


def setup(backbone, frames, action_dim, signed):
    prompt = tokenize_prompt(backbone, Prompt("", "reacher easy"))
    grammar = build_grammar(backbone.tokenizer, action_dim, signed)
    return prompt, grammar, preprocess(torch.from_numpy(frames), backbone.image)


def allowed_pattern(action_dim, signed):
    """The grammar once more, independently, as 'what may follow this text'."""
    sign = ["+", "-"] if signed else ["-", "0", "1"]

    def following(body):
        done = body.count(", ")
        current = body.split(", ")[-1]
        digits = current.lstrip("+-")
        if len(digits) == 4:
            return [", "] if done < action_dim - 1 else ["]"]
        if not current:
            return sign
        if not digits:
            return ["0", "1"]
        if len(digits) == 1:
            return ["."]
        return [*"0123456789"] if digits[0] == "0" else ["0"]

    return following


@pytest.mark.parametrize(("action_dim", "signed"), TASKS)
def test_equals_generate_under_the_same_constraint(any_backbone, frames, action_dim, signed):
    backbone = any_backbone
    prompt, grammar, pixels = setup(backbone, frames, action_dim, signed)
    ours = answer_texts(backbone.tokenizer, grammar, decode_actions(backbone, prompt, grammar, pixels, 6))

    tokenizer, following = backbone.tokenizer, allowed_pattern(action_dim, signed)
    start = torch.cat([prompt.ids, torch.tensor(tokenizer.encode("Action: [", add_special_tokens=False))])
    end = tokenizer.eos_token_id

    def allowed(_, ids):
        body = tokenizer.decode(ids[len(start) :])
        return [end] if body.endswith("]") else tokenizer.convert_tokens_to_ids(following(body))

    inputs = model_inputs(backbone, pixels, start.expand(6, -1), prompt)
    inputs.pop("position_ids")
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    out = backbone.model.generate(
        **inputs,
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
        prefix_allowed_tokens_fn=allowed,
    )
    theirs = ["Action: [" + t for t in tokenizer.batch_decode(out[:, len(start) :], skip_special_tokens=True)]
    assert ours == theirs
    assert len(set(ours)) > 1  # noise frames: a decoder that ignores the image would fail here


def test_prompt_and_image_run_once(any_backbone, frames):
    """A forward pass per decision, over the tokens that are new since the last one; the image is looked at once."""
    backbone = any_backbone
    prompt, grammar, pixels = setup(backbone, frames, 2, True)
    lengths, images, caches = [], [], set()
    model = backbone.model

    def record(module, args, kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        images.append("pixel_values" in kwargs)
        caches.add(id(kwargs["past_key_values"]))

    with model.register_forward_pre_hook(record, with_kwargs=True):
        decode_actions(backbone, prompt, grammar, pixels, 6)
    # +0.43, -0.37: behind the prompt come sign|ones|.tenths|hundredths|, sign|... and the last digit is not run at all.
    assert lengths == [len(prompt.ids) + 1, 1, 2, 1, 2, 1, 2, 1]
    assert images == [True] + [False] * 7 and len(caches) == 1


def pointers(cache):
    """Addresses of all that a cache holds: keys, or the two states of linear attention."""
    held = [[layer.keys] if hasattr(layer, "keys") else [*states(layer)] for layer in cache.layers]
    return [tensor.data_ptr() for tensors in held for tensor in tensors]


def states(layer):
    return [*layer.conv_states.values(), *layer.recurrent_states.values()]


def test_a_row_of_the_cache_takes_what_it_is_said_to(any_backbone, frames):
    backbone = any_backbone
    prompt, _, pixels = setup(backbone, frames, 2, True)
    cache = static_cache(backbone.model.config, len(prompt.ids) + 5)
    with torch.no_grad():
        inputs = model_inputs(backbone, pixels, prompt.ids.expand(6, -1), prompt)
        backbone.model(**inputs, past_key_values=cache, use_cache=True)
    held = [layer.blocks if hasattr(layer, "keys") else states(layer) for layer in cache.layers]
    row = cache_bytes(backbone.model.config, len(prompt.ids) + 5, 4)
    assert sum(tensor.nbytes for tensors in held for tensor in tensors) == 6 * row


def test_static_cache_equals_the_dynamic_one_and_never_moves(any_backbone, frames):
    backbone = any_backbone
    prompt, _, pixels = setup(backbone, frames, 2, True)
    inputs = model_inputs(backbone, pixels, prompt.ids.expand(6, -1), prompt)
    static, memory, logits = static_cache(backbone.model.config, len(prompt.ids) + 5), [], []
    for cache in (static, None):
        given = {"past_key_values": cache} if cache is not None else {}
        with torch.no_grad():
            out = backbone.model(**inputs, **given, use_cache=True)
            parts = [out.logits]
            for step in (1, 3, 1):
                done = out.past_key_values.get_seq_length()
                memory.append(pointers(static))
                out = backbone.model(
                    input_ids=torch.full((6, step), 9),
                    position_ids=repeat_positions(positions(prompt, done + step)[..., done:], 6),
                    past_key_values=out.past_key_values,
                    use_cache=True,
                )
                parts.append(out.logits)
        logits.append(torch.cat(parts, 1))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
    assert all(places == memory[0] for places in memory)
    with pytest.raises(ValueError, match="the cache holds"), torch.no_grad():
        backbone.model(input_ids=torch.full((6, 1), 9), past_key_values=static, use_cache=True)


@pytest.mark.parametrize(("action_dim", "signed"), TASKS)
def test_batch_equals_one_by_one(any_backbone, frames, action_dim, signed):
    backbone = any_backbone
    prompt, grammar, pixels = setup(backbone, frames, action_dim, signed)
    together = decode_actions(backbone, prompt, grammar, pixels, 6)
    alone = [decode_actions(backbone, prompt, grammar, part, 1) for part in torch.chunk(pixels, 6)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(("action_dim", "signed"), TASKS)
def test_every_answer_is_a_valid_action(any_backbone, frames, action_dim, signed):
    backbone = any_backbone
    prompt, grammar, pixels = setup(backbone, frames, action_dim, signed)
    texts = answer_texts(backbone.tokenizer, grammar, decode_actions(backbone, prompt, grammar, pixels, 6))
    actions, valid = parse_all(texts, action_dim)
    assert valid.all() and actions.shape == (6, action_dim) and actions.dtype == np.float32
    for text, action in zip(texts, actions, strict=True):
        assert text.replace("-0.00", "+0.00" if signed else "0.00") == format_action(action, signed)


def test_free_generation_equals_generate_token_by_token(any_backbone, frames):
    backbone = any_backbone
    prompt, _, pixels = setup(backbone, frames, 1, True)
    texts = generate_texts(backbone, prompt, pixels, 6, max_new_tokens=5)
    ids = prompt.ids.expand(6, -1)
    with torch.no_grad():
        for _ in range(5):
            logits = backbone.model(**model_inputs(backbone, pixels, ids, prompt)).logits[:, -1]
            logits[:, backbone.model.config.image_token_id] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    end = backbone.tokenizer.eos_token_id
    for text, row in zip(texts, ids[:, len(prompt.ids) :].tolist(), strict=True):
        row = row[: row.index(end)] if end in row else row
        assert text == backbone.tokenizer.decode(row, skip_special_tokens=True)
