"""The compiled pieces of a run, as one record. ``chunk`` composes them into agent steps.

Letters: E envs, B batch, N samples, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array

from covr_jax import replay, runtime
from covr_jax.agents import LearnerState
from covr_jax.agents.updates import ActorInputs
from covr_jax.replay import ReplayState, sampling
from covr_jax.runtime.kept import Program
from covr_jax.runtime.rng import ACT, UPDATE, stream
from covr_jax.training.mesh import keep, kept
from covr_jax.training.parts import Parts
from covr_jax.training.queries import select_query
from covr_jax.training.state import advance

Keys = tuple[Array, Array]
Metrics = dict[str, Array]


class Pieces(NamedTuple):
    """Jitted functions over the state of a run; a state or replay that comes first is donated."""

    act: Program  # (learner, observation u8[E,H,W,C], vec_steps, previous action) -> f32[E,A]
    random_action: Program  # (vec_steps) -> f32[E,A], uniform in [-1, 1]
    last_action: Callable[..., Array]  # (replay, time step) -> f32[E,A]
    add: Callable[..., ReplayState]  # (replay, time step, action)
    cut: Callable[..., ReplayState]  # (replay, bool[E]): episodes broken off
    count_cut: Callable[..., Array]  # (replay, time) -> i32[]: episodes broken off since then
    set_priorities: Callable[..., ReplayState]  # (replay, index, td error f32[B])
    mark_elite: Callable[..., ReplayState]  # (replay, time i32[N], env_id i32[N])
    set_prior: Callable[..., ReplayState]  # (replay, prior, end)
    # (learner, replay) -> (learner, metrics, index, td error f32[B], inputs of ``learn_actor``)
    learn_critic: Program
    learn_actor: Program  # (learner, inputs) -> (learner, metrics)
    count: Callable[..., Any]  # (progress, time step) -> progress
    query: Callable[..., Any]  # (learner, replay) -> Query: frames for the VLM
    entropy: Callable[..., Array]  # (learner, observation, key, previous action) -> f32[N], nats
    value: Callable[..., Array]  # (learner, observation, action) -> f32[N]
    mode: Callable[..., Array]  # (learner, observation, previous action) -> f32[N,A], the policy's

    @property
    def keys(self) -> Keys:
        """Of ``ACT`` and ``UPDATE``."""
        return *self.act.given, *self.learn_critic.given

    def with_keys(self, keys: Keys) -> Pieces:
        """The same pieces with other keys: with arguments of the program that they are traced into, for example."""
        act_key, update_key = keys
        return self._replace(
            act=self.act.giving(act_key),
            random_action=self.random_action.giving(act_key),
            learn_critic=self.learn_critic.giving(update_key),
        )


def compile_pieces(parts: Parts) -> Pieces:
    """Jits every piece of a run; each is traced on its first call."""
    vlm, learner = parts.config.vlm, parts.learner
    act_key, update_key = (stream(parts.config.seed, purpose) for purpose in (ACT, UPDATE))
    keeping = partial(kept, parts.mesh)
    return Pieces(
        act=Program(runtime.jit(keeping(partial(_act, parts))), act_key),
        random_action=Program(runtime.jit(keeping(partial(_random_action, parts))), act_key),
        last_action=runtime.jit(replay.last_action),
        add=runtime.jit(keeping(replay.add), donate_argnums=0),
        cut=runtime.jit(keeping(replay.cut), donate_argnums=0),
        count_cut=runtime.jit(replay.count_cut),
        set_priorities=runtime.jit(keeping(sampling.set_priorities), donate_argnums=0),
        mark_elite=runtime.jit(keeping(sampling.mark_elite), donate_argnums=0),
        set_prior=runtime.jit(keeping(partial(replay.set_prior, every=vlm.every, hold=vlm.hold)), donate_argnums=0),
        learn_critic=Program(
            runtime.jit(keeping(partial(_learn_critic, parts)), often=True, donate_argnums=1), update_key
        ),
        learn_actor=Program(runtime.jit(keeping(learner.actor_half), often=True, donate_argnums=0)),
        count=runtime.jit(keeping(advance)),
        query=runtime.jit(partial(select_query, parts)),
        entropy=runtime.jit(learner.entropy),
        value=runtime.jit(learner.value),
        mode=runtime.jit(partial(_mode, parts)),
    )


def compile_pieces_of_seeds(
    parts: Parts, over: Callable[[Callable[..., Any]], Callable[..., Any]], act_keys: Array, update_keys: Array
) -> Pieces:
    """Jits the pieces of a chunk for several seeds at once.

    Args:
      parts: of one seed.
      over: makes a function of one seed's arrays one of arrays with a leading axis of seeds.
      act_keys: of ``ACT``, [seeds].
      update_keys: of ``UPDATE``, [seeds].

    Returns:
      Pieces of arrays with a leading axis of seeds, but for those that no chunk is made of, which stay as they are.
    """
    return compile_pieces(parts)._replace(
        act=Program(runtime.jit(over(partial(_act, parts))), act_keys),
        random_action=Program(runtime.jit(over(partial(_random_action, parts))), act_keys),
        learn_critic=Program(
            runtime.jit(over(partial(_learn_critic, parts)), often=True, donate_argnums=1), update_keys
        ),
        last_action=runtime.jit(over(replay.last_action)),
        add=runtime.jit(over(replay.add), donate_argnums=0),
        count_cut=runtime.jit(over(replay.count_cut)),
        set_priorities=runtime.jit(over(sampling.set_priorities), donate_argnums=0),
        learn_actor=Program(runtime.jit(over(parts.learner.actor_half), often=True, donate_argnums=0)),
        count=runtime.jit(over(advance)),
    )


def _act(
    parts: Parts, key: Array, learner: LearnerState, observation: Array, vec_steps: Array, previous: Array | None
) -> Array:
    return parts.learner.act(learner, observation, jax.random.fold_in(key, vec_steps), previous)


def _mode(parts: Parts, learner: LearnerState, observation: Array, previous: Array | None) -> Array:
    return parts.learner.act(learner, observation, None, previous)


def _random_action(parts: Parts, key: Array, vec_steps: Array) -> Array:
    shape = (parts.env.num_envs, parts.env.action_dim)
    return jax.random.uniform(jax.random.fold_in(key, vec_steps), shape, minval=-1.0, maxval=1.0)


def _learn_critic(
    parts: Parts, key: Array, learner: LearnerState, store: ReplayState
) -> tuple[LearnerState, Metrics, Any, Array, ActorInputs]:
    """Samples a batch and makes the critic's half of an update; also returns what the batch's priorities become."""
    sample_key, update_key = jax.random.split(jax.random.fold_in(key, learner.updates))
    sac, method = parts.config.sac, parts.method
    batch = replay.sample(
        store,
        sample_key,
        sac.batch_size,
        parts.frame_stack,
        sac.n_step,
        sac.discount,
        previous=method.residual,
        horizon=method.horizon,
        maps=method.map_side > 0,
        sampler=sampling.make_sampler(parts.config.replay),
        updates=learner.updates,
    )
    if method.objective.scales_rewards:
        batch = batch._replace(reward_scale=replay.reward_scale(store))
    batch = keep(parts.mesh, batch)
    learner, metrics, inputs = parts.learner.critic_half(learner, batch, update_key)
    return learner, metrics, batch.index, metrics.pop("td_error"), inputs
