"""The phases of an agent step, each timed alone on one configuration over a filled replay."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from covr_jax.types import Prior
from experiments.benchmark import measure, roofline
from experiments.benchmark.roofline import Ceilings, Cost


class Phase(NamedTuple):
    """Seconds and work of one call, and calls per agent step."""

    name: str
    seconds: float
    calls: float
    cost: Cost | None = None  # None: the work is not a compiled program's


class Bench:
    """The pieces of one configuration, compiled, with at least two chunks of experience in the replay."""

    def __init__(self, config: Any):
        import jax

        from covr_jax.config import ConfigError
        from covr_jax.envs.stepper import JitStepper
        from covr_jax.runtime.profiling import CompileLog
        from covr_jax.training.programs import Programs

        self.config, self.jax = config, jax
        with CompileLog() as self.compile_log:
            self.programs = Programs(config)
            if not isinstance(self.programs.stepper, JitStepper):
                raise ConfigError(f"{config.task} steps on the host; its speed is in experiments/benchmark/host_env.py")
            self.lanes = self.programs.stepper
            self.state = self.programs.init()
            for learn in (False, False, True):
                self.state, _ = jax.block_until_ready(self.programs.chunk(self.state, learn=learn))

    def rows(self, ceilings: Ceilings) -> list[dict[str, Any]]:
        """One per phase, then ``whole``, the run's own chunk, and what compiling took."""
        steps = self.programs.parts.chunk_steps
        whole = self._seconds(self.chunk) / steps
        phases = [*self._device_phases(), *self._host_phases(), Phase("whole", whole, 1.0)]
        rows = [_row(phase, whole, ceilings) for phase in phases]
        return [*rows, _row(Phase("compile", self.compile_log.seconds, 0.0), whole, ceilings)]

    def _device_phases(self) -> list[Phase]:
        programs, config, state = self.programs, self.config, self.state
        updates = config.sac.updates_per_step / config.sac.steps_per_update
        with_actor = updates / config.sac.actor_update_every
        previous = programs.pieces.last_action(state.replay, state.timestep) if programs.parts.method.residual else None
        act = (state.learner, state.timestep.observation, state.progress.vec_steps, previous)
        action = programs.pieces.act(*act)
        add = (state.replay, state.timestep, action)
        *_, inputs = programs.pieces.learn_critic.shapes(state.learner, state.replay)
        ring = Cost(0.0, state.replay.frame.nbytes)
        cost = roofline.cost_of
        costs = {
            "act": cost(programs.pieces.act, *act),
            "env": cost(self.lanes._advance, state.env, action),
            "render": cost(self.lanes._observe, state.env, self.lanes._no_reward),
            "add": cost(programs.pieces.add, *add),
            "critic": cost(programs.pieces.learn_critic, state.learner, state.replay) - ring,
            "actor": cost(programs.pieces.learn_actor, state.learner, inputs),
        }
        sample, augment = self._sample_and_augment()
        critic, actor = self._seconds(self._learn_critic), self._seconds(self._learn_actor)
        return [
            Phase("act", self._seconds(lambda: programs.pieces.act(self.state.learner, *act[1:])), 1.0, costs["act"]),
            Phase("env", self._seconds(lambda: self._physics(action)), 1.0, costs["env"]),
            Phase("render", self._seconds(self._render), 1.0, costs["render"]),
            Phase("replay, add", self._seconds(lambda: self._add(action)), 1.0, costs["add"]),
            Phase("replay, sample", sample[0], updates, sample[1]),
            Phase("augment", augment[0], updates, augment[1]),
            Phase("critic", critic - sample[0] - augment[0], updates, costs["critic"] - sample[1] - augment[1]),
            Phase("actor", actor, with_actor, costs["actor"]),
        ]

    def _sample_and_augment(self) -> list[tuple[float, Cost]]:
        """Seconds and work of both alone; in a run they are part of the update's program."""
        from covr_jax import replay, runtime
        from covr_jax.replay.sampling import make_sampler

        programs, sac, stack = self.programs, self.config.sac, self.programs.parts.frame_stack
        key = self.jax.random.key(0)
        method = programs.parts.method
        draw = partial(replay.sample, batch_size=sac.batch_size, frame_stack=stack, n_step=sac.n_step)
        draw = partial(draw, previous=method.residual, horizon=method.horizon, maps=method.map_side > 0)
        draw = partial(draw, sampler=make_sampler(self.config.replay), updates=self.state.learner.updates)
        sample = runtime.jit(partial(draw, discount=sac.discount))
        batch = sample(self.state.replay, key)
        augment = runtime.jit(programs.parts.method.augmentation.augment)
        images = key, batch.observation, batch.next_observation
        # XLA counts what a gather may read, the whole ring.
        drawn = roofline.cost_of(sample, self.state.replay, key) - Cost(0.0, self.state.replay.frame.nbytes)
        return [
            (self._seconds(lambda: sample(self.state.replay, key)), drawn),
            (self._seconds(lambda: augment(*images)), roofline.cost_of(augment, *images)),
        ]

    def _host_phases(self) -> list[Phase]:
        """What is not computed on the device: the VLM, what crosses to the host, and dispatching programs."""
        steps = self.programs.parts.chunk_steps
        vlm = self._vlm(self.programs.pieces.query(self.state.learner, self.state.replay).frames)
        lanes = self.programs.parts.env.num_envs
        lead = (self.programs.parts.num_query_slots // lanes, lanes)
        prior = Prior(np.zeros((*lead, self.programs.parts.answer_dim), np.float32), np.ones(lead, bool))

        def cross() -> None:
            np.asarray(self.programs.pieces.query(self.state.learner, self.state.replay).frames)
            end = np.asarray(int(self.state.replay.count), np.int32)
            self.state = self.state.replace(replay=self.programs.pieces.set_prior(self.state.replay, prior, end))
            self.jax.device_get(self.state.progress)

        return [
            *vlm,
            Phase("transfer", self._seconds(cross), 1.0 / steps),
            Phase("host", *self.dispatch()),
        ]

    def _vlm(self, frames: Any) -> list[Phase]:
        from covr_jax.config import ConfigError
        from covr_jax.vlm.serving.factory import make_vlm

        with tempfile.TemporaryDirectory() as directory:
            try:
                vlm = make_vlm(self.config, self.programs.parts.answer_dim, Path(directory))
            except ConfigError as error:
                print(f"the VLM is left out: {error}")
                return []
            if vlm is None:
                return []
            seconds = self._seconds(lambda: vlm.query(frames))
            vlm.close()
        return [Phase("VLM", seconds, 1.0 / self.programs.parts.chunk_steps)]

    def dispatch(self) -> tuple[float, float]:
        """Seconds that the host takes to start one program with the learner's arrays, programs per agent step."""
        from covr_jax import runtime

        nothing = self.jax.jit(lambda learner: learner.updates + 1)
        seconds = self._seconds(lambda: nothing(self.state.learner))
        # On CPU act, add, advance, observe, progress and each update; elsewhere a chunk is one program.
        pieces = 5.0 + self.config.sac.updates_per_step / self.config.sac.steps_per_update
        return seconds, pieces if runtime.on_cpu() else 1.0 / self.programs.parts.chunk_steps

    def _seconds(self, work: Callable[[], Any]) -> float:
        self.jax.block_until_ready(work())
        return 1.0 / measure.median_rate(lambda: self.jax.block_until_ready(work()), 1.0)

    # Donated parts go back into the state, since the caller's copy is gone after the call.

    def chunk(self) -> Any:
        """One chunk of the run."""
        self.state, metrics, _ = self.programs.chunk(self.state, learn=True)
        return self.state.progress, metrics

    def _physics(self, action: Any) -> Any:
        env, reward = self.lanes._advance(self.state.env, action)
        self.state = self.state.replace(env=env)
        return reward

    def _render(self) -> Any:
        state: Any = self.state.env
        env, timestep = self.lanes.observe(state, self.lanes._no_reward)
        self.state = self.state.replace(env=env)
        return timestep

    def _add(self, action: Any) -> Any:
        self.state = self.state.replace(replay=self.programs.pieces.add(self.state.replay, self.state.timestep, action))
        return self.state.replay.count

    def _learn_critic(self) -> Any:
        learner, metrics, *_, self._inputs = self.programs.pieces.learn_critic(self.state.learner, self.state.replay)
        self.state = self.state.replace(learner=learner)
        return metrics

    def _learn_actor(self) -> Any:
        """On what the last update of the critic has left."""
        learner, metrics = self.programs.pieces.learn_actor(self.state.learner, self._inputs)
        self.state = self.state.replace(learner=learner)
        return metrics


def _row(phase: Phase, whole: float, ceilings: Ceilings) -> dict[str, Any]:
    cost = phase.cost
    known = cost is not None and phase.seconds > 0
    return {
        "phase": phase.name,
        "ms": 1e3 * phase.seconds,
        "per_step": phase.calls,
        "share": phase.seconds * phase.calls / whole,
        "mflop": cost.flops / 1e6 if cost else None,
        "mbyte": cost.bytes / 1e6 if cost else None,
        "gflop_per_s": cost.flops / phase.seconds / 1e9 if cost and known else None,
        "of_roofline": ceilings.seconds(cost) / phase.seconds if cost and known else None,
    }
