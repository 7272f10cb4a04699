"""The motions that the tiny VLM learns to see, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments import build_tiny_vlm
from experiments.tiny_vlm_scenes import DOMAINS, pose_numbers, sample_motions


def test_the_numbers_of_a_pose():
    """Cartpole at half of the rail's right side with the pole to the right; a reacher's elbow a third of its range."""
    np.testing.assert_allclose(pose_numbers(DOMAINS["cartpole"], np.array([0.9, np.pi / 2])), [0.5, 1, 0], atol=1e-7)
    np.testing.assert_allclose(pose_numbers(DOMAINS["reacher"], np.array([np.pi, -0.9])), [-1 / 3, 0, -1], atol=1e-7)


@pytest.mark.parametrize("name", DOMAINS)
def test_joints_move_at_constant_speed_to_the_last_pose(name):
    domain = DOMAINS[name]
    qpos, pose, motion = sample_motions(domain, 50, 3, np.random.default_rng(0))
    last, step = qpos[:, 2], np.zeros((50, len(domain.low)))
    step[:, list(domain.moving)] = motion * domain.step
    np.testing.assert_allclose(qpos[:, 1], last - step, atol=1e-6)
    np.testing.assert_allclose(qpos[:, 0], last - 2 * step, atol=1e-6)
    assert (last >= np.float32(domain.low)).all() and (last <= np.float32(domain.high)).all()
    assert len(domain.step) == len(domain.moving) and 0.8 < np.abs(motion).max() <= 1
    np.testing.assert_allclose(pose[:, 2], pose_numbers(domain, last.astype(float)), atol=1e-5)


def test_a_single_frame_has_no_motion():
    qpos, pose, motion = sample_motions(DOMAINS["cartpole"], 4, 1, np.random.default_rng(0))
    assert qpos.shape == (4, 1, 2) and pose.shape == (4, 1, 3) and not motion.any()


def test_answers_and_pictures_of_several_frames():
    """The answer's pose is that of the newest frame, which is the last of the stacked ones."""
    pose, motion = np.arange(9.0).reshape(3, 3), np.array([0.5, -0.5])
    domain = DOMAINS["cartpole"]
    np.testing.assert_array_equal(build_tiny_vlm.answer_of(domain, pose, motion, 3), [6, 7, 8, 0.5, -0.5])
    np.testing.assert_array_equal(build_tiny_vlm.answer_of(domain, pose, motion, 1), [6, 7, 8])
    frames = torch.arange(3)[None, :, None, None, None] * 10 + torch.arange(3)  # [1,F,1,1,3]
    assert build_tiny_vlm.stacked(frames, 3).tolist() == [[[[0, 1, 2, 10, 11, 12, 20, 21, 22]]]]
    assert build_tiny_vlm.stacked(frames, 1).tolist() == [[[[20, 21, 22]]]]
