"""The PyTorch loop that the end-to-end benchmark stands beside: its replay, its updates and how it acts, by hand."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from covr_jax.agents import make_learner, make_method  # noqa: E402
from covr_jax.config import AugmentConfig  # noqa: E402
from experiments.benchmark import end_to_end  # noqa: E402
from experiments.benchmark import learner_parity as parity  # noqa: E402
from experiments.benchmark.learner_contest import SHAPES  # noqa: E402
from experiments.benchmark.torch_loop import Step, TorchLoop  # noqa: E402
from experiments.benchmark.torch_rad import TorchBatch, TorchRAD  # noqa: E402

pytestmark = pytest.mark.slow

SAC, SIZE, LENGTH, A = SHAPES["tiny"].sac, 20, 3, 2
FORMAT = torch.contiguous_format


class CountingWorld:
    """Frames show the number of the step; an episode has three of them, the last without a future."""

    action_dim = A
    step_number = 0

    def frame(self):
        return np.full((SIZE, SIZE, 3), self.step_number, np.uint8) + np.arange(3, dtype=np.uint8) * 50

    def reset(self):
        self.step_number = 0
        return self.frame()

    def step(self, action):
        assert action.shape == (A,) and np.abs(action).max() < 1
        self.step_number += 1
        last = self.step_number == LENGTH
        return Step(self.frame(), 0.5 * self.step_number, 0.0 if last else 1.0, last)


def agent(side=16, **options):
    return TorchRAD(SAC, image_size=SIZE, side=side, channels=9, action_dim=A, learning_rate=1e-3, **options)


def loop(num_envs, updates_per_step, peer):
    config = end_to_end.configured("cartpole_swingup", "paper")
    return TorchLoop(
        dataclasses.replace(
            config,
            env=dataclasses.replace(config.env, num_envs=num_envs, image_size=SIZE),
            sac=dataclasses.replace(SAC, updates_per_step=updates_per_step),
            replay=dataclasses.replace(config.replay, capacity=5),
        ),
        CountingWorld(),
        peer,
    )


def test_the_replay_holds_stacks_of_one_episode_and_drops_the_oldest():
    one = loop(1, 1, agent())
    one.run(7, learn=False)
    stacks = [(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 3)]  # what an episode shows, newest frame last
    wanted = {slot: (stacks[n % LENGTH], stacks[n % LENGTH + 1]) for slot, n in enumerate((5, 6, 2, 3, 4))}
    for slot, pair in wanted.items():
        for stored, stack in zip((one.replay.observation, one.replay.next_observation), pair, strict=True):
            np.testing.assert_array_equal(stored[slot, :, 0, 0], [n + 50 * c for n in stack for c in range(3)])
            assert (stored[slot] == stored[slot, :, :1, :1]).all()
    np.testing.assert_array_equal(one.replay.reward, [1.5, 0.5, 1.5, 0.5, 1.0])
    np.testing.assert_array_equal(one.replay.discount, [0, 1, 0, 1, 1])
    batch = one.replay.sample(64, FORMAT)
    assert isinstance(batch, TorchBatch) and batch.observation.shape == (64, 9, SIZE, SIZE)
    assert sorted(set(batch.reward.tolist())) == [0.5, 1.0, 1.5]
    np.testing.assert_array_equal(batch.next_observation[:, -3, 0, 0], 2 * batch.reward)


@pytest.mark.parametrize(("num_envs", "updates_per_step", "steps", "wanted"), [(16, 8, 7, 3), (1, 2, 2, 4)])
def test_updates_keep_the_presets_share_of_transitions(monkeypatch, num_envs, updates_per_step, steps, wanted):
    made, peer = [], agent()
    monkeypatch.setattr(peer, "update", lambda batch, draws, *, with_actor: made.append(with_actor))
    one = loop(num_envs, updates_per_step, peer)
    one.run(4, learn=False)
    one.run(steps, learn=True)
    assert made == [number % 2 == 0 for number in range(wanted)]


@pytest.mark.parametrize(("side", "channels_last"), [(16, True), (24, False)])
def test_the_peer_acts_as_our_learner_does(side, channels_last):
    method = make_method("rad", AugmentConfig(size=side), SIZE, "crop" if side < SIZE else "translate")
    learner = make_learner(A, 1e-3, method, SAC)
    state = learner.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 9), jnp.uint8), jnp.zeros((1, A)))
    peer = agent(side, channels_last=channels_last)
    parity.load(peer, state)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 9), dtype=np.uint8)
    acted = peer.act(torch.from_numpy(images).permute(0, 3, 1, 2), torch.zeros(2, A))
    np.testing.assert_allclose(acted, learner.act(state, jnp.asarray(images)), rtol=1e-4, atol=1e-6)


def test_both_sides_get_the_presets_shapes():
    demo, paper = (end_to_end.configured("walker_walk", name) for name in ("demo", "paper"))
    assert (demo.env.num_envs, demo.env.image_size, demo.sac.updates_per_step) == (16, 40, 4)
    assert (paper.env.num_envs, paper.env.image_size, paper.sac.batch_size) == (1, 100, 128)
    for config in (demo, paper):
        assert (config.method, config.task, config.replay.capacity) == ("rad", "walker_walk", end_to_end.CAPACITY)
        assert (config.sac.n_step, config.replay.sampling) == (1, "uniform")  # what the rivals' replay knows
