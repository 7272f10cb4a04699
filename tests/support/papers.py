"""The methods' papers for the float64 oracle: augmentations and auxiliary losses.

B batch, H W image, C channels, A action, K steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from covr_jax.agents import augment
from covr_jax.agents.methods.mlr import sample_mask
from tests.support.mrq import mrq
from tests.support.oracle import Agent, Images, Paper, Tree, Views, latent_action, linear, mse, normalised, tensor

# --------------------------------------------------------------------- images


def plain(key: Any, observation: Any, following: Any) -> tuple[Images, Images]:
    del key
    return [tensor(observation)], [tensor(following)]


def translate_at(images: Any, offsets: Any, canvas: int) -> torch.Tensor:
    out = np.zeros((len(images), canvas, canvas, images.shape[-1]))
    side = images.shape[1]
    for target, image, (row, column) in zip(out, images, np.asarray(offsets), strict=True):
        target[row : row + side, column : column + side] = image
    return torch.tensor(out)


def cut(images: Any, offsets: Any, side: int) -> torch.Tensor:
    rows = [im[r : r + side, c : c + side] for im, (r, c) in zip(images, np.asarray(offsets), strict=True)]
    return tensor(np.stack(rows))


def translated(canvas: int) -> Views:
    """RAD's translate: the same offset for both images."""

    def views(key: Any, observation: Any, following: Any) -> tuple[Images, Images]:
        offsets = augment.random_offsets(key, len(observation), canvas - observation.shape[1])
        return [translate_at(observation, offsets, canvas)], [translate_at(following, offsets, canvas)]

    return views


def cropped(side: int) -> Views:
    """RAD's crop: independent offsets."""

    def views(key: Any, observation: Any, following: Any) -> tuple[Images, Images]:
        keys = jax.random.split(key)
        return [random_cut(keys[0], observation, side)], [random_cut(keys[1], following, side)]

    return views


def random_cut(key: Any, images: Any, side: int) -> torch.Tensor:
    return cut(images, augment.random_offsets(key, len(images), images.shape[1] - side), side)


def shifted(key: Any, images: Any, margin: int) -> torch.Tensor:
    """DrQ: the border repeated, then a random crop."""
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    return random_cut(key, padded, images.shape[1])


def shifts(margin: int, copies: int = 1) -> Views:
    def views(key: Any, observation: Any, following: Any) -> tuple[Images, Images]:
        keys = jax.random.split(key, 2 * copies)
        two = [
            [shifted(k, x, margin) for k in part]
            for part, x in ((keys[:copies], observation), (keys[copies:], following))
        ]
        return two[0], two[1]

    return views


def with_random_convolution(mild: Views) -> Views:
    """SVEA. The convolution is the library's, which has its own test, because its bytes must be the same."""

    def views(key: Any, observation: Any, following: Any) -> tuple[Images, Images]:
        keys = jax.random.split(key)
        (one,), after = mild(keys[0], observation, following)
        return [one, tensor(augment.random_conv(keys[1], one.numpy().astype(np.uint8)))], after

    return views


# ----------------------------------------------------------- auxiliary losses


def predictor(p: Tree, x: torch.Tensor) -> torch.Tensor:
    return linear(p["Dense_1"], torch.relu(normalised(p["LayerNorm_0"], linear(p["Dense_0"], x))))


def perceptron(p: Tree, x: torch.Tensor) -> torch.Tensor:
    return linear(p["Dense_1"], torch.relu(linear(p["Dense_0"], x)))


def latent_model(agent: Agent, p: Tree, target: Tree, views: Any, batch: Any, key: Any) -> Any:
    """DeepMDP: the next features and the reward from features and action."""
    del target, key
    (observation, *_), (following, *_) = views
    h = agent.encode(p.encoder, agent.torso(p.torso, observation))
    with torch.no_grad():
        after = agent.encode(p.encoder, agent.torso(p.torso, following))
    both = torch.cat([h, tensor(batch.action)], -1)
    transition = 0.5 * ((predictor(p.auxiliary["transition"], both) - after) ** 2).mean()
    reward = mse(predictor(p.auxiliary["reward"], both)[:, 0], tensor(batch.reward))
    return transition + reward, {"losses/transition": transition.item(), "losses/reward": reward.item()}


def distilled(agent: Agent, p: Tree, target: Tree, views: Any, batch: Any, key: Any) -> Any:
    """DGC-like: DeepMDP's losses, and the error between a 1x1 convolution of the feature map and valid VLM maps."""
    total, metrics = latent_model(agent, p, target, views, batch, key)
    features = agent.torso(p.torso, views[0][0])
    filters = agent.config.num_filters
    side = round((features.shape[1] / filters) ** 0.5)
    image = features.reshape(-1, side, side, filters).permute(0, 3, 1, 2)
    kernel = p.auxiliary["beside"]["kernel"].reshape(1, filters, 1, 1)
    predicted = torch.nn.functional.conv2d(torch.nn.functional.adaptive_avg_pool2d(image, 7), kernel)[:, 0]
    valid = torch.tensor(batch.maps.valid)
    expected = tensor(batch.maps.value).reshape(-1, 7, 7)[valid]
    value = mse((predicted + p.auxiliary["beside"]["bias"])[valid], expected)
    return total + value, metrics | {"losses/map": value.item()}


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy of each row with its own index as the label."""
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)), reduction="none")


def contrast(side: int) -> Callable[..., Any]:
    """CURL: features of one crop against the target encoder's features of another."""

    def loss(agent: Agent, p: Tree, target: Tree, views: Any, batch: Any, key: Any) -> Any:
        z = agent.encode(p.encoder, agent.torso(p.torso, views[0][0]))
        with torch.no_grad():
            other = agent.torso(target["torso"], random_cut(key, batch.observation, side))
            positive = agent.encode(target["critic"]["encoder"], other)
        return cross_entropy(z @ p.auxiliary["weight"] @ positive.T).mean(), {}

    return loss


def temporal_contrast(margin: int) -> Callable[..., Any]:
    """TACO: InfoNCE over the states after K actions, InfoNCE over two shifts, the error of the sum of K rewards."""

    def loss(agent: Agent, p: Tree, target: Tree, views: Any, batch: Any, key: Any) -> Any:
        del target
        heads, future, keys = p.auxiliary, batch.future, jax.random.split(key)

        def project(images: torch.Tensor) -> torch.Tensor:
            return torch.tanh(
                normalised(heads["state"]["norm"], linear(heads["state"]["linear"], agent.torso(p.torso, images)))
            )

        z = project(views[0][0])
        with torch.no_grad():
            later = project(shifted(keys[0], future.observation[-1], margin))
            other = project(shifted(keys[1], batch.observation, margin))
        u = torch.cat([latent_action(heads["action"], a) for a in tensor(future.action)], -1)
        u = torch.tanh(normalised(heads["sequence"]["norm"], linear(heads["sequence"]["linear"], u)))
        both, kept = torch.cat([z, u], -1), torch.tensor(future.valid)
        # Pairs within an episode; all images are negatives.
        temporal = cross_entropy(perceptron(heads["after"], both) @ heads["weight"] @ later.T)[kept].mean()
        instance = cross_entropy(z @ heads["weight"] @ other.T).mean()
        total = tensor(future.reward).sum(0)
        reward = mse(perceptron(heads["reward"], both)[kept, 0], total[kept])
        parts = {"temporal": temporal, "instance": instance, "reward": reward}
        return sum(parts.values()), {f"losses/{name}": value.item() for name, value in parts.items()}

    return loss


def perturbed(key: Any, images: Any, side: int) -> torch.Tensor:
    """Crops at random, and scales brightness by 1 + 5% of a normal number clipped at two deviations."""
    keys = jax.random.split(key)
    strength = 1 + 0.05 * tensor(jax.random.normal(keys[1], (len(images),))).clamp(-2, 2)
    return random_cut(keys[0], images, side) * strength[:, None, None, None]


def cosine_error(heads: Tree, momentum: Tree, predicted: torch.Tensor, target_z: torch.Tensor) -> torch.Tensor:
    """Returns 2 - 2 cos of the projected prediction and target."""
    online = perceptron(heads["prediction"], perceptron(heads["projection"], predicted))
    with torch.no_grad():
        fixed = perceptron(momentum["projection"], target_z)
    return 2 - 2 * torch.nn.functional.cosine_similarity(online, fixed, dim=-1)


def self_prediction(side: int) -> Callable[..., Any]:
    """SPR: a latent model unrolled along the actions, against the target encoder's features of what followed."""

    def loss(agent: Agent, p: Tree, target: Tree, views: Any, batch: Any, key: Any) -> Any:
        del views
        heads, future, keys = p.auxiliary, batch.future, jax.random.split(key)
        kept, rows = np.flatnonzero(future.valid), len(future.valid)
        z = agent.encode(p.encoder, agent.torso(p.torso, perturbed(keys[0], batch.observation, side)))
        later = perturbed(keys[1], np.concatenate(future.observation), side)  # step after step
        total = 0.0
        for step, action in enumerate(tensor(future.action)):
            z = predictor(heads["transition"], torch.cat([z, action], -1))
            with torch.no_grad():
                images = later[step * rows : (step + 1) * rows]
                target_z = agent.encode(target["critic"]["encoder"], agent.torso(target["torso"], images))
            total = total + cosine_error(heads, target["auxiliary"], z, target_z)[kept].mean()
        return total, {}

    return loss


def transformer(p: Tree, x: torch.Tensor) -> torch.Tensor:
    """Two pre-norm blocks with one head, on tokens [B,N,F]."""
    size = x.shape[-1]
    for block in (p["block_0"], p["block_1"]):
        h = normalised(block["attention_norm"], x) @ block["attention_in"]["kernel"]
        query, key, value = (h[..., i * size : (i + 1) * size] for i in range(3))
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + linear(block["attention_out"], mixed)
        h = torch.nn.functional.gelu(linear(block["perceptron_in"], normalised(block["perceptron_norm"], x)))
        x = x + linear(block["perceptron_out"], h)
    return x


def positions(steps: int, size: int) -> torch.Tensor:
    table = np.zeros((steps, size))
    waves = -(-size // 2)
    for step in range(steps):
        for column in range(size):
            angle = step / 10_000 ** (2 * (column % waves) / size)
            table[step, column] = np.sin(angle) if column < waves else np.cos(angle)
    return tensor(table)


def reconstruction(side: int) -> Callable[..., Any]:
    """MLR: the features of 16 observations from half of their patches and the actions between them.

    The mask is sampled by the library, which has its own test.
    """

    def loss(agent: Agent, p: Tree, target: Tree, views: Any, batch: Any, key: Any) -> Any:
        del views
        heads, future = p.auxiliary, batch.future
        kept, rows = np.flatnonzero(future.valid), len(future.valid)
        keys = jax.random.split(key, 3)
        sequence = np.concatenate([batch.observation[None], future.observation])
        mask = np.asarray(sample_mask(keys[0], sequence.shape[2], agent.config.mask_depth), np.uint8)
        masked = sequence * (1 - mask)[:, None, :, :, None]
        z = agent.encode(p.encoder, agent.torso(p.torso, perturbed(keys[1], np.concatenate(masked), side)))
        with torch.no_grad():
            whole = agent.torso(target["torso"], perturbed(keys[2], np.concatenate(sequence), side))
            target_z = agent.encode(target["critic"]["encoder"], whole).reshape(16, rows, -1)
        z = z.reshape(16, rows, -1)
        position = positions(16, z.shape[-1])
        tokens = []
        for step in range(16):
            tokens.append(z[step] + position[step])
            if step < 15:
                tokens.append(linear(heads["decoder"]["action"], tensor(future.action[step])) + position[step])
        decoded = transformer(heads["decoder"], torch.stack(tokens, 1))[:, ::2].transpose(0, 1)
        return cosine_error(heads, target["auxiliary"], decoded, target_z)[:, kept].mean(), {}

    return loss


def papers(size: int) -> dict[str, Paper]:
    """Returns the methods for images of ``size`` pixels, with augmentations scaled from the papers' sizes."""
    canvas, window, margin = round(1.08 * size), round(0.84 * size), max(round(4 * size / 84), 1)
    ddpg = {"tanh": True, "centre": True, "deterministic": True, "taus": (1.0, 0.01, 0.01)}
    return {
        "sac": Paper(plain),
        "rad": Paper(translated(canvas)),
        "drq": Paper(shifts(margin, 2), weights=(1.0, 1.0), tanh=True, taus=(0.01, 0.01, 0.01)),
        "drqv2": Paper(shifts(margin), **ddpg),
        "deepmdp": Paper(plain, auxiliary=latent_model),
        "curl": Paper(cropped(window), auxiliary=contrast(window)),
        "svea": Paper(with_random_convolution(shifts(margin)), weights=(0.5, 0.5), tanh=True),
        "resact": Paper(translated(canvas), change=True, residual=True, auxiliary=latent_model),
        "taco": Paper(shifts(margin), **ddpg, auxiliary=temporal_contrast(margin), latent_actions=True),
        "dgc_like": Paper(plain, auxiliary=distilled),
        "spr": Paper(cropped(window), auxiliary=self_prediction(window)),
        "mlr": Paper(cropped(window), auxiliary=reconstruction(window)),
        "mrq": mrq(shifts(margin), lambda key, images: shifted(key, images, margin)),
    }
