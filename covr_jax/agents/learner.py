"""The pixel learner: pure ``init / act / update`` for any ``Method``.

The order of an update is that of SAC-AE and RAD: critic (with the shared convolutions) every step, then the method's
auxiliary loss; actor, temperature and targets every ``actor_update_every`` steps. The actor sees the convolutions'
features without a gradient into them. COVR's guidance (Eq. 4) is always part of the actor loss; a base method runs with
weight 0 and no valid prior, so that COVR and its base are the same compiled program until the guidance starts. A part
whose gradient is not finite is skipped and counted.
Letters: B batch, H W image, C channels, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxtyping import Array

from covr_jax.agents.checks import check_batch, check_images
from covr_jax.agents.method import Method, Metrics
from covr_jax.agents.networks import Params
from covr_jax.agents.state import LearnerState, init_state, make_parts, reward_unit
from covr_jax.agents.updates import ActorInputs, actor_half, critic_half
from covr_jax.checks import check_shape
from covr_jax.config import SACConfig
from covr_jax.types import Batch


class Learner(NamedTuple):
    """Pure functions of one method. They are not compiled; the caller compiles them.

    Observations are u8[B,H,W,C], actions f32[B,A]. ``previous_action`` f32[B,A] is read by residual methods only.

    Attributes:
      init: ``(key, observation u8[1,H,W,C], action f32[1,A]) -> state``; the inputs give shapes only.
      act: ``(state, observation, key=None, previous_action=None) -> f32[B,A]``, the policy's mode without a key.
      mode: ``(params, observation, previous_action=None) -> f32[B,A]``, the same from ``torso`` and ``actor`` of
        ``state.params`` alone.
      entropy: ``(state, observation, key, previous_action=None) -> f32[B]``, nats: -log pi(a|s) of one sample.
      mean_entropy: ``(state, observation, previous_action=None) -> f32[B]``, its mean without sampling, nats.
      value: ``(state, observation, action) -> f32[B]``, min_i Q_i(s, a), in units of the reward.
      update: ``(state, batch, key, *, with_actor: bool) -> (state, metrics)``; the metrics are scalars but for
        ``td_error`` f32[B].
      critic_half: ``(state, batch, key) -> (state, metrics, inputs)``, an update without the actor.
      actor_half: ``(state, inputs) -> (state, metrics)``, what ``with_actor`` adds; apart, a loop compiles each once.
    """

    init: Callable[[Array, Array, Array], LearnerState]
    act: Callable[..., Array]
    mode: Callable[..., Array]
    entropy: Callable[..., Array]
    mean_entropy: Callable[..., Array]
    value: Callable[[LearnerState, Array, Array], Array]
    update: Callable[..., tuple[LearnerState, Metrics]]
    critic_half: Callable[[LearnerState, Batch, Array], tuple[LearnerState, Metrics, ActorInputs]]
    actor_half: Callable[[LearnerState, ActorInputs], tuple[LearnerState, Metrics]]


def make_learner(
    action_dim: int, learning_rate: float, method: Method, config: SACConfig, guidance_mean: str = "batch"
) -> Learner:
    """Returns the functions that train one method.

    Args:
      action_dim: A.
      learning_rate: Adam's step size for critic, actor and encoder.
      method: the composition to train.
      config: sizes, rates and everything else.
      guidance_mean: rows that the mean of Eq. 4 counts, "batch" or "valid"; see ``covr.guidance.guidance_loss``.
    """
    parts = make_parts(action_dim, learning_rate, method, config, guidance_mean)

    def init(key: Array, observation: Array, action: Array) -> LearnerState:
        check_images("observation", observation)
        check_shape("action", action, (1, action_dim))
        return init_state(parts, key, observation, action)

    def mode(params: dict[str, Params], observation: Array, previous_action: Array | None = None) -> Array:
        check_images("observation", observation)
        return method.policy.mode(parts.policy(params, observation, previous_action))

    def act(
        state: LearnerState, observation: Array, key: Array | None = None, previous_action: Array | None = None
    ) -> Array:
        check_images("observation", observation)
        if key is None:
            return mode(state.params, observation, previous_action)
        outputs = parts.policy(state.params, observation, previous_action, explore=True)
        return method.policy.explore(key, outputs, state.exploration_noise)

    def entropy(state: LearnerState, observation: Array, key: Array, previous_action: Array | None = None) -> Array:
        check_images("observation", observation)
        return method.policy.entropy(
            key, parts.policy(state.params, observation, previous_action), state.exploration_noise
        )

    def mean_entropy(state: LearnerState, observation: Array, previous_action: Array | None = None) -> Array:
        check_images("observation", observation)
        return method.policy.mean_entropy(
            parts.policy(state.params, observation, previous_action), state.exploration_noise
        )

    def value(state: LearnerState, observation: Array, action: Array) -> Array:
        check_images("observation", observation)
        check_shape("action", action, (observation.shape[0], action_dim))
        features = parts.networks.torso.apply(state.params["torso"], method.augmentation.center(observation))
        return parts.q(state.params["critic"], state.params["auxiliary"], features, action).min(0) * reward_unit(state)

    def update(state: LearnerState, batch: Batch, key: Array, *, with_actor: bool) -> tuple[LearnerState, Metrics]:
        state, metrics, inputs = critics(state, batch, key)
        if not with_actor:
            return state, metrics
        state, more = actor_half(parts, state, inputs)
        return state, metrics | more

    def critics(state: LearnerState, batch: Batch, key: Array) -> tuple[LearnerState, Metrics, ActorInputs]:
        check_batch(batch, action_dim)
        return critic_half(parts, state, batch, key)

    return Learner(init, act, mode, entropy, mean_entropy, value, update, critics, partial(actor_half, parts))
