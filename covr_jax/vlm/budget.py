"""Memory of a VLM: what fine-tuning saves per sample, how many samples fit, and what a model needs before it is loaded.

Bytes everywhere. Saved activations are counted by autograd's own hooks, so the count holds for any architecture, and on
Torch's ``meta`` device without weights or arithmetic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from covr_jax.runtime import memory
from covr_jax.vlm.models.backbones import BACKBONES
from covr_jax.vlm.models.images import preprocess
from covr_jax.vlm.models.kv_cache import cache_bytes, linear_widths
from covr_jax.vlm.models.loading import Backbone, PromptTokens, add_lora, backbone_from, base_model, model_inputs

GB = 10**9
SAFETY = 0.8  # share of the free memory that is planned for; the rest is for fragments and temporaries
ANSWER_TOKENS = 24  # labels of six action components
_PROMPT_TOKENS = 128  # of text, about what the prompts of the tasks have
FEW = 4  # samples per pass below which recomputing activations, a third more time, pays


class Saved(NamedTuple):
    """Bytes that the backward pass of one sample needs."""

    plain: int
    recomputed: int  # with activation checkpointing: inputs of all layers, and one layer's activations


class Plan(NamedTuple):
    """How a batch passes through the model; it changes memory and time only."""

    micro_batch: int  # samples per forward pass
    checkpointing: bool


class _Shapes(TorchDispatchMode):
    """Lets a model on the meta device meet tensors of the CPU, from which it reads sizes.

    Args:
      selected: elements that a mask on the meta device selects: the image tokens.
    """

    def __init__(self, selected: int):
        super().__init__()
        self._selected = selected

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = args, kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(x.is_meta for x in tensors):
            if func is torch.ops.aten._local_scalar_dense.default:  # checks of values, which are not there
                return True if tensors[0].dtype == torch.bool else 1
            args, kwargs = tree_map_only(torch.Tensor, lambda x: x if x.is_meta else x.to("meta"), (args, kwargs))
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], [part for index in args[1] for part in self._numbers(index)])
        return func(*args, **kwargs)

    def _numbers(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Returns an index in place of one by a mask, which has a number per axis for each selected element."""
        if index is None or index.dtype != torch.bool:
            return [index]
        return [index.new_empty(self._selected, dtype=torch.long)] * index.ndim


def saved_bytes(backbone: Backbone, prompt: PromptTokens, labels: int) -> Saved:
    """Measures what one sample saves for the backward pass of fine-tuning; nothing is computed backward.

    Args:
      backbone: model with an adapter, on any device.
      prompt: of the sample, on the model's device, or on the CPU for one on the meta device.
      labels: label tokens of an answer.
    """
    layers = backbone.model.config.get_text_config().num_hidden_layers
    plain = _saved(backbone, prompt, labels)
    base = base_model(backbone.model)
    base.activation_checkpointing_enable({"use_reentrant": False})
    try:
        inputs = _saved(backbone, prompt, labels)
    finally:
        base.activation_checkpointing_disable()
    return Saved(plain, min(plain, inputs + plain // layers))


def _saved(backbone: Backbone, prompt: PromptTokens, labels: int) -> int:
    model, image = backbone.model, backbone.image
    frames = torch.zeros(1, image.size, image.size, 3 * image.frames, dtype=torch.uint8)
    ids = torch.cat([prompt.ids, prompt.ids.new_zeros(labels)])[None]
    inputs = model_inputs(backbone, preprocess(frames, image), ids, prompt)
    if model.device.type != "meta":
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
    else:  # tensors that hold sizes and positions stay where they can be read
        inputs = {name: x.to("meta") if x.is_floating_point() else x for name, x in inputs.items()}
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    found: dict[int, tuple[int, torch.Tensor]] = {}  # the tensors keep their storages alive, and so apart

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in parameters:
            found[storage._cdata] = storage.nbytes(), x
        return x

    shapes = _Shapes(int(prompt.types.sum())) if model.device.type == "meta" else contextlib.nullcontext()
    with _training(model), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), shapes:
        logits = model(**inputs, use_cache=False, logits_to_keep=labels + 1).logits
        logits.float().log_softmax(-1).sum()
    return sum(size for size, _ in found.values())


@contextlib.contextmanager
def _training(model: Any) -> Iterator[None]:
    """Context in training mode whose random numbers nobody misses."""
    was_training, device = model.training, model.device
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        model.train(was_training)


def answer_bytes(backbone: Backbone, prompt: PromptTokens, tokens: int) -> int:
    """Returns the bytes that one row of a query takes: its cache, and its widest layer.

    Args:
      backbone: model.
      prompt: of every row.
      tokens: of an answer.
    """
    config, length, itemsize = backbone.model.config, len(prompt.ids) + tokens, backbone.model.dtype.itemsize
    text = config.get_text_config()
    keys, values = linear_widths(text)
    # Linear attention makes three of each query and key and four of each value, in float32.
    widest = itemsize * 4 * text.hidden_size + max(itemsize * 2 * text.intermediate_size, 4 * (6 * keys + 4 * values))
    return cache_bytes(config, length, itemsize) + length * widest


def adapted_bytes(model: Any, *, pinned: bool = False) -> int:
    """Returns the bytes of the adapted layers' weights, which are kept in the host's memory while they are merged.

    Args:
      model: PeftModel with a LoRA adapter, on any device.
      pinned: in blocks of pinned memory, whose sizes Torch rounds up to powers of two.
    """
    weights = model.named_parameters(remove_duplicate=False)  # a tied output layer counts, which merging unties
    sizes = [weight.nbytes for name, weight in weights if name.endswith("base_layer.weight")]
    return sum(1 << (size - 1).bit_length() if pinned else size for size in sizes)


def plan(saved: Saved, free: int | None, batch_size: int) -> Plan:
    """Chooses the largest micro batch that fits; where few samples do, activations are recomputed.

    Args:
      saved: of one sample.
      free: bytes that can be allocated; None where nobody says: the whole batch.
      batch_size: samples per optimiser step.
    """
    if free is None:
        return Plan(batch_size, False)
    plain, recomputed = (min(batch_size, int(SAFETY * free // size)) for size in saved)
    if plain >= min(FEW, batch_size):
        return Plan(plain, False)
    return Plan(max(recomputed, 1), True)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that Torch can still allocate on a device, within its share of a GPU; None where nobody says."""
    if device.type != "cuda":
        return memory.free_bytes("host")
    free, total = torch.cuda.mem_get_info(device)
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free + held, int(share * total)) - used


def without_weights(config: Any, image_size: int | None = None, **lora: Any) -> tuple[Backbone, PromptTokens]:
    """Returns a model with an adapter that holds shapes only, in bfloat16 and float32, and a prompt.

    Args:
      config: of transformers, for a supported architecture.
      image_size: input height = width, pixels; None: the kind's default.
      **lora: arguments of ``add_lora``.
    """
    import transformers

    description = BACKBONES[config.model_type]
    config = type(config).from_dict(config.to_dict())  # a loaded model's names its attention too, a file's does not
    with torch.device("meta"):
        model = getattr(transformers, description.model_class)(config).to(torch.bfloat16)
    backbone = backbone_from(model, None, image_size)
    with torch.device("meta"):
        backbone, _ = add_lora(backbone, **lora)
    image = torch.arange(_PROMPT_TOKENS + backbone.image.tokens) < backbone.image.tokens
    ids = torch.where(image, config.image_token_id, 0)
    places = torch.arange(len(ids)).expand(*((3, 1) if description.native_patches else (1,)), -1)
    return backbone, PromptTokens(ids, image.long(), places)


class Needs(NamedTuple):
    """Bytes that a model takes on its device."""

    weights: int
    adapter: int  # float32
    training: int  # gradients of the adapter and AdamW's two moments
    saved: Saved  # per sample
    kept: int  # in a GPU's host, while or after the adapter is merged; a CPU's model takes less

    def to_answer(self) -> int:
        """Weights and adapter, merged or not; the cache of a few frames is small beside them."""
        return self.weights + self.adapter

    def to_tune(self, micro_batch: int, checkpointing: bool) -> int:
        """The same, what the optimiser keeps, and the activations of one pass."""
        per_sample = self.saved.recomputed if checkpointing else self.saved.plain
        return self.to_answer() + self.training + micro_batch * per_sample


def needs(backbone: Backbone, prompt: PromptTokens, labels: int) -> Needs:
    """Returns what a model with an adapter takes, from its shapes alone.

    Args:
      backbone: may be on the meta device.
      prompt: of a sample.
      labels: label tokens of an answer.
    """
    weights, adapter = (
        sum(p.numel() * p.element_size() for p in backbone.model.parameters() if p.requires_grad == trainable)
        for trainable in (False, True)
    )
    kept = adapted_bytes(backbone.model, pinned=True)
    return Needs(weights, adapter, 3 * adapter, saved_bytes(backbone, prompt, labels), kept)
