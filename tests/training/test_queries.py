"""Queries gated by entropy: which frames are queried and where answers land.

The tiny config has 2 environments, chunks of 10 agent steps and a query every 5: 4 query slots per chunk.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.agents.policies import noisy_deterministic, squashed_gaussian
from covr_jax.training import queries
from covr_jax.training.parts import build_parts
from covr_jax.training.queries import QueryManager
from covr_jax.types import Prior, StepType
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.gated import gated

pytestmark = pytest.mark.xdist_group("training")


def test_query_slots_are_every_nth_step_of_the_chunk_in_all_environments():
    time, env_id = queries.query_slots(jnp.asarray(34), 12, 4, 2)
    assert time.tolist() == [22, 22, 26, 26, 30, 30] and env_id.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("total", "share", "count"), [(4, 1.0, 4), (4, 0.999, 4), (4, 0.5, 2), (4, 0.01, 1), (10, 0.7, 7), (256, 0.25, 64)]
)
def test_how_many_are_asked(total, share, count):
    assert queries.num_queries(total, share) == count


def test_the_most_uncertain_that_act_come_first():
    entropy = jnp.asarray([-1.0, 0.5, 0.7, 0.5, -3.0])
    everyone, third = jnp.ones(5, bool), jnp.asarray([True, True, False, True, True])
    assert queries.top_k_entropy(entropy, everyone, 2).tolist() == [1, 2]  # 0.7, and the earlier 0.5
    assert queries.top_k_entropy(entropy, everyone, 3).tolist() == [1, 2, 3]
    assert queries.top_k_entropy(entropy, third, 2).tolist() == [1, 3]
    assert queries.top_k_entropy(entropy, third, 5).tolist() == [0, 1, 2, 3, 4]


def test_answers_go_back_to_their_places():
    prior = Prior(jnp.asarray([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]), jnp.asarray([True, False, True]))
    action, valid = queries.scatter_priors(prior, jnp.asarray([0, 2, 5]), 2, 6)
    assert action.shape == (3, 2, 2) and action.dtype == np.float32
    np.testing.assert_allclose(action.reshape(6, 2)[[0, 2, 5]], prior.action)
    assert not action.reshape(6, 2)[[1, 3, 4]].any()
    assert valid.tolist() == [[True, False], [False, False], [False, True]]


def test_dropped_queries_are_neither_counted_nor_waited_for():
    class Busy(FakeVLM):
        busy = False

        def submit(self, query_step, frames):
            return not self.busy

        def poll(self, time):
            return []

    vlm, frames = Busy(), jnp.zeros((3, 4, 4, 3), jnp.uint8)

    def select(learner, store):
        return frames, jnp.arange(3)

    manager = QueryManager(vlm, select, lambda *_: None, num_slots=4, num_envs=2)
    for now, vlm.busy in ((10, False), (20, True), (30, True)):
        manager.step(SimpleNamespace(learner=None, replay=SimpleNamespace(count=now)), query=True)
    assert (manager.frames_queried, manager.frames_skipped, manager.pending) == (3, 1, [10])


def test_a_run_says_once_that_priors_stop_and_once_that_they_come_again():
    vlm, told = SimpleNamespace(fault="", poll=lambda step: []), []
    manager = QueryManager(vlm, None, None, num_slots=4, num_envs=2, tell=told.append)
    for vlm.fault in ("", "gone", "gone", "refused", "", ""):
        manager.step(SimpleNamespace(replay=SimpleNamespace(count=10)), query=False)
    assert told == ["the VLM does not answer, learning goes on: gone", "the VLM answers again"]


# --------------------------------------------------------------------- entropy


def integral(mean, sigma):
    """-int p(a) log p(a) da over (-1, 1), in float64, of a = tanh(N(mean, sigma)), on a fine grid of atanh(a)."""
    u, step = np.linspace(mean - 12 * sigma, mean + 12 * sigma, 400_001, retstep=True)
    normal = np.exp(-0.5 * ((u - mean) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    log_slope = -2 * np.log(np.cosh(u))  # of tanh
    log_p = np.log(normal) - log_slope
    return -float((normal * log_p).sum() * step)


@pytest.mark.parametrize(
    ("mean", "sigma", "error"),
    [(0.0, 1.0, 2e-6), (0.3, 0.05, 2e-6), (-2.0, 0.5, 2e-6), (3.0, 1.0, 1e-5), (1.0, 2.0, 3e-4), (0.5, 7.0, 0.1)],
)
def test_mean_entropy_is_the_integral_over_actions(mean, sigma, error):
    """Of each dimension alone, summed: here one at (mean, sigma) and one at (0, 0.4)."""
    outputs = jnp.asarray([[mean, 0.0]]), jnp.log(jnp.asarray([[sigma, 0.4]]))
    found = squashed_gaussian.mean_entropy(outputs, jnp.zeros(()))
    assert found.shape == (1,)
    assert float(found[0]) == pytest.approx(integral(mean, sigma) + integral(0.0, 0.4), abs=error)


def test_mean_entropy_is_the_mean_of_the_estimates():
    outputs = jnp.asarray([[0.2, -1.0], [2.0, 0.5]]), jnp.asarray([[-1.0, 0.3], [0.0, -2.0]])
    many = jax.tree.map(lambda x: jnp.repeat(x, 40_000, 0), outputs)
    samples = squashed_gaussian.entropy(jax.random.key(0), many, jnp.zeros(())).reshape(2, -1)
    off = np.asarray(samples.mean(1) - squashed_gaussian.mean_entropy(outputs, jnp.zeros(())))
    assert (np.abs(off) < 4 * samples.std(1) / 200).all()


def test_a_deterministic_policy_is_as_uncertain_everywhere():
    found = noisy_deterministic.mean_entropy(jnp.asarray([[0.1, 0.2, 0.3], [0.9, -1.0, 4.0]]), jnp.asarray(0.5))
    np.testing.assert_allclose(found, 3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)), rtol=1e-6)


# -------------------------------------------------------------------- programs


def ring(slots, steps, envs=2):
    """Random frames; env 0 begins an episode at 12 and ends one at 15, env 1 ends at 20."""
    frame = np.random.default_rng(0).integers(0, 256, (slots, envs, 20, 20, 3), np.uint8)
    kind = np.full((slots, envs), StepType.MID, np.int8)
    kind[12, 0], kind[15, 0], kind[20, 1] = StepType.FIRST, StepType.LAST, StepType.LAST
    empty = replay.init(slots, envs, 20, 1)
    return empty.replace(
        frame=jnp.asarray(frame.reshape(*frame.shape[:2], -1)),
        step_type=jnp.asarray(kind),
        count=jnp.asarray(steps, jnp.int32),
    )


def test_queries_are_ranked_by_the_policy_on_stacked_observations(tiny_config):
    parts = build_parts(gated(tiny_config, 0.5))
    weights = np.arange(1, 10) ** 2  # tells the frames of a stack and their channels apart

    def score(learner, observation, previous):
        assert learner is None and previous is None and observation.shape == (4, 20, 20, 9)
        return (observation.mean((1, 2)) * weights).sum(-1)

    parts = parts._replace(learner=parts.learner._replace(mean_entropy=score))
    for steps in (19, 23, 24):  # candidates at 9 and 14; 13 and 18; 14 and 19
        store = ring(40, steps)
        frames, index = queries.select_query(parts, None, store)
        stored, scores = np.asarray(store.pictures), []
        for time in (steps - 10, steps - 5):
            for env_id in range(2):
                first = 12 if env_id == 0 and time >= 12 else 0
                stack = [stored[max(time - back, first), env_id] for back in (2, 1, 0)]
                scores.append((np.concatenate(stack, -1).astype(float).mean((0, 1)) * weights).sum())
        expected = sorted(np.argsort(scores)[-2:].tolist())
        assert index.tolist() == expected
        times, env_ids = np.repeat([steps - 10, steps - 5], 2)[expected], np.tile([0, 1], 2)[expected]
        np.testing.assert_array_equal(frames, stored[times, env_ids])


def test_several_frames_are_the_newest_of_the_observation(tiny_config):
    """The episode of env 0 began at 12: at 13 it has seen 12 and 13 alone."""
    parts, store = build_parts(gated(tiny_config, 1.0, frames=3)), ring(40, 23)
    shown, index = queries.select_query(parts, None, store)
    stored, whole = np.asarray(store.pictures), np.asarray(shown)
    stacks = {(13, 0): (12, 12, 13), (13, 1): (11, 12, 13), (18, 0): (16, 17, 18), (18, 1): (16, 17, 18)}
    assert whole.shape == (4, 20, 20, 9) and index.tolist() == [0, 1, 2, 3]
    for row, ((_, env_id), times) in enumerate(stacks.items()):
        np.testing.assert_array_equal(whole[row], np.concatenate([stored[time, env_id] for time in times], -1))
        np.testing.assert_array_equal(queries.vlm_frames(shown, 2)[row], whole[row, ..., 3:])


def test_ends_of_episodes_are_queried_last(tiny_config):
    """At 25 the query slots are 15 and 20: env 0 ended at 15, env 1 at 20, the others act."""
    parts = build_parts(gated(tiny_config, 0.5))
    entropy = jnp.asarray([9.0, 1.0, 2.0, 9.0])
    parts = parts._replace(learner=parts.learner._replace(mean_entropy=lambda *_: entropy))
    store = ring(40, 25)
    assert np.asarray(store.step_type)[[15, 15, 20, 20], [0, 1, 0, 1]].tolist() == [StepType.LAST, 1, 1, StepType.LAST]
    _, index = queries.select_query(parts, None, store)
    assert index.tolist() == [1, 2]
