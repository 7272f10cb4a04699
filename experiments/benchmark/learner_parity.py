"""Our learner's state in the PyTorch peer's layout, and the gradients of one update of both from the same state.

Letters: B batch, A action.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch

from covr_jax.agents import LearnerState, augment
from covr_jax.types import Array, Batch
from experiments.benchmark.torch_rad import Draws, TorchBatch, TorchRAD

ADAM_BETA1 = 0.9


def torch_layout(tree: dict[str, Any], rows: int, *, channels_last: bool) -> dict[str, np.ndarray]:
    """Parameters (or gradients, or moments) by the peer's names: ``torso``, ``actor`` and ``critic``, as present.

    Args:
      tree: parameters of ours.
      channels_last: memory layout of the peer.
      rows: height = width of the last convolution's output, whose order the first linear layers depend on.
    """
    tree = jax.tree.map(np.asarray, tree)
    named = {}
    for name, layer in tree.get("torso", {}).items():
        prefix = f"torso.convs.{name.removeprefix('conv_')}"
        named |= {f"{prefix}.weight": layer["kernel"].transpose(3, 2, 0, 1), f"{prefix}.bias": layer["bias"]}
    for owner in sorted({"actor", "critic"} & tree.keys()):
        encoder = tree[owner]["encoder"]
        kernel = encoder["linear"]["kernel"]
        if not channels_last:
            kernel = kernel.reshape(rows, rows, -1, kernel.shape[-1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
        named |= _linear(f"{owner}.encoder.linear", {"kernel": kernel, "bias": encoder["linear"]["bias"]})
        norm = encoder["norm"]
        named |= {f"{owner}.encoder.norm.weight": norm["scale"], f"{owner}.encoder.norm.bias": norm["bias"]}
    for index in range(3):
        if "actor" in tree:
            named |= _linear(f"actor.head.{2 * index}", tree["actor"]["head"][f"Dense_{index}"])
        for twin in range(2) if "critic" in tree else ():
            layer = {name: leaf[twin] for name, leaf in tree["critic"]["heads"][f"Dense_{index}"].items()}
            named |= _linear(f"critic.heads.{twin}.{2 * index}", layer)
    return named


def _linear(name: str, layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}.weight": layer["kernel"].T, f"{name}.bias": layer["bias"]}


def load(peer: TorchRAD, state: LearnerState) -> None:
    """Give the peer our parameters, targets, temperature and Adam's moments."""
    for module, tree in ((peer.online, state.params), (peer.target, state.target)):
        module.load_state_dict({name: torch.tensor(leaf) for name, leaf in layout(peer, tree).items()})
    with torch.no_grad():
        peer.log_alpha.fill_(float(state.log_alpha))
    parameters = dict(peer.online.named_parameters())
    for name, (adam, *_) in (("critic", state.critic_opt), ("actor", state.actor_opt)):
        trees = [tree if name == "critic" else {name: tree} for tree in (adam.mu, adam.nu)]
        first, second = (layout(peer, tree) for tree in trees)
        for key, mean in first.items():
            _remember(peer, name, parameters[key], adam.count, mean, second[key])
    adam = state.alpha_opt[0]
    _remember(peer, "alpha", peer.log_alpha, adam.count, np.asarray(adam.mu), np.asarray(adam.nu))


def layout(peer: TorchRAD, tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """``torch_layout`` for this peer."""
    return torch_layout(tree, peer.rows, channels_last=peer.memory_format == torch.channels_last)


def _remember(
    peer: TorchRAD, name: str, parameter: torch.Tensor, count: Array, mean: np.ndarray, square: np.ndarray
) -> None:
    fused = peer.optimisers[name].defaults["fused"]
    peer.optimisers[name].state[parameter] = {
        "step": torch.tensor(float(count), device=parameter.device if fused else "cpu"),
        "exp_avg": torch.empty_like(parameter).copy_(torch.tensor(mean)),
        "exp_avg_sq": torch.empty_like(parameter).copy_(torch.tensor(square)),
    }


def to_torch(peer: TorchRAD, batch: Batch) -> TorchBatch:
    """The batch on the peer's device; images u8[B,H,W,C] become u8[B,C,H,W] in its memory format."""

    def images(x: Array) -> torch.Tensor:
        x = torch.tensor(np.asarray(x), device=peer.device).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=peer.memory_format)

    def number(x: Array) -> torch.Tensor:
        return torch.tensor(np.asarray(x)).to(peer.log_alpha)

    return TorchBatch(
        images(batch.observation),
        number(batch.action),
        number(batch.reward),
        number(batch.discount),
        images(batch.next_observation),
    )


def same_draws(peer: TorchRAD, key: Array, batch_size: int) -> Draws:
    """What our learner's update draws from this key."""
    augment_key, *noise_keys = jax.random.split(key, 3)
    offset_keys = jax.random.split(augment_key) if peer.crops else [augment_key] * 2
    offsets = [augment.random_offsets(k, batch_size, peer.margin) for k in offset_keys]
    noise = [jax.random.normal(k, (batch_size, peer.action_dim)) for k in noise_keys]
    first, second = (torch.tensor(np.asarray(x, np.int64), device=peer.device) for x in offsets)
    one, two = (torch.tensor(np.asarray(x)).to(peer.log_alpha) for x in noise)
    return Draws((first, second), (one, two))


def our_gradients(before: LearnerState, after: LearnerState, peer: TorchRAD) -> dict[str, np.ndarray]:
    """Gradients of an update with the actor, by the peer's names: what must have gone into Adam's first moments."""

    def entered(new: Any, old: Any) -> Any:
        gap = jax.tree.map(lambda n, o: np.asarray(n, np.float64) - ADAM_BETA1 * np.asarray(o, np.float64), new, old)
        return jax.tree.map(lambda x: x / (1 - ADAM_BETA1), gap)

    critic = entered(after.critic_opt[0].mu, before.critic_opt[0].mu)
    actor = entered(after.actor_opt[0].mu, before.actor_opt[0].mu)
    return layout(peer, critic | {"actor": actor})


def peer_gradients(peer: TorchRAD, batch: TorchBatch, draws: Draws) -> dict[str, np.ndarray]:
    """The same of the peer, which makes one update with the actor."""

    def left(actor: bool) -> dict[str, np.ndarray]:
        named = {n: p.grad for n, p in peer.online.named_parameters() if n.startswith("actor") == actor}
        return {name: np.array(grad.cpu(), np.float64) for name, grad in named.items() if grad is not None}

    batch = peer.augmented(batch, draws.offsets)
    peer.critic_step(batch, draws.noise[0])
    grads = left(actor=False)  # a copy: the actor's loss adds to the critic's
    peer.actor_step(batch.observation, draws.noise[1])
    peer.move_targets()
    return grads | left(actor=True)


def layer_errors(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Per parameter: largest absolute difference over the largest absolute value."""
    assert got.keys() == wanted.keys()
    return {
        name: float(np.abs(got[name] - want).max() / max(np.abs(want).max(), 1e-30)) for name, want in wanted.items()
    }
