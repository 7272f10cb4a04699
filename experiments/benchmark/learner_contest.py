"""The contestants of ``learner.py``: built on equal terms, compared in their gradients, timed in turns."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from covr_jax import presets, runtime
from covr_jax.agents import LearnerState, make_learner, make_method
from covr_jax.agents.networks import Precision, convolution
from covr_jax.config import AugmentConfig, SACConfig
from covr_jax.types import Batch, Prior
from experiments.benchmark import learner_parity as parity
from experiments.benchmark import roofline
from experiments.benchmark.naive_jax import NaiveRAD
from experiments.benchmark.torch_rad import TorchRAD
from experiments.benchmark.turns import GLIBC, Contestant, elsewhere, row, take_turns

CHANNELS, ACTION_DIM, LEARNING_RATE = 9, 6, 1e-3
WARM_UP = 4  # updates before gradients are compared: Adam's very first step is the gradient's sign
COMPARED = ("same_float64", "ours", "torch")
SCANNED = 16  # updates per call where loops are compiled: what the training loop does on accelerators


class Shapes(NamedTuple):
    """``side`` is ``image_size`` after the augmentation: smaller for a crop, larger for a translation."""

    image_size: int
    side: int
    sac: SACConfig


SHAPES = {
    "paper": Shapes(100, 84, SACConfig()),
    # On frames, since differences are the same network in other coordinates, which the peers lack.
    "demo": Shapes(40, 43, dataclasses.replace(presets.demo().sac, frame_basis="frames")),
    "tiny": Shapes(
        20,
        16,
        SACConfig(batch_size=4, hidden_dim=16, feature_dim=8, num_filters=4, conv_kernels=(3, 3), conv_strides=(2, 1)),
    ),
}


def random_batch(sac: SACConfig, image_size: int, seed: int = 0) -> Batch:
    """Random bytes, actions and rewards without a prior, on the host."""
    generator = np.random.default_rng(seed)
    size, images = sac.batch_size, (sac.batch_size, image_size, image_size, CHANNELS)
    return Batch(
        observation=generator.integers(0, 256, images, dtype=np.uint8),
        action=generator.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32),
        reward=generator.uniform(0, 1, size).astype(np.float32),
        discount=np.ones(size, np.float32),
        next_observation=generator.integers(0, 256, images, dtype=np.uint8),
        prior=Prior(np.zeros((size, ACTION_DIM), np.float32), np.zeros(size, bool)),
    )


class Bench:
    """One set of shapes and one precision; ``configured``: the process is set up as ours is."""

    def __init__(
        self, shapes: str, batch_size: int | None, precision: Precision, threads: int, *, configured: bool = True
    ):
        if configured:
            runtime.configure()
        self.arguments = (shapes, batch_size, precision, threads)
        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if (self.device == "cpu") != runtime.on_cpu():
            raise SystemExit(f"JAX computes on {jax.default_backend()}, Torch on {self.device}: nothing to compare")
        self.precision = precision
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True
        jax.config.update("jax_default_matmul_precision", "highest" if precision == "float32" else None)
        self.image_size, self.side, sac = SHAPES[shapes]
        self.sac = dataclasses.replace(sac, batch_size=batch_size or sac.batch_size, precision=precision)
        kind = "crop" if self.side < self.image_size else "translate"
        augment = AugmentConfig(size=self.side)
        self.method = make_method("rad", augment, self.image_size, task_default=kind)
        self.learner = make_learner(ACTION_DIM, LEARNING_RATE, self.method, self.sac)
        self.host_batch = random_batch(self.sac, self.image_size)
        self.batch: Batch = jax.tree.map(jnp.asarray, self.host_batch)
        self.key = jax.random.key(0)
        self.update = {flag: self._update(precision, with_actor=flag) for flag in (False, True)}
        self.pattern = tuple(index == 0 for index in range(self.sac.actor_update_every))

    def _update(self, precision: Precision, *, with_actor: bool) -> Any:
        sac = dataclasses.replace(self.sac, precision=precision)
        learner = make_learner(ACTION_DIM, LEARNING_RATE, self.method, sac)
        return runtime.jit(partial(learner.update, with_actor=with_actor), often=True)

    def _fresh(self, seed: int = 1) -> LearnerState:
        image = jnp.zeros((1, self.image_size, self.image_size, CHANNELS), jnp.uint8)
        return self.learner.init(jax.random.key(seed), image, jnp.zeros((1, ACTION_DIM)))

    @cached_property
    def warm(self) -> LearnerState:
        """The state at which numbers are compared."""
        state = self._fresh()
        for number in range(WARM_UP):
            state, _ = self.update[True](state, self.batch, jax.random.fold_in(self.key, number))
        return state

    def gradients(self) -> list[dict[str, Any]]:
        """Per parameter, largest difference from Torch's float64 gradient over its largest value.

        ``same_float64`` is ours in float64: whether both compute the same. ``ours`` and ``torch`` are the benchmark's
        own precision: a ReLU or a minimum of two that tips the other way shows there as some 1e-4, in either.
        """
        state = self.warm
        exact = self._torch_gradients(state, torch.float64)
        errors = {
            "ours": parity.layer_errors(self._our_gradients(state, self.update[True]), exact),
            "torch": parity.layer_errors(self._torch_gradients(state, torch.float32), exact),
        }
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
            ours = self._our_gradients(wide, self._update(precision="float32", with_actor=True))
            errors["same_float64"] = parity.layer_errors(ours, self._torch_gradients(wide, torch.float64))
        return [{"gradient": name} | {kind: errors[kind][name] for kind in COMPARED} for name in exact]

    def rounding(self) -> list[dict[str, Any]]:
        """What other precisions than float32 do to one update.

        Relative differences of its losses and, per parameter, the largest difference of gradients over their largest
        value (the median and the worst of all parameters).
        """

        def of(precision: Precision) -> tuple[dict[str, np.ndarray], dict[str, float]]:
            after, metrics = self._update(precision, with_actor=True)(self.warm, self.batch, self.key)
            losses = {name.removeprefix("losses/"): float(metrics[name]) for name in ("losses/critic", "losses/actor")}
            return parity.our_gradients(self.warm, after, self._peer()), losses

        gradients, losses = of("float32")
        rows = []
        for precision in ("tf32", "bfloat16"):
            other, other_losses = of(precision)
            errors = parity.layer_errors(other, gradients).values()
            row: dict[str, Any] = {"precision": precision}
            row |= {f"{name}_loss": abs(other_losses[name] / losses[name] - 1) for name in losses}
            rows.append(row | {"gradients_median": statistics.median(errors), "gradients_worst": max(errors)})
        return rows

    def _our_gradients(self, state: LearnerState, update: Callable[..., Any]) -> dict[str, np.ndarray]:
        after, _ = update(state, self.batch, self.key)
        return parity.our_gradients(state, after, self._peer())

    def _torch_gradients(self, state: LearnerState, dtype: torch.dtype) -> dict[str, np.ndarray]:
        peer = self._peer(dtype=dtype)
        parity.load(peer, state)
        draws = parity.same_draws(peer, self.key, self.sac.batch_size)
        return parity.peer_gradients(peer, parity.to_torch(peer, self.host_batch), draws)

    def _peer(self, *, dtype: torch.dtype = torch.float32, **options: Any) -> TorchRAD:
        return TorchRAD(
            self.sac,
            image_size=self.image_size,
            side=self.side,
            channels=CHANNELS,
            action_dim=ACTION_DIM,
            learning_rate=LEARNING_RATE,
            device=self.device,
            dtype=dtype,
            autocast=self.precision == "bfloat16" and dtype == torch.float32,
            **options,
        )

    def _torch(self, **options: Any) -> Contestant:
        peer = self._peer(**options)
        parity.load(peer, self._fresh())
        batch = parity.to_torch(peer, self.host_batch)

        def cycle() -> None:
            for with_actor in self.pattern:
                peer.update(batch, peer.draw(self.sac.batch_size), with_actor=with_actor)

        return Contestant(cycle, len(self.pattern), torch.cuda.synchronize if self.device == "cuda" else lambda: None)

    def _ours(self) -> Contestant:
        def step(state: LearnerState, batch: Batch, *, with_actor: bool) -> LearnerState:
            key = jax.random.fold_in(self.key, state.updates)
            return self.learner.update(state, batch, key, with_actor=with_actor)[0]

        return self._tuned(self._fresh(), self.batch, step)

    def _ours_vmapped(self, seeds: int) -> Contestant:
        """Independent learners with batches of their own; every learner's update counts."""

        def step(state: LearnerState, batch: Batch, *, with_actor: bool) -> LearnerState:
            keys = jax.random.split(jax.random.fold_in(self.key, state.updates[0]), seeds)
            return jax.vmap(partial(self.learner.update, with_actor=with_actor))(state, batch, keys)[0]

        states = [self._fresh(seed) for seed in range(seeds)]
        batches = [random_batch(self.sac, self.image_size, seed) for seed in range(seeds)]
        state, batch = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (states, batches))
        contestant = self._tuned(state, batch, step)
        return contestant._replace(amount=seeds * contestant.amount)

    def _tuned(self, state: LearnerState, batch: Batch, step: Callable[..., LearnerState]) -> Contestant:
        """As the training loop does it: piece by piece on CPU, several updates in one rolled loop elsewhere."""
        cycles = 1 if runtime.on_cpu() else max(1, SCANNED // len(self.pattern))

        def cycle(state: LearnerState, batch: Batch, update: Callable[..., LearnerState]) -> LearnerState:
            for with_actor in self.pattern:
                state = update(state, batch, with_actor=with_actor)
            return state

        def scan(state: LearnerState, batch: Batch) -> LearnerState:
            return jax.lax.scan(lambda carry, _: (cycle(carry, batch, step), None), state, None, length=cycles)[0]

        rolled = runtime.jit(scan, donate_argnums=0)
        pieces = runtime.jit(step, donate_argnums=0, static_argnames="with_actor")
        held = [state]

        def work() -> None:
            held[0] = cycle(held[0], batch, pieces) if runtime.on_cpu() else rolled(held[0], batch)

        return Contestant(work, cycles * len(self.pattern), lambda: jax.block_until_ready(held[0]))

    def naive(self) -> Contestant:
        dtype = jnp.bfloat16 if self.precision == "bfloat16" else jnp.float32
        naive, held = NaiveRAD(self.sac, self.method.augmentation, LEARNING_RATE, dtype), [self._fresh()]

        def cycle() -> None:
            for with_actor in self.pattern:
                key = jax.random.fold_in(self.key, held[0].updates)
                held[0] = naive.jitted[with_actor](held[0], self.batch, key)

        return Contestant(cycle, len(self.pattern), lambda: jax.block_until_ready(held[0]))

    def rows(self, rivals: Sequence[str], seeds: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
        """Median, least and most updates per second of each, and how many times as fast ours is."""
        makers = {
            "torch": self._torch,
            "torch_channels_last": partial(self._torch, channels_last=True),
            "torch_compile": partial(self._torch, channels_last=True, compiled=True),
            "naive_jax": self.naive,
            "naive_jax_alone": lambda: elsewhere(naive_alone, *self.arguments, **GLIBC),
        }
        contestants = {"ours": self._ours()} | {name: makers[name]() for name in rivals}
        if seeds > 1:
            contestants[f"ours_vmap_{seeds}"] = self._ours_vmapped(seeds)
        turns = take_turns(contestants, rounds, seconds)
        return [row(name, taken, turns["ours"]) for name, taken in turns.items()]

    def summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """What our rate means: work per update by XLA's count and by hand, work per second, size of the state."""
        state = jax.eval_shape(self._fresh)
        flops = [roofline.cost_of(self.update[flag], state, self.batch, self.key).flops for flag in self.pattern]
        by_hand = flops_per_update(self.sac, self.side)
        rate = next(row["updates_per_s"] for row in rows if row["contestant"] == "ours")
        return {
            "device": jax.devices()[0].device_kind,
            "convolutions": "convolution.cc" if convolution.has_kernel() else "XLA",
            "gflop_per_update": statistics.mean(flops) / 1e9,
            "gflop_by_hand": by_hand / 1e9,
            "gflop_per_s": rate * by_hand / 1e9,
            "state_mb": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1e6,
        }


def naive_alone(*arguments: Any) -> Contestant:
    """The naive learner of a process that ``covr_jax.runtime`` has not configured."""
    return Bench(*arguments, configured=False).naive()


def worst(gradients: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each comparison the parameter with the largest error."""
    found = ((kind, *max((row[kind], row["gradient"]) for row in gradients)) for kind in COMPARED)
    return [{"compared": kind, "largest_error": error, "of": name} for kind, error, name in found]


def flops_per_update(sac: SACConfig, side: int) -> float:
    """Multiplications and additions of matrix products and convolutions, averaged over the actor's period."""
    rows, channels, convs = side, CHANNELS, []
    for filters, kernel, stride in zip(sac.filters, sac.conv_kernels, sac.conv_strides, strict=True):
        rows = (rows - kernel) // stride + 1
        convs.append(2 * kernel**2 * channels * filters * rows**2)
        channels = filters
    torso, linear, hidden = sum(convs), 2 * rows**2 * channels * sac.feature_dim, sac.hidden_dim
    twins = 2 * 2 * (sac.feature_dim + ACTION_DIM + hidden + 1) * hidden
    policy = 2 * (sac.feature_dim + hidden + 2 * ACTION_DIM) * hidden
    # A gradient costs a product for the weights and one for the inputs; bytes need none.
    critic = 3 * (torso + linear + twins) - convs[0] + 2 * (torso + linear) + policy + twins
    actor = torso + 2 * linear + 3 * policy + linear + 2 * twins
    return sac.batch_size * (critic + actor / sac.actor_update_every)
