"""The VLM as the learner meets it: ask for priors, fine-tune on its own experience, save the adapter.

Synchronous: a call returns when it is done. Letters: N samples, H W image, C = 3 channels per frame, A action.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from covr_jax.runtime import dlpack
from covr_jax.types import Prior
from covr_jax.vlm import decode
from covr_jax.vlm.codec import format_action
from covr_jax.vlm.decode import Grammar
from covr_jax.vlm.models.loading import (
    DEFAULT_MODEL,
    Backbone,
    PromptTokens,
    VLMLoadError,
    add_lora,
    base_model,
    load_backbone,
    merged_copy,
    preprocess,
    tokenize_prompt,
)
from covr_jax.vlm.models.pretrained import share_gpu
from covr_jax.vlm.prompts import prompt_for, short_prompt_for
from covr_jax.vlm.serving.protocol import fresh_counters
from covr_jax.vlm.trainer import FinetuneOptions, finetune

# What fits 0.7 million parameters is not what fits three billion. On cartpole frames labelled clip(0.8 sin - x), 150
# steps reach a mean error of 0.09 (rank 32: 0.13; alpha = rank = 32 with rate 4e-3: 0.26).
TINY_PRESET = {"rank": 16, "alpha": 64.0, "dropout": 0.0}
TINY_FINETUNE = {
    "learning_rate": 2e-3,
    "batch_size": 32,
    "betas": (0.9, 0.95),
    "schedule": "linear",
    "warmup": 0.05,
    "label_smoothing": 0.0,
}
PAPER_PRESET = {"rank": 128, "alpha": 16.0, "dropout": 0.05}
DRIVING_ALPHA = 256.0  # the paper's in CARLA
ADAPTER_FILE = "adapter_model.safetensors"


class VLMEngine:
    """One VLM, one task, one adapter.

    Args:
      name: 'tiny', a local directory, or a hub id.
      task: one of ``prompts.TASKS``; chooses the prompt.
      action_dim: A.
      seed: adapter initialisation and, with the round's number, the order of its samples.
      frames: successive frames that a question shows, along C, the oldest first.
      image_size, dtype, device: see ``load_backbone``.
      rank, alpha, dropout: of the LoRA adapter; None: the paper's (r 128, alpha 16 and in CARLA 256, 0.05), or what
        fits 'tiny'.
      targets: 'all-linear', 'language' or a regular expression over module names.
      decoding: 'constrained' to the action grammar, or 'free' generation that is parsed afterwards.
      signed: numbers carry their sign and have a fixed width; None: only for 'tiny'.
      query_batch: static batch size of one forward pass; longer queries are split, shorter ones padded.
      merge: answer from a merged copy of the weights, made once per round (faster, costs a second copy of the model);
        None: only for 'tiny'.
      backbone: a model that is in memory already, instead of what ``name`` would load.
      finetune_options: fields of ``FinetuneOptions`` that differ from the defaults.
      gpu_share: of a GPU's memory that Torch may take in this process; None: all.

    Attributes:
      counters: {'queries', 'frames', 'parse_failures', 'latency_s' (of the last query), 'query_s' (sum), 'rounds'}.
      parameter_count: exact trainable and total parameters.

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
        self.name, self.task, self.action_dim, self.seed = name, task, action_dim, seed
        self.decoding, self.query_batch = decoding, query_batch
        prompt = prompt_for(task, action_dim, frames)  # before the weights: a wrong task should fail at once
        share_gpu(gpu_share, device)
        if backbone is None:
            backbone = load_backbone(name, image_size=image_size, dtype=dtype, device=device)
        backbone = backbone._replace(image=backbone.image._replace(frames=frames))
        tiny = backbone.is_tiny
        self.signed = tiny if signed is None else signed
        self.merge = tiny if merge is None else merge
        self.prompt = short_prompt_for(task, action_dim) if tiny else prompt
        paper = PAPER_PRESET | ({"alpha": DRIVING_ALPHA} if task.startswith("carla_") else {})
        preset = TINY_PRESET if tiny else paper
        given = {"rank": rank, "alpha": alpha, "dropout": dropout}
        lora = {**preset, **{k: v for k, v in given.items() if v is not None}}
        self.finetune_options = FinetuneOptions(**{**(TINY_FINETUNE if tiny else {}), **(finetune_options or {})})
        self._backbone, self.parameter_count = add_lora(backbone, targets=targets, seed=seed, **lora)
        self._prompt_tokens = tokenize_prompt(self._backbone, self.prompt)
        self._grammar = decode.build_grammar(backbone.tokenizer, action_dim, self.signed)
        self._merged = None  # cache of the merged copy; None when the adapter has changed
        self._adapter_enabled = True
        self.counters = fresh_counters()

    @property
    def trainable_parameters(self) -> int:
        """Weights of the LoRA adapter."""
        return self.parameter_count.trainable

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights held, the merged copy included."""
        models = [self._backbone.model] + ([self._merged] if self._merged is not None else [])
        return sum(p.numel() * p.element_size() for model in models for p in model.parameters())

    def parts(self, *, merged: bool | None = None) -> tuple[Backbone, PromptTokens, Grammar]:
        """The model, its question and the answers it may give.

        Args:
          merged: the copy that answers with the adapter in its weights, or the model beside its adapter, which can be
            trained; None: whichever answers queries.
        """
        if merged is None:
            merged = self.merge and self._adapter_enabled
        if not merged:
            return self._backbone, self._prompt_tokens, self._grammar
        if self._merged is None:
            self._merged = merged_copy(self._backbone)
        return self._backbone._replace(model=self._merged), self._prompt_tokens, self._grammar

    def query(self, frames) -> Prior:
        """a_v for some frames.

        Args:
          frames: u8[N,H,W,C], jax.Array or numpy; may live on another device than the VLM.

        Returns:
          Prior of jax arrays: action f32[N,A] in [-1, 1] (zeros where not valid), valid bool[N].
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

    def answer(self, frames) -> list[str]:
        """The VLM's answers as text, one per frame (u8[N,H,W,C]); for reports. Untrusted where decoding is 'free'."""
        frames = dlpack.to_torch(frames)
        texts = []
        for chunk in torch.split(frames, self.query_batch) if len(frames) else ():
            texts += self._answer_batch(chunk)
        return texts

    def _answer_batch(self, frames: torch.Tensor) -> list[str]:
        """At most ``query_batch`` frames; padded to the next power of two, so that few sizes ever occur."""
        n = len(frames)
        size = min(self.query_batch, 1 << (n - 1).bit_length())
        # Repeating the last frame pads without writing into the lent buffer.
        index = torch.arange(size).clamp_max(n - 1).to(frames.device)
        backbone, prompt, grammar = self.parts()
        pixel_values = preprocess(frames[index].to(prompt.ids.device), backbone.image)
        if self.decoding == "free":
            budget = 16 + 8 * self.action_dim
            return decode.generate_texts(backbone, prompt, pixel_values, size, budget)[:n]
        tokens = decode.decode_actions(backbone, prompt, grammar, pixel_values, size)
        return decode.answer_texts(backbone.tokenizer, grammar, tokens[:n])

    def finetune(self, frames, actions, weights, progress: Callable[[int, int, float], None] | None = None) -> dict:
        """One COVR round: the agent's selected experience becomes answers; see ``trainer.finetune`` for the result.

        Args:
          frames: u8[N,H,W,C]; actions: f32[N,A]; weights: f32[N], w_b of Eq. 6; jax or numpy arrays.
          progress: called as (step, total, loss).
        """
        actions = np.asarray(actions, np.float32).reshape(-1, self.action_dim)
        answers = [format_action(action, signed=self.signed) for action in actions]
        # The copy outlives this call's borrowed buffer, which JAX may want to donate during a long round.
        frames = dlpack.to_torch(frames).clone()
        record = finetune(
            self._backbone,
            self._prompt_tokens,
            self._grammar,
            frames,
            answers,
            np.asarray(weights, np.float32),
            self.finetune_options,
            seed=self.seed * 1_000_003 + int(self.counters["rounds"]),
            progress=progress,
        )
        self._merged = None
        self.counters["rounds"] += 1
        return record

    @contextlib.contextmanager
    def disable_adapter(self):
        """Inside, the base model answers: the frozen VLM of the DPL, APL and VBE baselines."""
        before, self._adapter_enabled = self._adapter_enabled, False
        try:
            with self._backbone.model.disable_adapter():
                yield self
        finally:
            self._adapter_enabled = before

    def save_adapter(self, directory) -> Path:
        """Writes adapter_model.safetensors and adapter_config.json; each file appears whole or not at all."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        model = self._backbone.model
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        _write(directory / ADAPTER_FILE, save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
        config = model.peft_config["default"].to_dict()
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        _write(directory / "adapter_config.json", json.dumps(plain, indent=2, default=str).encode())
        return directory

    def load_adapter(self, directory) -> int:
        """Loads what ``save_adapter`` wrote into the present adapter; returns the number of adapted modules.

        Raises:
          VLMLoadError: if the file is missing or damaged, or does not fit this adapter module by module; the present
            adapter is then untouched.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = Path(directory) / ADAPTER_FILE
        try:
            state = load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise VLMLoadError(f"cannot read the adapter {path}: {error}") from error
        model = self._backbone.model
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        # Key or shape mismatches would leave modules silently without adapter.
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in expected.items()}:
            raise VLMLoadError(f"the adapter {path} was made for another model, rank or set of target modules")
        set_peft_model_state_dict(model, state)
        self._merged = None
        active = [m for m in base_model(model).modules() if getattr(m, "active_adapters", None) == ["default"]]
        if len(active) * 2 != len(expected):
            raise VLMLoadError(f"only {len(active)} of {len(expected) // 2} adapter modules are active after loading")
        return len(active)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
