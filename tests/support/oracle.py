"""Every method's update in float64 Torch, written from the papers.

The random numbers are JAX's, from the same keys.

B batch, H W image, C channels, A action, N features of the convolutions, K steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from covr_jax.config import SACConfig

Tree = Any
Images = list[torch.Tensor]
Views = Callable[[Any, Any, Any], tuple[Images, Images]]  # (key, obs, next_obs) -> views of each
mse = torch.nn.functional.mse_loss


def tensor(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x, np.float64))


def to_torch(tree: Tree) -> Tree:
    return jax.tree.map(tensor, tree)


# ------------------------------------------------------------------- networks


def convolutions(p: Tree, x: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    x = x.permute(0, 3, 1, 2)
    for index, stride in enumerate(strides):
        layer = p[f"conv_{index}"]
        x = torch.relu(torch.nn.functional.conv2d(x, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], stride))
    return x.permute(0, 2, 3, 1).flatten(1)


def linear(p: Tree, x: torch.Tensor) -> torch.Tensor:
    return x @ p["kernel"] + p["bias"]


def normalised(p: Tree, x: torch.Tensor) -> torch.Tensor:
    """LayerNorm."""
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return x * p["scale"] + p["bias"]


def mlp(p: Tree, x: torch.Tensor) -> torch.Tensor:
    for index in range(2):
        x = torch.relu(linear(p[f"Dense_{index}"], x))
    return linear(p["Dense_2"], x)


def latent_action(p: Tree, action: torch.Tensor) -> torch.Tensor:
    return linear(p["Dense_1"], torch.tanh(linear(p["Dense_0"], action)))


# --------------------------------------------------------------------- methods


class Paper(NamedTuple):
    """The differences of a paper's method from SAC from pixels."""

    views: Views
    weights: tuple[float, ...] = (1.0,)  # weight of the critic loss on each view
    tanh: bool = False  # features end in a tanh
    centre: bool = False  # pixels in [-0.5, 0.5]
    change: bool = False  # features of now minus those of one frame before
    residual: bool = False  # a = tanh(a_before + mu + sigma noise)
    deterministic: bool = False
    taus: tuple[float, float, float] = (0.05, 0.05, 0.01)  # convolutions, the critic's encoder, Q heads
    auxiliary: Callable[..., tuple[torch.Tensor, dict[str, Any]]] | None = None
    latent_actions: bool = False
    agent: Callable[..., Any] | None = None  # (paper, config) -> networks of its own; None: ``Agent``
    update: Callable[..., Any] | None = None  # in place of ``update``


class Agent(NamedTuple):
    """A paper's networks with the sizes of a config."""

    paper: Paper
    config: SACConfig

    def torso(self, p: Tree, images: torch.Tensor) -> torch.Tensor:
        x, strides = images / 255.0 - (0.5 if self.paper.centre else 0.0), self.config.conv_strides
        if not self.paper.change:
            return convolutions(p, x, strides)
        return convolutions(p["now"], x[..., 3:], strides) - convolutions(p["before"], x[..., :-3], strides)

    def encode(self, p: Tree, features: torch.Tensor) -> torch.Tensor:
        x = normalised(p["norm"], linear(p["linear"], features))
        return torch.tanh(x) if self.paper.tanh else x

    def q(self, p: Tree, auxiliary: Tree, features: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        if self.paper.latent_actions:
            action = latent_action(auxiliary["action"], action)
        x = torch.cat([self.encode(p["encoder"], features), action], -1)
        return torch.stack([mlp(jax.tree.map(lambda leaf: leaf[i], p["heads"]), x)[:, 0] for i in range(2)])  # noqa: B023

    def policy(
        self, p: Tree, features: torch.Tensor, noise: torch.Tensor, before: torch.Tensor | None, deviation: float
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Returns action and log probability, 0 for a deterministic policy with clipped noise."""
        x = self.encode(p["encoder"], features)
        if self.paper.deterministic:
            noisy = torch.tanh(mlp(p["head"], x)) + (deviation * noise).clamp(-0.3, 0.3)
            return noisy + (noisy.clamp(-1 + 1e-6, 1 - 1e-6) - noisy).detach(), 0.0
        x = torch.cat([x, before], -1) if self.paper.residual else x
        mean, log_std = mlp(p["head"], x).chunk(2, -1)
        mean = mean + before if self.paper.residual else mean
        low, high = self.config.log_std_min, self.config.log_std_max
        log_std = low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)
        u = mean + log_std.exp() * noise
        density = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
        return torch.tanh(u), (density - torch.log(4.0 / (u.exp() + (-u).exp()) ** 2)).sum(-1)


def make_agent(paper: Paper, config: SACConfig) -> Any:
    return (paper.agent or Agent)(paper, config)


# ---------------------------------------------------------------------- update


class Adam:
    """Adam (Kingma & Ba 2014) on a tree of tensors, with a decay AdamW; starts from optax's moments."""

    def __init__(self, optax_state: Any, rate: float, b1: float = 0.9, decay: float = 0.0):
        adam = optax_state[0]
        self.count, self.mu, self.nu = int(adam.count), to_torch(adam.mu), to_torch(adam.nu)
        self.rate, self.b1, self.decay = rate, b1, decay

    def step(self, params: Tree, grads: Tree) -> Tree:
        self.count += 1
        self.mu = jax.tree.map(lambda m, g: self.b1 * m + (1 - self.b1) * g, self.mu, grads)
        self.nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, self.nu, grads)
        first, second = 1 - self.b1**self.count, 1 - 0.999**self.count
        return jax.tree.map(
            lambda p, m, v: p - self.rate * (m / first / ((v / second).sqrt() + 1e-8) + self.decay * p),
            params,
            self.mu,
            self.nu,
        )


def gradient(loss: Callable[[Tree], tuple[torch.Tensor, Any]], params: Tree) -> tuple[Tree, torch.Tensor, Any]:
    leaves, structure = jax.tree.flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value, aux = loss(jax.tree.unflatten(structure, leaves))
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    grads = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, grads, strict=True)]
    return jax.tree.unflatten(structure, grads), value.detach(), aux


class Result(NamedTuple):
    params: Tree
    target: Tree
    log_alpha: torch.Tensor
    optimisers: dict[str, Adam]
    metrics: dict[str, Any]


def update(
    paper: Paper, config: SACConfig, rate: float, state: Any, batch: Any, key: Any, with_actor: bool = True
) -> Result:
    """Returns one update: critic, auxiliary loss and, with ``with_actor``, actor, temperature and targets."""
    if paper.update is not None:
        return paper.update(paper, config, rate, state, batch, key, with_actor)
    agent, noise = Agent(paper, config), float(state.exploration_noise)
    augment_key, critic_key, actor_key = jax.random.split(jax.random.clone(key), 3)
    views = paper.views(augment_key, batch.observation, batch.next_observation)
    params, target = to_torch(state.params), to_torch(state.target)
    log_alpha, metrics = tensor(state.log_alpha), {}
    optimisers = {"critic": Adam(state.critic_opt, rate), "actor": Adam(state.actor_opt, rate)}
    optimisers["alpha"] = Adam(state.alpha_opt, config.alpha_learning_rate, b1=config.alpha_beta1)

    y = _target(agent, params, target, views[1], batch, critic_key, log_alpha.exp(), noise)

    def critic_loss(p: Tree) -> Any:
        values = [
            agent.q(p["critic"], p.get("auxiliary"), agent.torso(p["torso"], x), tensor(batch.action)) for x in views[0]
        ]
        total = sum(w * (mse(q[0], y) + mse(q[1], y)) for w, q in zip(paper.weights, values, strict=True))
        return total, values[0].detach()

    names = ("torso", "critic", "auxiliary") if paper.latent_actions else ("torso", "critic")
    trained = {name: params[name] for name in names}
    grads, value, q = gradient(critic_loss, trained)
    metrics |= {"losses/critic": value.item(), "sac/q_mean": q.mean().item(), "td_error": (q - y).abs().mean(0).numpy()}
    params = params | optimisers["critic"].step(trained, grads)

    if paper.auxiliary is not None:
        aux_key = jax.random.fold_in(key, 3)
        params, more = auxiliary_step(agent, params, target, views, batch, aux_key, state, optimisers)
        metrics |= more
    if not with_actor:
        return Result(params, target, log_alpha, optimisers, metrics)
    params, log_alpha, more = _actor(agent, params, views[0][0], batch, actor_key, state, optimisers)
    return Result(params, _update_target(paper.taus, target, params), log_alpha, optimisers, metrics | more)


def normal(key: Any, *shape: int) -> torch.Tensor:
    return tensor(jax.random.normal(key, shape))


def _target(
    agent: Agent, params: Tree, target: Tree, views: Images, batch: Any, key: Any, alpha: torch.Tensor, noise: float
) -> torch.Tensor:
    """Returns the mean over the views of r + gamma (min Qbar(s', a') - alpha log pi(a'|s'))."""
    rows, dimensions = batch.action.shape
    noises, total = normal(key, len(views) * rows, dimensions), 0.0
    for number, images in enumerate(views):
        chosen = noises[number * rows : (number + 1) * rows]
        features = agent.torso(params["torso"], images)
        action, log_prob = agent.policy(params["actor"], features, chosen, tensor(batch.action), noise)
        q = agent.q(target["critic"], params["auxiliary"], agent.torso(target["torso"], images), action)
        value = q.min(0).values - alpha * log_prob
        total += tensor(batch.reward) + agent.config.discount * tensor(batch.discount) * value
    return total / len(views)


def auxiliary_step(
    agent: Agent, params: Tree, target: Tree, views: Any, batch: Any, key: Any, state: Any, optimisers: dict[str, Adam]
) -> tuple[Tree, dict[str, Any]]:
    loss, config = agent.paper.auxiliary, agent.config
    optimisers["auxiliary"] = Adam(state.auxiliary_opt, config.auxiliary_learning_rate, decay=config.weight_decay)
    mu = optimisers["auxiliary"].mu  # an AuxiliaryParams record of tensors
    trained = type(mu)(params["torso"], params["critic"]["encoder"], params["auxiliary"])
    grads, value, metrics = gradient(lambda p: loss(agent, p, target, views, batch, key), trained)
    trained = optimisers["auxiliary"].step(trained, grads)
    critic = params["critic"] | {"encoder": trained.encoder}
    params = params | {"torso": trained.torso, "critic": critic, "auxiliary": trained.auxiliary}
    return params, {"losses/auxiliary": value.item()} | metrics


def _actor(
    agent: Agent, params: Tree, images: torch.Tensor, batch: Any, key: Any, state: Any, optimisers: dict[str, Adam]
) -> tuple[Tree, torch.Tensor, dict[str, Any]]:
    (rows, dimensions), log_alpha = batch.action.shape, tensor(state.log_alpha)
    features, alpha, noise = agent.torso(params["torso"], images), log_alpha.exp(), float(state.exploration_noise)
    before = None if batch.previous_action is None else tensor(batch.previous_action)
    prior, valid = tensor(batch.prior.action), torch.tensor(batch.prior.valid)

    def loss(p: Tree) -> Any:
        sampled, log_prob = agent.policy(p, features, normal(key, rows, dimensions), before, noise)
        q = agent.q(params["critic"], params["auxiliary"], features, sampled).min(0).values
        base = (alpha * log_prob - q).mean()
        guidance = (((sampled - prior) ** 2).sum(-1) * valid).sum() / rows
        return base + float(state.guidance_weight) * guidance, (base.item(), guidance.item(), log_prob)

    grads, _, (base, guidance, log_prob) = gradient(loss, params["actor"])
    params = params | {"actor": optimisers["actor"].step(params["actor"], grads)}
    share = batch.prior.valid.mean() * state.guidance_weight
    metrics = {"losses/actor": base, "losses/guidance": guidance, "sac/effective_guidance_weight": share}
    if agent.paper.deterministic:
        return params, log_alpha, metrics | {"sac/exploration_noise": noise}
    gap = (-log_prob.detach() + dimensions).mean()  # entropy minus its target of -A
    metrics |= {"losses/alpha": (alpha * gap).item(), "sac/alpha": alpha.item()}
    metrics["sac/entropy"] = -log_prob.mean().item()
    return params, optimisers["alpha"].step(log_alpha, alpha * gap), metrics


def _update_target(taus: tuple[float, float, float], target: Tree, params: Tree) -> Tree:
    def ema(old: Tree, new: Tree, tau: float) -> Tree:
        return jax.tree.map(lambda o, n: (1 - tau) * o + tau * n, old, new)

    old, new = target["critic"], params["critic"]
    critic = {
        "encoder": ema(old["encoder"], new["encoder"], taus[1]),
        "heads": ema(old["heads"], new["heads"], taus[2]),
    }
    updated = {"torso": ema(target["torso"], params["torso"], taus[0]), "critic": critic}
    if "auxiliary" in target:  # heads with a target copy
        momentum = {name: params["auxiliary"][name] for name in target["auxiliary"]}
        updated["auxiliary"] = ema(target["auxiliary"], momentum, taus[1])
    return updated


def assert_close(got: Tree, expected: Tree, what: str, rel: float = 1e-4) -> None:
    """Asserts that every leaf differs by at most ``rel`` of its largest element."""
    paths, wanted = jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected)
    assert len(paths) == len(wanted) > 0
    for (path, leaf), want in zip(paths, wanted, strict=True):
        want = want.detach().numpy()
        assert leaf.shape == want.shape
        gap, largest = np.abs(np.asarray(leaf, np.float64) - want).max(), np.abs(want).max()
        assert gap <= rel * largest, f"{what}{jax.tree_util.keystr(path)}: {gap} of {largest}"
