"""Probes: small problems with known answers that every method must solve from pixels.

Images show noise and, in some probes, a lamp. Answers are exact up to the entropy bonus, whose temperature starts at
0.001.
B batch, H W image, C channels, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.types import Batch, Future, Maps, Prior
from tests.support.compositions import CONFIG, NAMES, A, B, channels, composition
from tests.support.lamps import lamp_images

pytestmark = pytest.mark.slow

GAMMA = CONFIG.discount
NUM_BATCHES = 50  # distinct batches, used in turn


class Steps(NamedTuple):
    """Transitions of a probe."""

    lamp: np.ndarray  # i64[B], position of the lamp: -1 left, 1 right, 0 in the middle, 2 nowhere
    action: np.ndarray  # f32[B,A]
    reward: np.ndarray  # f32[B]
    discount: np.ndarray  # f32[B]
    next_lamp: np.ndarray
    value: np.ndarray  # f32[B], Q*(s, a)
    best: np.ndarray | None = None  # f32[B,A], the action to take; None: any


def constant(g: np.random.Generator, action: np.ndarray) -> Steps:
    """Reward 1 for ever: Q = 1 / (1 - gamma)."""
    lamp, ones = np.zeros(B, int), np.ones(B)
    return Steps(lamp, action, ones, ones, lamp, ones / (1 - GAMMA))


def delayed(g: np.random.Generator, action: np.ndarray) -> Steps:
    """No lamp, then a lamp, then reward 1 and termination: Q = gamma, 1."""
    lamp = g.choice([0, 2], B)
    reward = np.where(lamp == 0, 1.0, 0.0)
    return Steps(lamp, action, reward, 1.0 - reward, np.zeros(B, int), np.where(lamp == 0, 1.0, GAMMA))


def action_dependent(g: np.random.Generator, action: np.ndarray) -> Steps:
    """Reward 1 - |a - a*|, summed over dimensions, for one a* whatever the image shows, then termination.

    With squares the maximum would be so flat that an error of 0.1 in the action is one of 0.01 in Q.
    """
    lamp, best = np.zeros(B, int), np.tile([0.3, -0.3], (B, 1))
    reward = 1.0 - np.abs(action - best).sum(-1)
    return Steps(lamp, action, reward, np.zeros(B), lamp, reward, best)


def image_position_dependent(g: np.random.Generator, action: np.ndarray) -> Steps:
    """The best action is (1, -1) with the lamp on the right, (-1, 1) on the left; rewards are projections on it."""
    lamp = g.choice([-1, 1], B)
    best = lamp[:, None] * np.array([1.0, -1.0])
    reward = (action * best).sum(-1)
    return Steps(lamp, action, reward, np.zeros(B), lamp, reward, best)


PROBES: dict[str, tuple[Callable[..., Steps], int]] = {  # probe and number of updates
    "constant": (constant, 250),
    "delayed": (delayed, 300),
    # The actor first saturates, following a critic that has not learned the maximum yet, and needs hundreds of updates
    # to come back.
    "action-dependent": (action_dependent, 600),
    "image-position-dependent": (image_position_dependent, 250),
}


def maps_of(lamp: np.ndarray, side: int) -> Maps:
    """Returns maps with a bright column at the lamp; images without a lamp have no map."""
    value, valid = np.zeros((B, side, side), np.float32), lamp != 2
    value[valid, :, side // 2 + 2 * lamp[valid]] = 1.0
    return Maps(value.reshape(B, -1), valid)


def batch_of(steps: Steps, g: np.random.Generator, method) -> Batch:
    """Returns a batch with all fields that the method reads; futures are valid for the probe without termination."""
    depth = channels(method)
    following = lamp_images(g, steps.next_lamp, depth)
    future = None
    if method.horizon:
        reward = np.broadcast_to(steps.reward, (method.horizon, B)).astype(np.float32)
        actions = np.broadcast_to(steps.action, (method.horizon, B, A))
        endless = np.full(B, steps.discount.all())
        discount = np.broadcast_to(steps.discount, reward.shape).astype(np.float32)
        reached = (np.arange(method.horizon) == 0)[:, None] | endless
        images = np.broadcast_to(following, (method.horizon, *following.shape))
        future = Future(actions, reward, images, endless, discount, reached)
    return Batch(
        observation=lamp_images(g, steps.lamp, depth),
        action=steps.action,
        reward=steps.reward.astype(np.float32),
        discount=steps.discount.astype(np.float32),
        next_observation=following,
        prior=Prior(np.zeros((B, A), np.float32), np.zeros(B, bool)),
        previous_action=g.uniform(-0.9, 0.9, (B, A)).astype(np.float32) if method.residual else None,
        future=future,
        maps=maps_of(steps.lamp, method.map_side) if method.map_side else None,
        reward_scale=np.float32(1.0) if method.objective.scales_rewards else None,
    )


# Every method must see; those with a critic, a policy or targets of their own must also look ahead. SAC, the loss of
# all, is asked everything.
OWN_TARGETS = ("drq", "drqv2", "resact", "taco", "mrq")
PATIENCE = {("mrq", "image-position-dependent"): 4}  # factor: its encoder learns from its own loss alone
CASES = [(name, "image-position-dependent") for name in NAMES] + [(name, "delayed") for name in OWN_TARGETS]
CASES += [("sac", probe) for probe in ("constant", "delayed", "action-dependent")]


@pytest.mark.parametrize(("name", "probe"), CASES)
def test_every_method_solves_the_probe(name, probe):
    now, (make, updates), g = composition(name), PROBES[probe], np.random.default_rng(0)
    updates *= PATIENCE.get((name, probe), 1)

    def sample() -> tuple[Steps, Batch]:
        steps = make(g, g.uniform(-1, 1, (B, A)).astype(np.float32))
        return steps, batch_of(steps, g, now.method)

    batches = [jax.device_put(sample()[1]) for _ in range(NUM_BATCHES)]
    state = now.start().replace(log_alpha=jnp.log(jnp.asarray(1e-3, jnp.float32)))
    keys = jax.random.split(jax.random.key(1), updates)
    for number in range(updates):
        state, _ = now.update(state, batches[number % NUM_BATCHES], keys[number])

    steps, fresh = sample()
    # With the values as rewards of terminal steps, the TD error is the error of Q.
    terminal = fresh._replace(reward=steps.value.astype(np.float32), discount=np.zeros(B, np.float32))
    error = np.asarray(now.update(state, terminal, keys[0])[1]["td_error"])
    assert error.mean() < 0.1
    if steps.best is not None:
        chosen = np.asarray(now.act(state, fresh.observation, None, fresh.previous_action))
        assert np.abs(chosen - steps.best).mean() < 0.1
