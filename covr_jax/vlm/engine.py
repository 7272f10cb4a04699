"""The VLM engine: answers frames with priors, is fine-tuned on the agent's experience, saves its adapter.

All calls block, and come from one thread at a time: answers and fine-tuning switch the weights between a merged and a
separate adapter. N samples, H W image, C = 3 channels for each of ``frames`` frames, A action.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from covr_jax.checks import check_shape
from covr_jax.runtime import dlpack
from covr_jax.runtime.rng import check_seed
from covr_jax.types import Prior
from covr_jax.vlm import budget, decode
from covr_jax.vlm.codec import format_action, max_answer_tokens
from covr_jax.vlm.defaults import RELEASED, TINY
from covr_jax.vlm.grammar import Grammar, answer_pattern, build_grammar
from covr_jax.vlm.merging import AdapterMerger
from covr_jax.vlm.models import adapter
from covr_jax.vlm.models.loading import (
    DEFAULT_MODEL,
    Backbone,
    PromptTokens,
    add_lora,
    base_model,
    load_backbone,
    preprocess,
    tokenize_prompt,
)
from covr_jax.vlm.models.pretrained import share_gpu
from covr_jax.vlm.prompts import prompt_for, short_prompt_for
from covr_jax.vlm.serving.protocol import Question, fresh_counters
from covr_jax.vlm.trainer import FinetuneOptions, finetune

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Actions, Frames, Report, Weights

# AdamW as the tiny models need it; the rest of their options are in ``defaults``.
TINY_ADAMW = {"betas": (0.9, 0.95), "schedule": "linear"}


def _after_each_layer(model: Any, call: Callable[[], Any]) -> None:
    """Calls a function whenever a block of the vision tower or of the language model has computed."""

    def hook(*_: Any) -> None:
        call()

    for blocks in model.modules():
        if isinstance(blocks, torch.nn.ModuleList):
            for block in blocks:
                block.register_forward_hook(hook)


class VLMEngine:
    """One VLM with one prompt and one adapter; see ``protocol.Engine``.

    Args:
      name: 'tiny', a local directory, or a hub id.
      task: one of ``prompts.TASKS``; chooses the prompt.
      action_dim: A.
      seed: of the adapter's initial weights and, with the number of the round, of the order of samples.
      frames: successive frames per sample, along C, oldest first.
      image_size: see ``load_backbone``.
      dtype: see ``load_backbone``.
      device: see ``load_backbone``.
      rank: of the LoRA adapter; None: that of ``defaults``.
      alpha: of the LoRA adapter; None: that of ``defaults``.
      dropout: of the LoRA adapter; None: that of ``defaults``.
      targets: 'all-linear', 'language' or a regular expression over module names.
      adapter_dir: adapter to start from, as ``save_adapter`` or peft writes it; None: a new one.
      decoding: 'constrained' to the action grammar, or 'free' generation that is parsed afterwards.
      signed: numbers carry their sign and have a fixed width; None: only for 'tiny'.
      query_batch: largest batch of one forward pass; longer queries are split, shorter ones padded. Of a released model
        it is less where the memory does not hold it.
      merge: answer with the adapter merged into the weights, once per round (faster; the weights without it are kept in
        the host's memory); None: where that memory is free.
      finetune_options: fields of ``FinetuneOptions`` that differ from the defaults.
      gpu_share: share of the GPU's memory that Torch may use in this process; None: all.
      backbone: a model in memory, to be used instead of loading ``name``.

    Attributes:
      counters: {'queries', 'frames', 'parse_failures', 'latency_s' (of the last query), 'query_s' (sum), 'rounds'}.
      parameter_count: numbers of trainable and of all parameters.
      working: called after every layer of every pass; a pass of a large model on a CPU may take many minutes.

    Raises:
      VLMLoadError: if the model cannot be loaded; one line that says what to do.
      ValueError: for an unknown task, a wrong action_dim or a wrong option.
    """

    def __init__(
        self,
        name: str = DEFAULT_MODEL,
        task: str = "cartpole_swingup",
        action_dim: int = 1,
        *,
        seed: int = 0,
        frames: int = 1,
        image_size: int | None = None,
        dtype="auto",
        device="cpu",
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float | None = None,
        targets: str = "all-linear",
        adapter_dir: str | Path | None = None,
        decoding: str = "constrained",
        signed: bool | None = None,
        query_batch: int = 64,
        merge: bool | None = None,
        finetune_options: dict | None = None,
        gpu_share: float | None = None,
        backbone: Backbone | None = None,
    ):
        if decoding not in ("constrained", "free"):
            raise ValueError(f"decoding must be 'constrained' or 'free', not {decoding!r}")
        self.name, self.task, self.action_dim, self.seed = name, task, action_dim, check_seed(seed)
        self.decoding, self.query_batch = decoding, query_batch
        prompt = prompt_for(task, action_dim, frames)  # first: a wrong task must fail before weights are read
        share_gpu(gpu_share, device)
        if backbone is None:
            backbone = load_backbone(name, image_size=image_size, dtype=dtype, device=device)
        backbone = backbone._replace(image=backbone.image._replace(frames=frames))
        tiny = backbone.is_tiny
        self.signed = tiny if signed is None else signed
        self.merge = merge is not False
        self.prompt = short_prompt_for(task, action_dim) if tiny else prompt
        preset = TINY if tiny else RELEASED
        overrides = {"rank": rank, "alpha": alpha, "dropout": dropout}
        lora: dict[str, Any] = {**preset.lora, **{k: v for k, v in overrides.items() if v is not None}}
        adamw = TINY_ADAMW if tiny else {}
        self.finetune_options = FinetuneOptions(**{**preset.finetune, **adamw, **(finetune_options or {})})
        self._backbone, self.parameter_count = add_lora(backbone, targets=targets, seed=seed, **lora)
        self._prompt_tokens = tokenize_prompt(self._backbone, self.prompt)
        about = backbone.description
        self._grammar = build_grammar(
            backbone.tokenizer, action_dim, self.signed, about.before_answer, about.answer_space
        )
        self._merger = AdapterMerger(self._backbone.model, required=merge is True)
        self._adapter_enabled = True
        self.counters = fresh_counters()
        self.working: Callable[[], None] | None = None
        _after_each_layer(self._backbone.model, lambda: self.working and self.working())
        if adapter_dir is not None:
            self.load_adapter(adapter_dir)

    @property
    def trainable_parameters(self) -> int:
        """Number of weights of the LoRA adapter."""
        return self.parameter_count.trainable

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights in memory, with those that merging the adapter keeps on the host."""
        return sum(p.nbytes for p in self._backbone.model.parameters()) + self._merger.kept_bytes

    @property
    def question(self) -> Question:
        """What is asked with every sample, for a server of the same model."""
        about, free = self._backbone.description, self.decoding == "free"
        pattern = None if free else answer_pattern(self.action_dim, self.signed, about.answer_space)
        size, tokens = self._backbone.image.size, self._max_new_tokens
        return Question(self.prompt, about.system_role, size, self.action_dim, pattern, tokens)

    def parts(self, *, merged: bool | None = None) -> tuple[Backbone, PromptTokens, Grammar]:
        """Returns the model, its prompt and the grammar of its answers.

        Args:
          merged: whether the adapter is merged into the weights, where memory allows it, or separate, so that it can be
            trained; None: as queries are answered. It stays so until the next call of the engine.
        """
        if self.merge and self._adapter_enabled if merged is None else merged:
            self.merge &= self._merger.merge()
        else:
            self._merger.unmerge()
        model = base_model(self._backbone.model) if self._merger.merged else self._backbone.model
        return self._backbone._replace(model=model), self._prompt_tokens, self._grammar

    def query(self, frames: Frames) -> Prior:
        """Returns the priors a_v of N samples.

        Args:
          frames: u8[N,H,W,C]; may be on another device than the VLM.

        Returns:
          JAX arrays: action f32[N,A] in [-1, 1] (zeros where not valid), valid bool[N].
        """
        started = time.perf_counter()
        actions, valid = decode.parse_all(self.answer(frames), self.action_dim)
        prior = Prior(dlpack.to_jax(torch.from_numpy(actions)), dlpack.to_jax(torch.from_numpy(valid)))
        self.counters["latency_s"] = time.perf_counter() - started
        self.counters["query_s"] += self.counters["latency_s"]
        self.counters["queries"] += 1
        self.counters["frames"] += len(valid)
        self.counters["parse_failures"] += int((~valid).sum())
        return prior

    def answer(self, frames: Frames) -> list[str]:
        """Returns the VLM's answers as text, one per sample. The text is untrusted where decoding is 'free'."""
        tensor = dlpack.to_torch(frames)
        self.parts()  # first, since merging takes memory
        texts, largest = [], self._largest_batch()
        for batch in torch.split(tensor, largest) if len(tensor) else ():
            texts += self._answer_batch(batch, largest)
        return texts

    def _largest_batch(self) -> int:
        """``query_batch``, or for released models the power of two that the free memory holds."""
        free = None if self._backbone.is_tiny else budget.free_bytes(self._backbone.model.device)
        if free is None:
            return self.query_batch
        tokens = self._max_new_tokens
        rows = int(budget.SAFETY * free / budget.answer_bytes(self._backbone, self._prompt_tokens, tokens))
        return min(self.query_batch, 1 << max(rows, 1).bit_length() - 1)

    @property
    def _max_new_tokens(self) -> int:
        return max_answer_tokens(self.action_dim)

    def _answer_batch(self, frames: torch.Tensor, largest: int) -> list[str]:
        """Answers at most ``largest`` samples, padded to the next power of two so that few sizes occur."""
        n = len(frames)
        size = min(largest, 1 << (n - 1).bit_length())
        # Repeating the last sample pads without writing into the buffer, which may belong to JAX.
        index = torch.arange(size).clamp_max(n - 1).to(frames.device)
        backbone, prompt, grammar = self.parts()
        pixel_values = preprocess(frames[index].to(prompt.ids.device), backbone.image)
        if self.decoding == "free":
            return decode.generate_texts(backbone, prompt, pixel_values, size, self._max_new_tokens)[:n]
        tokens = decode.decode_actions(backbone, prompt, grammar, pixel_values, size)
        return decode.answer_texts(backbone.tokenizer, grammar, tokens[:n])

    def finetune(
        self, frames: Frames, actions: Actions, weights: Weights, progress: Report | None = None
    ) -> dict[str, Any]:
        """Runs one COVR round: fine-tunes the VLM to answer with the agent's selected actions.

        Args:
          frames: u8[N,H,W,C].
          actions: f32[N,A].
          weights: f32[N], w_b of Eq. 6.
          progress: called as (step, number of steps, loss).

        Returns:
          The result of ``trainer.finetune``.

        Raises:
          ValueError: actions or weights of another shape, or that are not finite.
        """
        actions = np.asarray(actions, np.float32)
        check_shape("actions", actions, (len(frames), self.action_dim))
        answers = [format_action(action, signed=self.signed) for action in actions]
        # A copy, since JAX may donate the buffer during a long round.
        images = dlpack.to_torch(frames).clone()
        record = finetune(
            *self.parts(merged=False),
            images,
            answers,
            np.asarray(weights, np.float32),
            self.finetune_options,
            seed=self.seed * 1_000_003 + int(self.counters["rounds"]),
            progress=progress,
        )
        self.counters["rounds"] += 1
        return record

    @contextlib.contextmanager
    def disable_adapter(self):
        """Context in which the base model answers: the frozen VLM of the DPL, APL and VBE baselines."""
        before, self._adapter_enabled = self._adapter_enabled, False
        try:
            with self.parts(merged=False)[0].model.disable_adapter():
                yield self
        finally:
            self._adapter_enabled = before

    def save_adapter(self, directory: str | Path) -> Path:
        """Writes the adapter to a directory, which is returned; see ``models.adapter``."""
        adapter.save_adapter(self._backbone.model, Path(directory))
        return Path(directory)

    def load_adapter(self, directory: str | Path) -> int:
        """Loads what ``save_adapter`` wrote. Returns the number of adapted modules.

        Raises:
          VLMLoadError: if the file is missing or damaged, or does not fit this adapter module by module; the adapter is
            then unchanged.
        """
        return adapter.load_adapter(self.parts(merged=False)[0].model, Path(directory))
