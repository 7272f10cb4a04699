"""What a method is made of. A method states these parts; the learner that runs them is one and the same.

Letters: B batch, A action, K horizon, V views, N torso features, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from covr_jax.agents import policies
from covr_jax.agents.networks import Networks, Params, make_networks
from covr_jax.agents.policies import Policy
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch

Metrics = dict[str, Array]


class Views(NamedTuple):
    """What an update sees of a batch's images. The actor learns from the first view of the observation."""

    observation: tuple[Array, ...]  # of u8[B,H,W,C]
    next_observation: tuple[Array, ...]


class Augmentation(NamedTuple):
    """How a method changes images: at random for updates, centred for acting."""

    augment: Callable[[Array, Array, Array], Views]  # (key, obs u8[B,...], next_obs)
    center: Callable[[Array], Array]  # u8[B,H,W,C] -> u8[B,H',W',C]
    random: Callable[[Array, Array], Array]  # (key, u8[B,H,W,C]) -> u8[B,H',W',C], one more random view


class AuxiliaryParams(NamedTuple):
    """What an auxiliary loss moves: the shared convolutions, the critic's encoder and parameters of its own."""

    torso: Params
    encoder: Params
    auxiliary: Params


def same_action(params: Params, action: Array) -> Array:
    """The critic reads actions as they are."""
    del params
    return action


class Auxiliary(NamedTuple):
    """A loss beside the critic's and the actor's, minimised by an Adam of its own after each critic update."""

    init: Callable[[Array, Array, Array], Params]  # (key, torso features f32[1,N], action f32[1,A])
    # (trained, targets {"torso", "critic", "auxiliary" where averaged}, views, batch, key) -> (loss, metrics)
    loss: Callable[[AuxiliaryParams, dict[str, Params], Views, Batch, Array], tuple[Array, Metrics]]
    embed_action: Callable[[Params, Array], Array] = same_action  # what the critic reads; its loss moves the parameters
    ema_params: tuple[str, ...] = ()  # entries of the parameters that have a target copy, which follows by encoder_tau


class Method(NamedTuple):
    """A composition. The defaults are those of pixel SAC."""

    augmentation: Augmentation
    networks: Callable[..., Networks] = make_networks  # with the keywords of ``make_networks``
    policy: Policy = policies.squashed_gaussian
    auxiliary: Callable[[Networks, Augmentation, int, SACConfig], Auxiliary] | None = None  # int: A
    view_weights: tuple[float, ...] = (1.0,)  # of the critic loss on each view of the observation
    residual: bool = False  # the actor also reads the action before
    history: int = 0  # frames that an observation holds beyond ``env.frame_stack``
    horizon: int = 0  # steps of ``Batch.future`` that the auxiliary loss reads
    map_side: int = 0  # G: the auxiliary loss reads ``Batch.maps``, and the VLM is asked for those, not for actions


def no_auxiliary(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Nothing beside the critic and the actor."""
    del networks, augmentation, action_dim, config
    return Auxiliary(init=lambda *_: {}, loss=lambda *_: (jax.numpy.zeros(()), {}))


def build_networks(method: Method, action_dim: int, config: SACConfig) -> Any:
    """The method's networks in the sizes of the config."""
    return method.networks(
        action_dim,
        num_filters=config.num_filters,
        conv_kernels=config.conv_kernels,
        conv_strides=config.conv_strides,
        frame_basis=config.frame_basis,
        feature_dim=config.feature_dim,
        hidden_dim=config.hidden_dim,
        log_std_range=(config.log_std_min, config.log_std_max),
        precision=config.precision,
    )
