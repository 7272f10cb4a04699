"""MR.Q's networks and update in float64 Torch, written from the paper.

B batch, H W image, C channels, A action, K steps, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from covr_jax.config import SACConfig
from tests.support.oracle import (
    Adam,
    Paper,
    Result,
    Tree,
    Views,
    auxiliary_step,
    gradient,
    linear,
    normal,
    tensor,
    to_torch,
)

elu, huber = torch.nn.functional.elu, torch.nn.functional.huber_loss
BINS = np.array([np.sign(x) * (np.exp(abs(x)) - 1) for x in np.linspace(-10, 10, 65)])


def norm(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def mlp(p: Tree, x: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    for index in range(len(p) - 1):
        x = activation(norm(linear(p[f"Dense_{index}"], x)))
    return linear(p[f"Dense_{len(p) - 1}"], x)


class MRQ(NamedTuple):
    """The paper's networks with the sizes of a config; features of the ``torso`` are z_s."""

    paper: Paper
    config: SACConfig

    def torso(self, p: Tree, images: torch.Tensor) -> torch.Tensor:
        x = (images / 255.0 - 0.5).permute(0, 3, 1, 2)
        for index, stride in enumerate(self.config.conv_strides):
            layer = p["convolutions"][f"conv_{index}"]
            x = elu(torch.nn.functional.conv2d(x, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], stride))
        return elu(norm(linear(p["linear"], x.permute(0, 2, 3, 1).flatten(1))))

    def pair(self, p: Tree, z: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return mlp(p["mlp"], torch.cat([z, elu(linear(p["action"], action))], -1), elu)

    def q(self, p: Tree, z: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = self.pair(p["encoder"], z, action)
        heads = [jax.tree.map(lambda leaf: leaf[i], p["heads"]) for i in range(2)]  # noqa: B023
        return torch.stack([mlp(head, x, elu)[:, 0] for head in heads])

    def policy(
        self, p: Tree, z: torch.Tensor, noise: torch.Tensor, before: None, deviation: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the action with clipped noise, and u, which becomes it by a tanh."""
        u = mlp(p["head"], z, torch.relu)
        return (torch.tanh(u) + (deviation * noise).clamp(-0.3, 0.3)).clamp(-1, 1), u


def two_hot(reward: float) -> np.ndarray:
    """The weights of the neighbouring bins whose mean is the reward."""
    weights = np.zeros(65)
    above = next(i for i in range(1, 65) if reward < BINS[i] or i == 64)
    weights[above] = (min(reward, BINS[64]) - BINS[above - 1]) / (BINS[above] - BINS[above - 1])
    weights[above - 1] = 1 - weights[above]
    return weights


def linear_mdp(shift: Callable[[Any, Any], torch.Tensor]) -> Callable[..., Any]:
    """The encoders' loss; ``shift`` augments images at random."""

    def loss(agent: MRQ, p: Tree, target: Tree, views: Any, batch: Any, key: Any) -> Any:
        future, size = batch.future, agent.config.feature_dim
        rows = len(batch.action)
        images = shift(key, np.concatenate(future.observation))  # step after step
        z, sums = agent.torso(p.torso, views[0][0]), torch.zeros(3, dtype=torch.float64)
        for step, kept in enumerate(future.reached):
            with torch.no_grad():
                following = agent.torso(target["torso"], images[step * rows : (step + 1) * rows])
            out = linear(p.auxiliary["model"], agent.pair(p.encoder, z, tensor(future.action[step])))
            logits, z, end = out[:, :65], out[:, 65 : 65 + size], out[:, -1]
            label = tensor([two_hot(float(r)) for r in future.reward[step]])
            errors = [
                -(label * torch.log_softmax(logits, -1)).sum(-1),
                ((z - following) ** 2).mean(-1),
                (end - (1 - tensor(future.discount[step]))) ** 2,
            ]
            sums = sums + torch.stack([error[torch.tensor(kept)].mean() for error in errors])
        names = ("losses/reward", "losses/transition", "losses/terminal")
        total = 0.1 * sums[0] + sums[1] + 0.1 * sums[2]
        return total, dict(zip(names, sums.tolist(), strict=True))

    return loss


def update(
    paper: Paper, config: SACConfig, rate: float, state: Any, batch: Any, key: Any, with_actor: bool = True
) -> Result:
    """Returns one update: targets, critic, encoders and, with ``with_actor``, actor."""
    agent, noise, decay = MRQ(paper, config), float(state.exploration_noise), config.weight_decay
    augment_key, critic_key, _ = jax.random.split(jax.random.clone(key), 3)  # the actor's loss has no noise
    views = paper.views(augment_key, batch.observation, batch.next_observation)
    params, target = to_torch(state.params), to_torch(state.target)
    optimisers = {
        "critic": Adam(state.critic_opt, rate, decay=decay),
        "actor": Adam(state.actor_opt, rate, decay=decay),
    }
    if int(state.updates) % config.target_period == 0:
        scales = {"online": tensor(batch.reward_scale), "target": target["reward_scale"]["online"]}
        target = {name: params[name] for name in ("torso", "critic", "actor")} | {"reward_scale": scales}
    unit, target_unit = target["reward_scale"]["online"], target["reward_scale"]["target"]

    following = agent.torso(target["torso"], views[1][0])
    action, _ = agent.policy(target["actor"], following, normal(critic_key, *batch.action.shape), None, noise)
    value = target_unit * agent.q(target["critic"], following, action).min(0).values
    y = (tensor(batch.reward) + config.discount * tensor(batch.discount) * value) / unit
    z = agent.torso(params["torso"], views[0][0])

    def critic_loss(heads: Tree) -> Any:
        q = agent.q(params["critic"] | heads, z, tensor(batch.action))
        return huber(q[0], y) + huber(q[1], y), q.detach()

    trained = {"heads": params["critic"]["heads"]}
    grads, loss, q = gradient(critic_loss, trained)
    critic = params["critic"] | optimisers["critic"].step(trained, grads)
    params = params | {"critic": critic}
    metrics = {"losses/critic": loss.item(), "sac/q_mean": (unit * q.mean()).item()}
    metrics["td_error"] = (q - y).abs().mean(0).numpy()
    params, more = auxiliary_step(agent, params, target, views, batch, jax.random.fold_in(key, 3), state, optimisers)
    log_alpha, metrics = tensor(state.log_alpha), metrics | more
    if not with_actor:
        return Result(params, target, log_alpha, optimisers, metrics)
    params, more = _actor(agent, params, views[0][0], batch, state, optimisers)
    return Result(params, target, log_alpha, optimisers, metrics | more)


def _actor(
    agent: MRQ, params: Tree, images: torch.Tensor, batch: Any, state: Any, optimisers: dict[str, Adam]
) -> tuple[Tree, dict[str, Any]]:
    z = agent.torso(params["torso"], images)
    prior, valid = tensor(batch.prior.action), torch.tensor(batch.prior.valid)

    def loss(p: Tree) -> Any:
        action, u = agent.policy(p, z, torch.zeros(()), None, 0.0)
        base = -0.5 * agent.q(params["critic"], z, action).sum(0).mean() + 1e-5 * (u**2).mean()
        guidance = (((action - prior) ** 2).sum(-1) * valid).sum() / len(z)
        return base + float(state.guidance_weight) * guidance, (base.item(), guidance.item())

    grads, _, (base, guidance) = gradient(loss, params["actor"])
    share = batch.prior.valid.mean() * state.guidance_weight
    metrics = {"losses/actor": base, "losses/guidance": guidance, "sac/effective_guidance_weight": share}
    metrics["sac/exploration_noise"] = float(state.exploration_noise)
    return params | {"actor": optimisers["actor"].step(params["actor"], grads)}, metrics


def mrq(views: Views, shift: Callable[[Any, Any], torch.Tensor]) -> Paper:
    """Returns the paper; ``shift`` is what moves the images that follow."""
    return Paper(views, deterministic=True, auxiliary=linear_mdp(shift), agent=MRQ, update=update)
