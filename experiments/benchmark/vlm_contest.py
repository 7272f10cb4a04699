"""Contestants of ``vlm.py``: ways to decode and to transfer frames; and the speed of fine-tuning."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList

from covr_jax.runtime import dlpack
from covr_jax.vlm.decode import Grammar
from covr_jax.vlm.engine import VLMEngine
from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.backbones import INTERNVL, LLAVA, QWEN2_5_VL, QWEN2_VL, QWEN3_5, QWEN3_VL, released_config
from covr_jax.vlm.models.loading import Backbone, PromptTokens, backbone_from, frozen_eval, model_inputs, preprocess
from experiments.benchmark.turns import Contestant, Turn, row, run, take_turns

ACTION_DIM = 1
TASKS = {1: "cartpole_swingup", 2: "reacher_easy", 6: "walker_walk"}  # by action components
RELEASED = {
    "2b": QWEN2_VL,
    "3b": QWEN2_5_VL,
    "7b": LLAVA,
    "qwen3-2b": QWEN3_VL,
    "qwen3.5-2b": QWEN3_5,
    "internvl-2b": INTERNVL,
}


def random_backbone(architecture: str, device: str, depth: float = 1.0, dtype: str = "bfloat16") -> Backbone:
    """Makes a released architecture with random weights and the tokenizer of a tiny model.

    Args:
      architecture: a key of ``RELEASED``.
      device: Torch device.
      depth: share of the layers of both towers, whose sizes are the released ones.
      dtype: Torch's name of the weights' type.
    """
    description = RELEASED[architecture]
    sizes = {key: dict(value) if isinstance(value, dict) else value for key, value in description.released.items()}
    for tower in ("text_config", "vision_config"):
        layers = "depth" if "depth" in sizes[tower] else "num_hidden_layers"
        sizes[tower][layers] = round(depth * sizes[tower][layers])
    description = description._replace(released=sizes)
    tokenizer = tiny.tiny_tokenizer(description.family)
    config, small = released_config(description), tiny.tiny_config(tokenizer, description.family)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        if hasattr(small, name):
            setattr(config, name, getattr(small, name))
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = getattr(transformers, description.model_class)(config)
    finally:
        torch.set_default_dtype(before)
    return backbone_from(model.eval(), tokenizer)


def make_vlm(
    architecture: str,
    device: str,
    action_dim: int = ACTION_DIM,
    depth: float = 1.0,
    dtype: str = "bfloat16",
    **options: Any,
) -> VLMEngine:
    """Makes the engine as a run would; ``depth`` and ``dtype`` of ``random_backbone``, ``options`` of ``VLMEngine``."""
    name = architecture, TASKS[action_dim], action_dim
    if architecture in tiny.FAMILIES:
        return VLMEngine(*name, device=device, **options)
    return VLMEngine(*name, backbone=random_backbone(architecture, device, depth, dtype), **options)


def random_frames(count: int, size: int, seed: int = 0) -> jax.Array:
    """Returns noise u8[count,size,size,3] on JAX's device."""
    shape = (count, size, size, 3)
    return jax.device_put(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


class Automaton:
    """The action grammar for ``generate``: per state, which of all tokens may follow, and the next state.

    Args:
      grammar: of the answers.
      vocabulary: number of tokens of the model.
      device: where the tables are kept.
      whole: whether the model also emits the fixed start and end; else it starts after "Action: [" and ends at the last
        digit.
    """

    def __init__(self, grammar: Grammar, vocabulary: int, device: torch.device, *, whole: bool):
        before = grammar.prefix if whole else ()
        after = (*grammar.spelling.suffix, grammar.end) if whole else (grammar.end,)
        first, inner = len(before), len(grammar.table)
        count = first + inner + len(after)
        self.allowed = torch.zeros(count, vocabulary, dtype=torch.bool)
        self.following = torch.zeros(count, vocabulary, dtype=torch.long)
        for state, token in enumerate(before):
            self._edge(state, token, state + 1)
        for state, symbol in zip(*np.nonzero(grammar.table[:-1, :-1] >= 0), strict=True):
            self._edge(first + state, int(grammar.symbols[symbol]), first + int(grammar.table[state, symbol]))
        for k, token in enumerate(after):
            self._edge(first + inner - 1 + k, token, first + inner + k)
        self._edge(count - 1, grammar.end, count - 1)
        self.allowed, self.following = self.allowed.to(device), self.following.to(device)
        self.longest = len(before) + len(grammar.forced) + len(after)

    def _edge(self, state: int, token: int, target: int) -> None:
        self.allowed[state, token], self.following[state, token] = True, target


class Constraint(LogitsProcessor):
    """Constrains one call of ``generate`` to an automaton, for all rows at once."""

    def __init__(self, automaton: Automaton):
        self._automaton, self._state = automaton, None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Masks the scores of tokens that are not allowed."""
        if self._state is None:
            self._state = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        else:
            self._state = self._automaton.following[self._state, input_ids[:, -1]]
        return scores.masked_fill(~self._automaton.allowed[self._state], -torch.inf)


def generate(
    backbone: Backbone, prompt: PromptTokens, grammar: Grammar, automaton: Automaton, frames: torch.Tensor, whole: bool
) -> list[str]:
    """Answers u8[N,H,W,3] greedily with ``generate`` of Hugging Face: our inputs, its decoding loop and cache."""
    prefix = [] if whole else list(grammar.prefix)
    ids = torch.cat([prompt.ids, torch.tensor(prefix, dtype=torch.long, device=prompt.ids.device)])
    pixels = preprocess(frames.to(ids.device), backbone.image)
    inputs = model_inputs(backbone, pixels, ids.expand(len(frames), -1), prompt)
    inputs.pop("position_ids")  # ``generate`` makes its own
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with frozen_eval(backbone.model):
        out = backbone.model.generate(
            **inputs,
            max_new_tokens=automaton.longest,
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=grammar.end,
            pad_token_id=grammar.end,
            logits_processor=LogitsProcessorList([Constraint(automaton)]),
        )
    rows = [[*prefix, *(t for t in row if t != grammar.end)] for row in out[:, len(ids) :].tolist()]
    texts = [backbone.tokenizer.decode(r, clean_up_tokenization_spaces=False) for r in rows]
    return texts if whole else [text + "]" for text in texts]


SEPARATE = "generate_batched_adapter"  # of the contestants, the one with a separate adapter


class Priors:
    """Our query against ``generate``, with the weights that answer: the merged ones if the engine merges."""

    def __init__(self, engine: VLMEngine, size: int, largest: int):
        self._engine = engine
        backbone, self._prompt, self._grammar = engine.parts()
        device, vocabulary = self._prompt.ids.device, backbone.model.config.get_text_config().vocab_size
        self._automata = {w: Automaton(self._grammar, vocabulary, device, whole=w) for w in (True, False)}
        self._frames = random_frames(largest, size)
        self._images = torch.from_numpy(np.array(self._frames)).to(device)

    def generated(
        self, n: int, *, step: int | None = None, whole: bool = True, merged: bool | None = None
    ) -> list[str]:
        """Answers n frames with ``generate``, ``step`` at a time; ``merged`` as in ``VLMEngine.parts``."""
        texts, backbone = [], self._engine.parts(merged=merged)[0]
        for part in torch.split(self._images[:n], step or n):
            automaton = self._automata[whole]
            texts += generate(backbone, self._prompt, self._grammar, automaton, part, whole)
        return texts

    def contestants(self, n: int) -> dict[str, Callable[[], list[str]]]:
        """Returns name -> function that answers n frames."""
        ways: dict[str, Callable[[], list[str]]] = {
            "ours": lambda: self._engine.answer(self._frames[:n]),
            "generate_per_frame": partial(self.generated, n, step=1),
        }
        if n > 1:
            ways["generate_batched"] = partial(self.generated, n)
            ways["generate_batched_prefilled"] = partial(self.generated, n, whole=False)
            if self._engine.merge:
                ways[SEPARATE] = partial(self.generated, n, merged=False)
        return ways

    def rows(self, n: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
        """Measures answers per second of every contestant, and the share of its answers that equal ours."""
        ways = self.contestants(n)
        texts = {name: way() for name, way in ways.items()}
        same = {n: np.mean([a == b for a, b in zip(t, texts["ours"], strict=True)]) for n, t in texts.items()}
        if self._engine.parts()[0].model.dtype == torch.float32 and min(same.values()) < 1:
            raise AssertionError(f"answers differ at batch {n}: {same}")
        frames = self._frames[:n]
        timed: dict[str, Callable[[], Any]] = {**ways, "ours": lambda: self._engine.query(frames)}  # to priors in JAX
        switch = {name: partial(self._engine.parts, merged=False if name == SEPARATE else None) for name in ways}
        contestants = {name: Contestant(way, n, lambda: None, prepare=switch[name]) for name, way in timed.items()}
        turns = take_turns(contestants, rounds, seconds)
        return [
            {"batch": n} | row(name, taken, turns["ours"], "answers") | {"same_answers": float(same[name])}
            for name, taken in turns.items()
        ]


def merging_rows(engine: VLMEngine, batch: int, size: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measures our queries with a merged and a separate adapter, and the switch to each of them.

    Every round has a turn of each; a round before them is not counted. The adapter gets random weights: that of a new
    one has no effect.

    Raises:
      AssertionError: memory does not hold the merged weights.
    """
    generator = torch.Generator().manual_seed(0)
    for name, weight in engine.parts(merged=False)[0].model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    frames, calls = random_frames(batch, size), {True: 1, False: 1}
    switches: dict[bool, list[float]] = {True: [], False: []}
    turns: dict[bool, list[Turn]] = {True: [], False: []}
    texts: dict[bool, list[str]] = {}

    def ask(merge: bool) -> None:
        texts[merge] = engine.answer(frames)

    for _ in range(rounds + 1):
        for merge in (True, False):
            engine.merge = merge
            switches[merge].append(run(Contestant(engine.parts, 1, lambda: None), 1).wall)
            if engine.merge != merge:
                raise AssertionError("the memory does not hold the merged weights")
            texts[merge] = engine.answer(frames) if not turns[merge] else texts[merge]
            turns[merge].append(run(Contestant(partial(ask, merge), batch, lambda: None), calls[merge]))
            calls[merge] = max(1, round(seconds / (batch * turns[merge][0].wall)))
    same = float(np.mean([one == other for one, other in zip(texts[True], texts[False], strict=True)]))
    return [
        {"batch": batch, "action_dim": engine.action_dim}
        | row("merged" if merge else "separate", turns[merge][1:], turns[True][1:], "answers")
        | {"switch_s": statistics.median(switches[merge][1:]), "same_answers": same}
        for merge in (True, False)
    ]


def handover_rows(device: str, shapes: list[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
    """Measures the transfer of u8[N,S,S,3] from JAX to Torch on ``device``: by DLPack, or copied by NumPy."""
    rows = []
    for count, size in shapes:
        frames = random_frames(count, size)
        ways = {
            "dlpack": lambda f=frames: dlpack.to_torch(f, device),
            "numpy_copy": lambda f=frames: torch.from_numpy(np.array(f, copy=True)).to(device),
        }
        if not torch.equal(*(way() for way in ways.values())):
            raise AssertionError("the two ways give different frames")
        wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
        turns = take_turns({name: Contestant(way, 1, wait) for name, way in ways.items()}, rounds, 0.3)
        for name, taken in turns.items():
            rows.append(
                {
                    "frames": count,
                    "size": size,
                    "megabytes": frames.nbytes / 1e6,
                    "contestant": name,
                    "microseconds": 1e6 * statistics.median(turn.wall for turn in taken),
                    "same_memory": ways[name]().data_ptr() == frames.unsafe_buffer_pointer(),
                }
            )
    return rows


def finetune_row(engine: VLMEngine, size: int, steps: int, rounds: int) -> dict[str, Any]:
    """Measures samples per second of rounds of fine-tuning with RALW; the adapter continues from round to round."""
    batch = engine.finetune_options.batch_size
    frames, generator = random_frames(steps * batch, size), np.random.default_rng(0)
    actions, weights = generator.uniform(-1, 1, (len(frames), engine.action_dim)), np.ones(len(frames), np.float32)
    records = [engine.finetune(frames, actions, weights) for _ in range(rounds + 1)][1:]  # the first one is a warm-up
    if any(r["rolled_back"] or r["steps"] != steps for r in records):
        raise AssertionError("a round of fine-tuning was rolled back")
    rates = [steps * batch / record["seconds"] for record in records]
    row = {"batch": batch, "samples_per_s": statistics.median(rates), "least": min(rates), "most": max(rates)}
    return row | {"steps_per_round": steps, "trainable": engine.parameter_count.trainable}
