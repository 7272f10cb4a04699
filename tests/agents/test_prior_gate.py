"""Priors that guide only where the critics prefer them. B batch, A action."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import Method, losses, make_learner
from covr_jax.agents.method import build_networks
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.types import Prior
from tests.support.small_learner import CONFIG, A, make_batch, start

METHOD = Method(no_augmentation())
KEY = jax.random.key(5)


def learners():
    gated = dataclasses.replace(CONFIG, prior_gate="advantage")
    return [make_learner(A, 1e-3, METHOD, config) for config in (CONFIG, gated)]


@pytest.mark.slow
def test_only_priors_that_the_critics_prefer_guide():
    plain, gated = learners()
    batch = make_batch(3, batch=24)
    generator = np.random.default_rng(0)
    prior = generator.uniform(-1, 1, (24, A)).astype(np.float32)
    batch = batch._replace(prior=Prior(prior, generator.random(24) > 0.2))
    state = start(plain, 0).replace(guidance_weight=jnp.asarray(2.0))
    after, metrics = gated.update(state, batch, KEY, with_actor=True)
    # By hand: the critic is updated before the actor, and the actor samples with the third key.
    action_key = jax.random.split(KEY, 3)[2]
    networks = build_networks(METHOD, A, CONFIG)
    features = networks.torso.apply(after.params["torso"], batch.observation)
    action, _ = losses.squashed_sample(action_key, *networks.actor.apply(state.params["actor"], features))
    own_q, prior_q = (gated.value(after, batch.observation, a) for a in (action, prior))
    passed = np.asarray(prior_q > own_q) & batch.prior.valid
    assert 0 < passed.sum() < batch.prior.valid.sum()
    expected = (passed[:, None] * (np.asarray(action) - prior) ** 2).sum() / 24
    np.testing.assert_allclose(metrics["losses/guidance"], expected, rtol=1e-5)
    # A prior that the gate rejects has the effect of an invalid one.
    same, _ = plain.update(state, batch._replace(prior=Prior(prior, passed)), KEY, with_actor=True)
    for one, two in zip(*map(jax.tree.leaves, (after, same)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_without_the_gate_every_valid_prior_guides():
    plain, gated = learners()
    batch = make_batch(4, batch=24)._replace(prior=Prior(np.full((24, A), 0.9, np.float32), np.ones(24, bool)))
    state = start(plain, 1)
    ungated, some = (learner.update(state, batch, KEY, with_actor=True)[1] for learner in (plain, gated))
    assert 0 < some["losses/guidance"] < ungated["losses/guidance"]
