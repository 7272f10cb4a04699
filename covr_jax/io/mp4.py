"""Frames into an mp4 file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_mp4(frames: Sequence[np.ndarray], path: Path, fps: float) -> Path:
    """Writes frames as H.264 in the pixel format that every browser plays.

    Starts the encoder that imageio-ffmpeg brings by ``vfork``: imageio's own writer forks, which copies the page tables
    of a process that may hold a replay of many GiB, and is refused where the kernel does not promise memory twice.

    Args:
      frames: u8[H,W,3] each, with an even height and width.
      path: file to write; its directory is made.
      fps: frames per second.

    Raises:
      OSError: there is no encoder, or it could not write the file; the message has the reason. No part of a file is
        left.
    """
    try:
        import imageio_ffmpeg

        encoder = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise OSError(f"{path}: there is no encoder; install imageio-ffmpeg ({error})") from error
    height, width = frames[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.mp4")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "-"]
    encoding = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "25", "-v", "error"]
    command = [encoder, "-y", *raw, *encoding, str(partial)]
    data = b"".join(np.ascontiguousarray(frame, np.uint8).tobytes() for frame in frames)
    done = subprocess.run(command, input=data, capture_output=True, process_group=0)  # Ctrl-C is for the run
    if done.returncode:
        partial.unlink(missing_ok=True)
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(f"{path}: the encoder failed: {reason[-1] if reason else f'exit status {done.returncode}'}")
    os.replace(partial, path)
    return path
