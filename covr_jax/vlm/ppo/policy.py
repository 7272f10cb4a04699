"""The VLM as policy (the paper's VPF, after RL4VLM): samples answers, trained by PPO on their token log-probabilities.

Advantages are computed in JAX (``ppo.gae``), the loss in Torch (``ppo.loss``).
N samples, T tokens of an answer, K grammar symbols, H hidden width of the language model, A action.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from covr_jax.runtime import dlpack
from covr_jax.runtime.errors import one_line
from covr_jax.vlm import decode
from covr_jax.vlm.engine import VLMEngine
from covr_jax.vlm.grammar import Grammar
from covr_jax.vlm.models.loading import Backbone, PromptTokens, VLMLoadError, model_inputs, preprocess
from covr_jax.vlm.ppo.loss import ActionLogProbs, PPOOptions, learning_rate, ppo_loss

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Frames

STATE_FILE = "ppo.pt"  # of a saved policy, beside its adapter


class SampledActions(NamedTuple):
    """Sampled answers to N frames."""

    tokens: torch.Tensor  # i64[N,T], as from ``decode.decode_actions``
    action: np.ndarray  # f32[N,A]
    valid: np.ndarray  # bool[N]; answers under the grammar are always valid
    log_prob: np.ndarray  # f32[N], nats, of the whole answer
    value: np.ndarray  # f32[N]


class PPOBatch(NamedTuple):
    """Experience of one iteration."""

    frames: Frames
    tokens: torch.Tensor  # i64[N,T]
    log_prob: np.ndarray  # f32[N], when the answers were sampled
    value: np.ndarray  # f32[N], when the answers were sampled
    advantage: np.ndarray  # f32[N]
    target: np.ndarray  # f32[N], of the value


def value_head(width: int, hidden: tuple[int, ...], seed: int, device: torch.device) -> torch.nn.Module:
    """Makes a perceptron H -> 1 in float32. Torch's global generator is not touched.

    Args:
      width: H.
      hidden: widths of the hidden layers.
      seed: of the initial weights.
      device: where the weights are kept.
    """
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
    """Computes log-probabilities of answers under the grammar, in one forward pass with gradients.

    Forced tokens have probability one and count neither in the log-probability nor in the entropy. The value is
    computed from the last layer at the last token before the answer's first decision.

    Args:
      backbone: model and tokenizer.
      prompt: of every sample.
      grammar: of the answers.
      head: value head, f32[N,H] -> f32[N,1].
      frames: u8[N,H,W,C].
      tokens: i64[N,T], the answers.
      temperature: divides the logits.
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
    """Samples actions from the model of an engine and trains its adapter, with a value head, by PPO.

    Dropout stays off: with dropout the ratio of an unchanged policy would not be one.

    Args:
      engine: ``merge`` off saves its queries merging the adapter after every update.
      options: of PPO.
      hidden: widths of the value head's hidden layers.
      seed: of the value head, the samples and the order of minibatches.
    """

    def __init__(self, engine: VLMEngine, options: PPOOptions, hidden: tuple[int, ...] = (1024, 512), seed: int = 0):
        self.engine, self.options = engine, options
        self._backbone, self._prompt, self._grammar = engine.parts(merged=False)
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
        """Writes the adapter, and to STATE_FILE everything else that updates and samples depend on."""
        self.engine.save_adapter(directory)
        state = {
            "head": self.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "order": json.dumps(self._order.bit_generator.state),
            "iteration": self._iteration,
        }
        torch.save(state, directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        """Restores the policy that ``save`` wrote.

        Raises:
          VLMLoadError: if files are missing, damaged or of another model; one line.
        """
        self.engine.load_adapter(directory)
        try:
            state = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True)
            self.head.load_state_dict(state["head"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._generator.set_state(state["generator"])
            self._order.bit_generator.state = json.loads(state["order"])
            self._iteration = state["iteration"]
        except Exception as error:  # the errors of torch.load for damaged files share no base class
            raise VLMLoadError(f"cannot read {directory / STATE_FILE}: {one_line(error)}") from error

    def _score(self, frames: torch.Tensor, tokens: torch.Tensor) -> ActionLogProbs:
        return score(*self.engine.parts(merged=False), self.head, frames, tokens, self.options.temperature)

    def _pick(self, scores: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(scores / self.options.temperature, -1)
        return torch.multinomial(probabilities, 1, generator=self._generator)[:, 0]

    def sample(self, frames: Frames) -> SampledActions:
        """Samples one answer for each of N frames."""
        tokens, scores = [], []
        model = self.engine.parts(merged=False)
        for part in torch.split(dlpack.to_torch(frames), self.options.forward_batch):
            pixels = preprocess(part.to(self._prompt.ids.device), self._backbone.image)
            tokens.append(decode.decode_actions(*model, pixels, len(part), pick=self._pick))
            with torch.no_grad():
                scores.append(self._score(part, tokens[-1]))
        all_tokens = torch.cat(tokens)
        texts = decode.answer_texts(self._backbone.tokenizer, self._grammar, all_tokens)
        action, valid = decode.parse_all(texts, self.engine.action_dim)
        log_prob, value = (
            torch.cat([getattr(s, name) for s in scores]).cpu().numpy() for name in ("log_prob", "value")
        )
        return SampledActions(all_tokens, action, valid, log_prob, value)

    def values(self, frames: Frames, tokens: torch.Tensor) -> np.ndarray:
        """Returns V of N frames, f32[N].

        Args:
          frames: u8[N,H,W,C].
          tokens: i64[N,T], any answers; V does not depend on them.
        """
        with torch.no_grad():
            size = self.options.forward_batch
            parts = zip(torch.split(dlpack.to_torch(frames), size), torch.split(tokens, size), strict=True)
            return torch.cat([self._score(*part).value for part in parts]).cpu().numpy()

    def update(self, batch: PPOBatch) -> dict[str, float]:
        """Runs one PPO iteration: ``epochs`` passes over the batch, with one optimiser step per minibatch.

        Advantages are normalised over the whole batch. A step whose gradient is not finite is skipped and counted.

        Returns:
          Metrics, as means over the minibatches.
        """
        options, n = self.options, len(batch.log_prob)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._iteration, options)
        self._iteration += 1
        advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-5)
        device = self._prompt.ids.device
        columns = (batch.log_prob, batch.value, advantage, batch.target)
        data = [torch.as_tensor(np.asarray(x, np.float32), device=device) for x in columns]
        frames = dlpack.to_torch(batch.frames)
        rows: list[dict[str, float]] = []
        for _ in range(options.epochs):
            for index in np.array_split(self._order.permutation(n), max(1, n // options.minibatch)):
                rows.append(self._step(frames, batch.tokens, data, torch.as_tensor(index, device=device)))
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _step(
        self, frames: torch.Tensor, tokens: torch.Tensor, data: list[torch.Tensor], index: torch.Tensor
    ) -> dict[str, float]:
        """One optimiser step on the samples ``index`` i64[n], with gradients accumulated over forward batches."""
        metrics: dict[str, float] = {}
        for part in torch.split(index, self.options.forward_batch):
            share = len(part) / len(index)
            now = self._score(frames[part.to(frames.device)], tokens[part])
            log_prob, value, advantage, target = (x[part] for x in data)
            loss, latest = ppo_loss(now, log_prob, value, advantage, target, self.options)
            (share * loss).backward()
            metrics = {name: metrics.get(name, 0.0) + share * metric for name, metric in latest.items()}
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.options.max_grad_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return metrics | {"ppo/skipped": float(not finite)}
