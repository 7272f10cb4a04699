"""CarRacing-v3 through dm_env: its contract, and the same numbers as gymnasium's own."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from absl.testing import absltest
from dm_env import test_utils

pytest.importorskip("Box2D")

from covr_jax.envs import make
from covr_jax.envs.car_racing import TIME_LIMIT, CarRacing
from covr_jax.envs.images import resize_area


class TestCarRacing(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """dm_env's own contract."""

    def make_object_under_test(self):
        return CarRacing(image_size=20, action_repeat=100)

    def make_action_sequence(self):
        for _ in range(2 * TIME_LIMIT // 100 + 2):
            yield np.array([0.2, -0.5, -1.0], np.float32)


@pytest.fixture(scope="module")
def env():
    env = CarRacing(image_size=96, action_repeat=4)
    yield env
    env.close()


def test_rewards_and_images_are_gymnasiums_own(env):
    """Four steps at once give the sum of four rewards and the fourth image."""
    theirs = gymnasium.make("CarRacing-v3")
    env.seed(11)
    first = env.reset()
    track = int(np.random.default_rng(11).integers(2**31))
    np.testing.assert_array_equal(first.observation, theirs.reset(seed=track)[0])
    generator = np.random.default_rng(0)
    for _ in range(5):
        action = generator.uniform(-1.2, 1.2, 3).astype(np.float32)
        ours, expected = env.step(action), 0.0
        steer, gas, brake = np.clip(action, -1, 1)
        for _ in range(4):
            frame, reward, *_ = theirs.step(np.array([steer, (gas + 1) / 2, (brake + 1) / 2], np.float32))
            expected += reward
        assert ours.reward == pytest.approx(expected, abs=1e-4) and ours.discount == 1.0
        np.testing.assert_array_equal(ours.observation, frame)
    theirs.close()


@pytest.mark.parametrize(("action", "said"), [([0.0, 0.0], r"got float64 \[2\]$"), ([0, 0, np.nan], r"nan at \[2\]$")])
def test_what_is_no_action_is_refused(env, action, said):
    env.reset()
    with pytest.raises(ValueError, match=r"^action must be .* \[3\].*" + said):
        env.step(action)


def test_the_time_limit_truncates():
    env = CarRacing(image_size=16, action_repeat=300)
    env.seed(1)
    kinds, rewards = [env.reset().step_type], []
    for _ in range(5):
        timestep = env.step([0.0, -1.0, 1.0])  # it stands still
        kinds.append(timestep.step_type)
        rewards.append(timestep.reward)
    assert kinds == [0, 1, 1, 1, 2, 0] and rewards[-1] is None
    # 0.1 per frame, the last agent step has 100 of them; the tiles under the car pay once, in the first step.
    assert rewards[1:4] == pytest.approx([-30, -30, -10]) and rewards[0] > -30
    env.step([0.0, -1.0, 1.0])
    env.close()


def test_leaving_the_playing_field_terminates(env):
    env.seed(2)
    env.reset()
    for _ in range(150):
        timestep = env.step([0.0, 1.0, -1.0])  # full speed, straight on
        if timestep.last():
            break
    assert timestep.last() and timestep.discount == 0.0
    assert -100.3 <= timestep.reward <= -100 + 1e-3  # the last frame pays -100 flat, up to three before it -0.1 each
    metrics = env.metrics()
    assert 0 < metrics["track_fraction"] < 1 and metrics["lap_finished"] == 0.0


def test_images_are_resized_by_area_and_seeds_decide_episodes():
    env = make("car_racing", 2, image_size=48, frame_stack=1)
    try:
        state, timestep = env.reset(np.array([0, 3], np.uint32))
        for _ in range(3):
            state, later = env.step(state, np.tile([0.5, 1.0, -1.0], (2, 1)))
        state, again = env.reset(np.array([0, 3], np.uint32))
        np.testing.assert_array_equal(timestep.observation, again.observation)
        assert not np.array_equal(again.observation[0], again.observation[1])
        assert not np.array_equal(later.observation, again.observation)
        theirs = gymnasium.make("CarRacing-v3")
        seed = int(np.random.SeedSequence([0, 3, 1, 0]).generate_state(1)[0])
        frame, _ = theirs.reset(seed=int(np.random.default_rng(seed).integers(2**31)))
        np.testing.assert_array_equal(again.observation[1], resize_area(frame, 48))
        theirs.close()
    finally:
        env.close()
