"""RAD's update (Laskin et al. 2020) in plain PyTorch: what the learner's benchmark and tests stand beside.

Written as the published code is: convolutions tied between actor and critic and cut off from the actor's loss, two
forward passes for the actor (one each for its own and the critic's features), twin Q, Adam, moving averages.
Randomness comes in from outside, so that the same draws can be given to another implementation.
Letters: B batch, H W image, C channels, F filters, A action.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from covr_jax.config import SACConfig


class TorchBatch(NamedTuple):
    """Transitions; images u8[B,C,H,W] in the peer's memory format, the rest float."""

    observation: Tensor
    action: Tensor  # [B,A]
    reward: Tensor  # [B]
    discount: Tensor  # [B]
    next_observation: Tensor


class Draws(NamedTuple):
    """What chance decides in one update."""

    offsets: tuple[Tensor, Tensor]  # i64[B,2] row and column, for observation and next observation
    noise: tuple[Tensor, Tensor]  # f[B,A] standard normal, for the critic's and the actor's action


class Features(nn.Module):
    def __init__(self, inputs: int, size: int):
        super().__init__()
        self.linear = nn.Linear(inputs, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class Torso(nn.Module):
    """Bytes to flat convolutional features."""

    def __init__(self, channels: int, config: SACConfig, channels_last: bool):
        super().__init__()
        self.channels_last = channels_last
        inputs = [channels, *config.filters[:-1]]
        self.convs = nn.ModuleList(
            nn.Conv2d(*layer)
            for layer in zip(inputs, config.filters, config.conv_kernels, config.conv_strides, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.convs[0].weight.dtype) / 255.0  # pyright: ignore[reportCallIssue, reportArgumentType]
        for conv in self.convs:
            x = torch.relu(conv(x))
        return (x.permute(0, 2, 3, 1) if self.channels_last else x).flatten(1)


class Actor(nn.Module):
    def __init__(self, inputs: int, action_dim: int, config: SACConfig):
        super().__init__()
        self.encoder = Features(inputs, config.feature_dim)
        self.head = mlp(config.feature_dim, config.hidden_dim, 2 * action_dim)
        self.range = (config.log_std_min, config.log_std_max)

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A squashed Gaussian action [B,A] and its log density [B]."""
        mean, log_std = self.head(self.encoder(features)).chunk(2, -1)
        low, high = self.range
        log_std = low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)
        pre_tanh = mean + log_std.exp() * noise
        gaussian = (-0.5 * noise.square() - log_std - 0.5 * float(np.log(2 * np.pi))).sum(-1)
        log_det = (2.0 * (float(np.log(2)) - pre_tanh - nn.functional.softplus(-2.0 * pre_tanh))).sum(-1)
        return torch.tanh(pre_tanh), gaussian - log_det


class Critic(nn.Module):
    def __init__(self, inputs: int, action_dim: int, config: SACConfig):
        super().__init__()
        self.encoder = Features(inputs, config.feature_dim)
        self.heads = nn.ModuleList(mlp(config.feature_dim + action_dim, config.hidden_dim, 1) for _ in range(2))

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """Q values [2,B]."""
        x = torch.cat([self.encoder(features), action], -1)
        return torch.stack([head(x)[:, 0] for head in self.heads])


class TorchRAD:
    """Networks, optimisers and the update; ``critic_step`` and ``actor_step`` leave their gradients in ``.grad``.

    Args:
      image_size: H = W of the batches' images; side: the same after augmentation, smaller for a crop.
      dtype: of parameters and arithmetic. channels_last: that memory format, and Adam as one kernel.
      compiled: losses through torch.compile. autocast: products in bfloat16.
    """

    def __init__(
        self,
        config: SACConfig,
        *,
        image_size: int,
        side: int,
        channels: int,
        action_dim: int,
        learning_rate: float,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        compiled: bool = False,
        autocast: bool = False,
    ):
        self.config, self.side, self.action_dim, self.device = config, side, action_dim, device
        self.margin, self.crops = abs(image_size - side), side < image_size
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast)
        rows = side
        for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
            rows = (rows - kernel) // stride + 1
        self.rows, features = rows, rows**2 * config.filters[-1]
        self.online, self.target = (
            nn.ModuleDict(  # pyright: ignore[reportCallIssue, reportArgumentType]
                {
                    "torso": Torso(channels, config, channels_last),
                    "actor": Actor(features, action_dim, config),
                    "critic": Critic(features, action_dim, config),
                }
            ).to(device, dtype, memory_format=self.memory_format)
            for _ in range(2)
        )
        del self.target["actor"]
        self.log_alpha = torch.tensor(np.log(config.init_temperature), device=device, dtype=dtype, requires_grad=True)
        critic = [*self.online["torso"].parameters(), *self.online["critic"].parameters()]
        self.optimisers = {
            "critic": torch.optim.Adam(critic, lr=learning_rate, fused=channels_last),
            "actor": torch.optim.Adam(self.online["actor"].parameters(), lr=learning_rate, fused=channels_last),
            "alpha": torch.optim.Adam(
                [self.log_alpha], lr=config.alpha_learning_rate, betas=(config.alpha_beta1, 0.999), fused=channels_last
            ),
        }
        wrap = (lambda f: torch.compile(f, mode="reduce-overhead")) if compiled else (lambda f: f)
        self.losses = {"critic": wrap(self._critic_loss), "actor": wrap(self._actor_loss)}

    # ------------------------------------------------------------- the update

    def draw(self, batch_size: int) -> Draws:
        """Fresh chance; a translation moves both images of a transition alike, crops are independent."""
        places = [self._offsets(batch_size) for _ in range(1 + self.crops)]
        noise = [torch.randn(batch_size, self.action_dim, device=self.device) for _ in range(2)]
        return Draws((places[0], places[-1]), (noise[0], noise[1]))

    def _offsets(self, batch_size: int) -> Tensor:
        return torch.randint(0, self.margin + 1, (batch_size, 2), device=self.device)

    @torch.no_grad()
    def act(self, images: Tensor, noise: Tensor) -> Tensor:
        """An action [B,A] for images u8[B,C,H,W], taken at their centre, and standard normal noise [B,A]."""
        centred = self._window(images, torch.full((len(images), 2), self.margin // 2, device=self.device))
        return self.online["actor"](self.online["torso"](centred), noise)[0]

    def update(self, batch: TorchBatch, draws: Draws, *, with_actor: bool) -> None:
        """One update; ``with_actor``: also actor, temperature and targets."""
        batch = self.augmented(batch, draws.offsets)
        self.critic_step(batch, draws.noise[0])
        if with_actor:
            self.actor_step(batch.observation, draws.noise[1])
            self.move_targets()

    def augmented(self, batch: TorchBatch, offsets: tuple[Tensor, Tensor]) -> TorchBatch:
        return batch._replace(
            observation=self._window(batch.observation, offsets[0]),
            next_observation=self._window(batch.next_observation, offsets[1]),
        )

    def _window(self, images: Tensor, offsets: Tensor) -> Tensor:
        """RAD's crop, or its translation on a black canvas: a window of the padded image."""
        if not self.crops:
            images, offsets = nn.functional.pad(images, [self.margin] * 4), self.margin - offsets
        windows = images.unfold(2, self.side, 1).unfold(3, self.side, 1)
        rows = torch.arange(len(images), device=self.device)
        cut = windows[rows, :, offsets[:, 0], offsets[:, 1]]
        return cut.contiguous(memory_format=self.memory_format)

    def critic_step(self, batch: TorchBatch, noise: Tensor) -> None:
        with self.autocast:
            loss = self.losses["critic"](batch, noise, self.log_alpha.detach().exp())
        self._descend("critic", loss)

    def _critic_loss(self, batch: TorchBatch, noise: Tensor, alpha: Tensor) -> Tensor:
        online, target = self.online, self.target
        with torch.no_grad():
            action, log_prob = online["actor"](online["torso"](batch.next_observation), noise)
            next_q = target["critic"](target["torso"](batch.next_observation), action)
            value = next_q.min(0).values - alpha * log_prob
            y = batch.reward + self.config.discount * batch.discount * value
        q = online["critic"](online["torso"](batch.observation), batch.action)
        return nn.functional.mse_loss(q[0], y) + nn.functional.mse_loss(q[1], y)

    def actor_step(self, observation: Tensor, noise: Tensor) -> None:
        """Actor, then temperature."""
        with self.autocast:
            loss, log_prob = self.losses["actor"](observation, noise, self.log_alpha.detach().exp())
        self._descend("actor", loss)
        gap = (-log_prob.detach() + self.action_dim).mean()  # entropy minus its target of -A
        self._descend("alpha", self.log_alpha.exp() * gap)

    def _actor_loss(self, observation: Tensor, noise: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        online = self.online
        action, log_prob = online["actor"](online["torso"](observation).detach(), noise)
        q = online["critic"](online["torso"](observation).detach(), action)
        return (alpha * log_prob - q.min(0).values).mean(), log_prob

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad()
        loss.backward()
        self.optimisers[name].step()

    @torch.no_grad()
    def move_targets(self) -> None:
        """theta_bar <- (1 - tau) theta_bar + tau theta."""
        online = dict(self.online.named_parameters())
        for name, parameter in self.target.named_parameters():
            heads = name.startswith("critic.heads")
            parameter.lerp_(online[name], self.config.critic_tau if heads else self.config.encoder_tau)
