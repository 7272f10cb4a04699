"""The parts that make up a method; one learner runs all methods.

Letters: B batch, H W image, C channels, A action, K steps of a future, N torso features, G cells of a map's side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from covr_jax.agents import losses, policies
from covr_jax.agents.networks import Networks, Params, make_networks
from covr_jax.agents.policies import Policy
from covr_jax.config import SACConfig
from covr_jax.types import Batch

Metrics = dict[str, Array]  # scalars by logged name


class Views(NamedTuple):
    """The augmented images of an update. The actor learns from the first view of the observation."""

    observation: tuple[Array, ...]  # u8[B,H,W,C] each
    next_observation: tuple[Array, ...]


class Augmentation(NamedTuple):
    """Changes of images: random ones for updates, the central one for acting."""

    augment: Callable[[Array, Array, Array], Views]  # (key, observation u8[B,H,W,C], next_observation)
    center: Callable[[Array], Array]  # u8[B,H,W,C] -> u8[B,H',W',C]
    random: Callable[[Array, Any], Array]  # (key, u8[B,H,W,C]) -> u8[B,H',W',C], one more random view
    # u8[B,H,W,C] -> u8[B,H',W',C], what sampled actions see; None: ``center``
    explore: Callable[[Array], Array] | None = None


class AuxiliaryParams(NamedTuple):
    """Parameters that an auxiliary loss trains: shared convolutions, the critic's encoder, its own heads."""

    torso: Params
    encoder: Params
    auxiliary: Params


def momentum_encoder(target: dict[str, Params]) -> tuple[Params, Params]:
    """Returns the convolutions and the encoder whose features SPR and MLR predict.

    They are those of the critic's target, unless ``auxiliary_tau`` differs from ``encoder_tau``.
    """
    if "momentum" in target:
        return target["momentum"]["torso"], target["momentum"]["encoder"]
    return target["torso"], target["critic"]["encoder"]


def same_action(params: Params, action: Array) -> Array:
    """Returns the action: the critic reads it unchanged."""
    del params
    return action


class Auxiliary(NamedTuple):
    """A loss beside the critic's and the actor's, minimised by its own Adam after each critic update."""

    init: Callable[[Array, Array, Array], Params]  # (key, torso features f32[1,N], action f32[1,A])
    # (params, target as in ``LearnerState``, views, batch, key) -> (loss f32[], metrics)
    loss: Callable[[AuxiliaryParams, dict[str, Params], Views, Batch, Array], tuple[Array, Metrics]]
    # (auxiliary params, action f32[B,A]) -> what the critic reads; the critic's loss trains these params too
    embed_action: Callable[[Params, Array], Array] = same_action
    ema_params: tuple[str, ...] = ()  # entries of the params with a target copy, which follows them by auxiliary_tau


def sac_actor_loss(q: Array, log_prob: Array, alpha: Array, outputs: Any) -> Array:
    """Returns ``losses.actor_loss``, which reads no outputs of the actor."""
    del outputs
    return losses.actor_loss(q, log_prob, alpha)


class Objective(NamedTuple):
    """What critic and actor minimise, and what they take for granted. The defaults are SAC's."""

    critic_loss: Callable[[Array, Array, Array | None], Array] = losses.critic_loss  # (q f32[2,B], y f32[B], weight)
    # (q f32[2,B], log_prob f32[B], temperature, outputs of the actor) -> f32[]
    actor_loss: Callable[[Array, Array, Array, Any], Array] = sac_actor_loss
    trains_encoder: bool = True  # by the critic's loss; off: by the auxiliary loss alone
    # All parameters become the targets' every ``target_period`` updates, and the targets have an actor of their own,
    # which acts in y; off: moving averages, and the actor that learns acts in y
    copies_targets: bool = False
    # With copied targets only: Q in units of ``Batch.reward_scale``, read when targets are copied
    scales_rewards: bool = False


class Method(NamedTuple):
    """The composition of a method. The defaults are those of pixel SAC."""

    augmentation: Augmentation
    networks: Callable[..., Networks] = make_networks  # takes the keywords of ``make_networks``
    policy: Policy = policies.squashed_gaussian
    objective: Objective = Objective()
    auxiliary: Callable[[Networks, Augmentation, int, SACConfig], Auxiliary] | None = None  # int: A
    view_weights: tuple[float, ...] = (1.0,)  # weight of the critic loss on each view of the observation
    residual: bool = False  # the actor also reads the previous action
    history: int = 0  # frames that an observation holds beyond ``env.frame_stack``
    horizon: int = 0  # K, steps of ``Batch.future`` that the auxiliary loss reads
    map_side: int = 0  # G > 0: the auxiliary loss reads ``Batch.maps``, and the VLM is queried for maps, not actions


def no_auxiliary(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Returns an auxiliary loss of 0 without parameters."""
    del networks, augmentation, action_dim, config
    return Auxiliary(init=lambda *_: {}, loss=lambda *_: (jnp.zeros(()), {}))


def build_networks(method: Method, action_dim: int, config: SACConfig) -> Networks:
    """Returns the method's networks in the sizes of the config."""
    return method.networks(
        action_dim,
        num_filters=config.filters,
        conv_kernels=config.conv_kernels,
        conv_strides=config.conv_strides,
        frame_basis=config.frame_basis,
        feature_dim=config.feature_dim,
        hidden_dim=config.hidden_dim,
        log_std_range=(config.log_std_min, config.log_std_max),
        precision=config.precision,
    )
