"""Videos: what is written can be read back, and a failed one leaves nothing."""

import os
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from covr_jax.io.mp4 import write_mp4


def test_frames_come_back_in_order_and_in_time(tmp_path):
    levels = [0, 60, 120, 180, 240]
    frames = [np.full((36, 52, 3), level, np.uint8) for level in levels]
    path = write_mp4(frames, tmp_path / "videos" / "a.mp4", fps=12.5)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True)
    assert b"52x36" in read.stderr and b"12.50 fps" in read.stderr
    back = np.frombuffer(read.stdout, np.uint8).reshape(-1, 36, 52, 3)
    np.testing.assert_allclose(back.mean((1, 2, 3)), levels, atol=2)


def test_the_process_is_never_forked(tmp_path):
    """A fork copies the page tables of a process that holds the replay, and fails where memory is scarce."""
    forks = []
    os.register_at_fork(before=lambda: forks.append(1))
    write_mp4([np.zeros((16, 16, 3), np.uint8)], tmp_path / "a.mp4", fps=20)
    assert not forks


@pytest.mark.field
def test_without_an_encoder_it_is_one_line(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(OSError, match=r"a\.mp4: there is no encoder; install imageio-ffmpeg"):
        write_mp4([np.zeros((16, 16, 3), np.uint8)], tmp_path / "a.mp4", fps=20)


@pytest.mark.field
def test_a_failure_is_one_line_and_leaves_no_file(tmp_path):
    frames = [np.zeros((15, 15, 3), np.uint8)]  # the pixel format halves both sides
    with pytest.raises(OSError, match=r"a\.mp4: the encoder failed: .*") as refusal:
        write_mp4(frames, tmp_path / "a.mp4", fps=20)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())
