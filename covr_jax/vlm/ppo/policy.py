"""The VLM as policy (the paper's VPF, after RL4VLM): it samples answers, and PPO trains it on their token log-probs.

Advantages come from ``advantages.gae`` in JAX. The clipped ratio is Torch's: its gradient runs through the VLM.
Letters: N samples, T tokens of an answer, K grammar symbols, H hidden width.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from covr_jax.runtime import dlpack
from covr_jax.types import Array
from covr_jax.vlm import decode
from covr_jax.vlm.decode import Grammar
from covr_jax.vlm.engine import VLMEngine
from covr_jax.vlm.models.loading import Backbone, PromptTokens, VLMLoadError, model_inputs, preprocess

STATE_FILE = "ppo.pt"


class PPOOptions(NamedTuple):
    """As ``config.VPFConfig``, where each number has its source."""

    epochs: int = 4
    minibatch: int = 128
    forward_batch: int = 32
    clip: float = 0.1
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    max_grad_norm: float = 0.01
    temperature: float = 0.2
    learning_rate: float = 1e-5
    final_learning_rate: float = 1e-9
    anneal_iterations: int = 25


class SampledActions(NamedTuple):
    """Answers to N frames."""

    tokens: torch.Tensor  # i64[N,T], as from ``decode.decode_actions``
    action: np.ndarray  # f32[N,A]
    valid: np.ndarray  # bool[N]; an answer under the grammar always parses
    log_prob: np.ndarray  # f32[N], of the whole answer
    value: np.ndarray  # f32[N]


class ActionLogProbs(NamedTuple):
    """What the policy thinks of given answers."""

    log_prob: torch.Tensor  # f32[N]
    entropy: torch.Tensor  # f32[N], mean over the tokens that the model decided
    value: torch.Tensor  # f32[N]


class PPOBatch(NamedTuple):
    """One iteration's experience, on the host but for the tokens."""

    frames: Array  # u8[N,H,W,C]
    tokens: torch.Tensor  # i64[N,T]
    log_prob: np.ndarray  # f32[N], when the answers were given
    value: np.ndarray  # f32[N], then
    advantage: np.ndarray  # f32[N]
    target: np.ndarray  # f32[N], of the value


def ppo_loss(
    now: ActionLogProbs,
    log_prob: torch.Tensor,
    value: torch.Tensor,
    advantage: torch.Tensor,
    target: torch.Tensor,
    options: PPOOptions,
) -> tuple[torch.Tensor, dict[str, float]]:
    """-mean min(r A, clip(r) A) + c_v/2 mean max((V - R)^2, (V_clip - R)^2) - c_e mean entropy.

    r = p(answer) / p_old(answer); V_clip keeps V within ``clip`` of the value of then.

    Args:
      log_prob, value, advantage, target: f32[N], of ``PPOBatch``.

    Returns:
      The loss, and numbers for the log.
    """
    ratio = torch.exp(now.log_prob - log_prob)
    gain = torch.min(ratio * advantage, ratio.clamp(1 - options.clip, 1 + options.clip) * advantage).mean()
    near = value + (now.value - value).clamp(-options.clip, options.clip)
    error = 0.5 * torch.max((now.value - target) ** 2, (near - target) ** 2).mean()
    entropy = now.entropy.mean()
    loss = -gain + options.value_weight * error - options.entropy_weight * entropy
    clipped = ((ratio - 1).abs() > options.clip).float().mean()
    numbers = {"policy": -gain, "value": error, "entropy": entropy, "clipped": clipped}
    return loss, {f"ppo/{name}": float(number.detach()) for name, number in numbers.items()}


def learning_rate(iteration: int, options: PPOOptions) -> float:
    """Cosine from the first to the final rate over ``anneal_iterations``, constant afterwards."""
    done = min(iteration / max(options.anneal_iterations, 1), 1.0)
    first, last = options.learning_rate, options.final_learning_rate
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * done))


def value_head(width: int, hidden: tuple[int, ...], seed: int, device: torch.device) -> torch.nn.Module:
    """A perceptron H -> 1 in float32; Torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[torch.nn.Module] = []
        for size in hidden:
            layers += [torch.nn.Linear(width, size), torch.nn.ReLU()]
            width = size
        return torch.nn.Sequential(*layers, torch.nn.Linear(width, 1)).to(device)


def score(
    backbone: Backbone,
    prompt: PromptTokens,
    grammar: Grammar,
    head: torch.nn.Module,
    frames: torch.Tensor,
    tokens: torch.Tensor,
    temperature: float,
) -> ActionLogProbs:
    """Log-probabilities of answers among those that the grammar allows, in one forward pass with gradients.

    Forced tokens have probability one and count neither in the log-probability nor in the entropy. The value is read
    off the last layer at the last token before the answer's first decision.

    Args:
      frames: u8[N,H,W,C]. tokens: i64[N,T].
    """
    device = prompt.ids.device
    symbols, table = (torch.as_tensor(x, device=device) for x in (grammar.symbols, grammar.table))
    start = torch.cat([prompt.ids, torch.tensor(grammar.prefix, device=device)])
    ids = torch.cat([start.expand(len(tokens), -1), tokens], 1)
    inputs = model_inputs(backbone, preprocess(frames.to(device), backbone.image), ids, prompt)
    keep = tokens.shape[1] + 1
    out = backbone.model(**inputs, use_cache=False, logits_to_keep=keep, output_hidden_states=True)
    choice = (tokens[..., None] == symbols).int().argmax(-1)
    states = [torch.zeros(len(tokens), dtype=torch.long, device=device)]
    for column in choice.T[:-1]:
        states.append(table[states[-1], column])
    allowed = table[torch.stack(states, 1)] >= 0  # [N,T,K]
    logits = out.logits[:, :-1].index_select(2, symbols).float() / temperature
    log_p = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), -1)
    chosen = log_p.gather(-1, choice[..., None])[..., 0]
    finite = log_p.masked_fill(~allowed, 0.0)
    decided = allowed.sum(-1) > 1
    entropy = -(finite.exp() * finite * allowed).sum(-1)
    value = head(out.hidden_states[-1][:, len(start) - 1].float())[:, 0]
    return ActionLogProbs(chosen.sum(1), (entropy * decided).sum(1) / decided.sum(1).clamp_min(1), value)


class TokenPolicy:
    """A VLM service's model with a value head, its sampling and its PPO update.

    Dropout stays off: with it the ratio of an unchanged policy would not be one.

    Args:
      service: with ``merge`` off, so that its queries see every update.
      hidden: widths of the value head's layers.
      seed: of head, samples and order.
    """

    def __init__(self, service: VLMEngine, options: PPOOptions, hidden: tuple[int, ...] = (1024, 512), seed: int = 0):
        self.service, self.options = service, options
        self._backbone, self._prompt, self._grammar = service.parts(merged=False)
        device = self._prompt.ids.device
        width = self._backbone.model.config.get_text_config().hidden_size
        self.head = value_head(width, hidden, seed, device)
        adapter = [p for p in self._backbone.model.parameters() if p.requires_grad]
        self._parameters = [*adapter, *self.head.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=options.learning_rate)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._order = np.random.default_rng(seed)
        self._iteration = 0

    def save(self, directory: Path) -> None:
        """Write the adapter, and in STATE_FILE what else an update or a sample depends on."""
        self.service.save_adapter(directory)
        state = {
            "head": self.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "order": json.dumps(self._order.bit_generator.state),
            "iteration": self._iteration,
        }
        torch.save(state, directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        """Go on as the policy that ``save`` wrote.

        Raises:
          VLMLoadError: files that are missing, damaged or of another model; one line.
        """
        self.service.load_adapter(directory)
        try:
            state = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True)
            self.head.load_state_dict(state["head"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._generator.set_state(state["generator"])
            self._order.bit_generator.state = json.loads(state["order"])
            self._iteration = state["iteration"]
        except Exception as error:  # torch.load has no base class for what damaged files do to it
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise VLMLoadError(f"cannot read {directory / STATE_FILE}: {line}") from error

    def _score(self, frames: torch.Tensor, tokens: torch.Tensor) -> ActionLogProbs:
        parts = self._backbone, self._prompt, self._grammar
        return score(*parts, self.head, frames, tokens, self.options.temperature)

    def _pick(self, scores: torch.Tensor) -> torch.Tensor:
        share = torch.softmax(scores / self.options.temperature, -1)
        return torch.multinomial(share, 1, generator=self._generator)[:, 0]

    def take(self, frames: Array) -> SampledActions:
        """Sampled answers for u8[N,H,W,C]."""
        lent, found = dlpack.to_torch(frames), []
        for part in torch.split(lent, self.options.forward_batch):
            pixels = preprocess(part.to(self._prompt.ids.device), self._backbone.image)
            tokens = decode.decode_actions(
                self._backbone, self._prompt, self._grammar, pixels, len(part), pick=self._pick
            )
            with torch.no_grad():
                found.append((tokens, self._score(part, tokens)))
        tokens = torch.cat([tokens for tokens, _ in found])
        texts = decode.answer_texts(self._backbone.tokenizer, self._grammar, tokens)
        action, valid = decode.parse_all(texts, self.service.action_dim)
        log_prob = torch.cat([scored.log_prob for _, scored in found]).cpu().numpy()
        return SampledActions(tokens, action, valid, log_prob, torch.cat([s.value for _, s in found]).cpu().numpy())

    def values(self, frames: Array, tokens: torch.Tensor) -> np.ndarray:
        """V of u8[N,H,W,C], f32[N]; ``tokens`` i64[N,T] are any answers."""
        with torch.no_grad():
            size, lent = self.options.forward_batch, dlpack.to_torch(frames)
            parts = zip(torch.split(lent, size), torch.split(tokens, size), strict=True)
            return torch.cat([self._score(*part).value for part in parts]).cpu().numpy()

    def update(self, batch: PPOBatch) -> dict[str, float]:
        """One PPO iteration: ``epochs`` passes in minibatches, each of which is one step of the optimiser.

        Advantages are normalised over the whole batch. An update that is not finite is left out and counted.
        """
        options, n = self.options, len(batch.log_prob)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._iteration, options)
        self._iteration += 1
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-5)
        device = self._prompt.ids.device
        host = (batch.log_prob, batch.value, advantage, batch.target)
        numbers = [torch.as_tensor(np.asarray(x, np.float32), device=device) for x in host]
        frames = dlpack.to_torch(batch.frames)
        rows: list[dict[str, float]] = []
        for _ in range(options.epochs):
            for index in np.array_split(self._order.permutation(n), max(1, n // options.minibatch)):
                rows.append(self._step(frames, batch.tokens, numbers, torch.as_tensor(index, device=device)))
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _step(
        self, frames: torch.Tensor, tokens: torch.Tensor, numbers: list[torch.Tensor], index: torch.Tensor
    ) -> dict[str, float]:
        logged: dict[str, float] = {}
        for part in torch.split(index, self.options.forward_batch):
            share = len(part) / len(index)
            now = self._score(frames[part.to(frames.device)], tokens[part])
            then, value, advantage, target = (x[part] for x in numbers)
            loss, found = ppo_loss(now, then, value, advantage, target, self.options)
            (share * loss).backward()
            logged = {name: logged.get(name, 0.0) + share * value for name, value in found.items()}
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.options.max_grad_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return logged | {"ppo/skipped": float(not finite)}
