"""Turns a finished run into docs/images/policy.gif: one episode of its final policy, looped.

    python experiments/figures/policy_gif.py runs/demo/seed1
    python experiments/figures/policy_gif.py runs/demo/seed1 --video runs/demo/seed1/videos/final.mp4

Records an episode with the run's own renderer (as ``evaluate.py --video``), or reads an mp4 that is there, and writes
every n-th frame, so that the file keeps below ``--max-bytes``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

OUTPUT = ROOT / "docs" / "images" / "policy.gif"
_COLORS = 64


def read_video(path: Path) -> tuple[np.ndarray, float]:
    """Reads an mp4.

    Returns:
      u8[T,H,W,3] frames and the frames per second.
    """
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    assert isinstance(facts, dict)
    width, height = facts["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return np.stack(frames), float(facts["fps"])


def record(run_dir: Path, number: int) -> tuple[np.ndarray, float]:
    """Records one episode of a run's newest checkpoint; frames u8[T,H,W,3] and frames per second.

    Args:
      run_dir: directory that train.py wrote.
      number: which set of start states.
    """
    os.environ.setdefault("MUJOCO_GL", "disable")
    from covr_jax import runtime
    from covr_jax.training.restore import load_run
    from covr_jax.training.video import episode_images

    runtime.configure()
    _, programs, state = load_run(run_dir)
    try:
        frames, fps = episode_images(programs, programs.evaluator.eval_policy(state.learner), number)
        return np.stack(frames), fps
    finally:
        programs.close()


def write_gif(frames: np.ndarray, fps: float, output: Path, *, size: int, seconds: float, max_bytes: int) -> int:
    """Writes a looped GIF and drops frames until it is small enough.

    Args:
      frames: u8[T,H,W,3].
      fps: frames per second of ``frames``.
      output: file to write.
      size: height and width, pixels.
      seconds: of the episode's beginning that are shown, in real time.
      max_bytes: upper limit of the file's size.

    Returns:
      Bytes written.

    Raises:
      ValueError: even every 8th frame is too much.
    """
    frames = frames[: max(1, round(seconds * fps))]
    small = [Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS) for frame in frames]
    # One palette for all frames: pixels that do not change are then stored once.
    sheet = Image.fromarray(np.concatenate([np.asarray(image) for image in small[:: max(1, len(small) // 8)]]))
    palette = sheet.quantize(_COLORS)
    output.parent.mkdir(parents=True, exist_ok=True)
    for step in range(1, 9):
        duration = 1000.0 * step / fps
        if duration < 20:  # browsers show shorter ones slowly
            continue
        kept = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small[::step]]
        kept[0].save(output, save_all=True, append_images=kept[1:], duration=round(duration), loop=0, optimize=True)
        if output.stat().st_size <= max_bytes:
            return output.stat().st_size
    raise ValueError(f"{output} does not get below {max_bytes} bytes; take a smaller --size or fewer --seconds")


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="directory that train.py wrote")
    parser.add_argument("--video", type=Path, default=None, help="take this mp4 instead of recording an episode")
    parser.add_argument("--number", type=int, default=0, help="which set of start states (default: 0)")
    parser.add_argument("--size", type=int, default=200, help="height = width, pixels (default: 200)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the episode's beginning (default: 6)")
    parser.add_argument("--max-bytes", type=int, default=1_500_000, help="default: 1500000")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    frames, fps = read_video(options.video) if options.video else record(options.run_dir, options.number)
    sizes = {"size": options.size, "seconds": options.seconds, "max_bytes": options.max_bytes}
    written = write_gif(frames, fps, options.output, **sizes)
    print(f"{options.output}: {written / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
