"""Pixel training as a whole, environment steps per second: ours beside a dm_control and PyTorch loop, taking turns.

``python experiments/benchmark/end_to_end.py --task walker_walk --presets demo paper --output walker_walk.json``

Ours are the run's own compiled chunks: act, physics, picture, replay and updates of RAD with the preset's environments,
networks, batch and updates per transition. ``torch`` and ``torch_channels_last`` are ``torch_loop.py`` with the same
networks, batch and updates per transition: one world of dm_control, drawn by the OpenGL of ``--gl``, and the RAD update
of ``torch_rad.py`` in the published code's memory layout and in the one that suits its kernels. They have a process
each, with the same threads and allocator. Each round runs all in turn; a ratio is the median over rounds. Environment
steps are control steps: an agent step counts as its action repeat.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax import presets
from covr_jax.commands import cli
from covr_jax.config import AugmentConfig, Config, ReplayConfig
from experiments.benchmark import measure
from experiments.benchmark.turns import Contestant, elsewhere, pin, row, take_turns

CAPACITY = 4_000  # transitions in both replays: enough to sample from, and stacked pairs of more would not fit
STEPS = 4  # of the loop per call
RIVALS = {"torch": False, "torch_channels_last": True}


def configured(task: str, preset: str) -> Config:
    """RAD on the task in the preset's shapes; the augmentation is the task's.

    Images have the size at which they are placed, and targets are one-step returns of uniformly drawn transitions: the
    rivals place all of an image, and their replay knows no others.
    """
    config = presets.make(preset, "rad", task=task)
    env = dataclasses.replace(config.env, image_size=config.augment.center_crop or config.env.image_size)
    sac, store = dataclasses.replace(config.sac, n_step=1), ReplayConfig(capacity=CAPACITY)
    return dataclasses.replace(config, env=env, augment=AugmentConfig(), sac=sac, replay=store)


def ours(config: Config) -> Contestant:
    """The run's chunks over a replay that has begun to fill."""
    import jax

    from covr_jax import runtime
    from covr_jax.training import programs

    runtime.configure()
    if not runtime.on_cpu():
        raise SystemExit("the PyTorch loop computes on the CPU: set JAX_PLATFORMS=cpu")
    built = programs.Programs(config)
    held = [built.init()]

    def chunk(*, learn: bool) -> None:
        held[0] = built.chunk(held[0], learn=learn).state

    for _ in range(2):
        chunk(learn=False)
    steps = built.parts.chunk_steps * config.env.num_envs * built.parts.env.action_repeat
    return Contestant(partial(chunk, learn=True), steps, lambda: jax.block_until_ready(held[0]))


def rival(config: Config, threads: int, channels_last: bool) -> Contestant:
    """The PyTorch loop, in a process whose ``MUJOCO_GL`` is set."""
    import jax
    import torch

    from covr_jax import runtime
    from covr_jax.agents import make_method
    from covr_jax.envs import get_task
    from experiments.benchmark.torch_loop import SuiteWorld, TorchLoop
    from experiments.benchmark.torch_rad import TorchRAD

    runtime.configure()
    torch.set_num_threads(threads)
    task, size = get_task(config.task), config.env.image_size
    world = SuiteWorld(config.task, task.action_repeat, size)
    image = jax.ShapeDtypeStruct((1, size, size, 3 * config.env.frame_stack), "uint8")
    augmentation = make_method("rad", config.augment, size, task.augmentation).augmentation
    agent = TorchRAD(
        config.sac,
        image_size=size,
        side=jax.eval_shape(augmentation.center, image).shape[1],
        channels=image.shape[-1],
        action_dim=world.action_dim,
        learning_rate=task.learning_rate,
        channels_last=channels_last,
    )
    loop = TorchLoop(config, world, agent)
    loop.run(config.sac.batch_size, learn=False)
    return Contestant(partial(loop.run, STEPS, learn=True), STEPS * task.action_repeat, lambda: None)


def rows_of(task: str, preset: str, gl: str, threads: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    config = configured(task, preset)
    contestants = {"ours": ours(config)}
    for name, channels_last in RIVALS.items():
        contestants[name] = elsewhere(rival, config, threads, channels_last, MUJOCO_GL=gl)
    turns = take_turns(contestants, rounds, seconds)
    about = {
        "preset": preset,
        "num_envs": config.env.num_envs,
        "image_size": config.env.image_size,
        "updates_per_transition": config.sac.updates_per_step / config.env.num_envs,
    }
    return [about | row(name, taken, turns["ours"], "env_steps") for name, taken in turns.items()]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="end_to_end.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="cartpole_swingup")
    parser.add_argument("--presets", nargs="+", default=["demo", "paper"], choices=presets.PRESETS)
    parser.add_argument("--gl", default="osmesa", choices=("osmesa", "egl"), help="OpenGL of dm_control")
    parser.add_argument("--threads", type=int, help="processors to keep to; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one contestant's turn in a round, about")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    threads = pin(arguments.threads)
    rows = []
    for preset in arguments.presets:
        rows += rows_of(arguments.task, preset, arguments.gl, threads, arguments.rounds, arguments.seconds)
        print(measure.table(rows) + "\n", flush=True)
    if arguments.output:
        measure.write(arguments.output, rows, task=arguments.task, gl=arguments.gl, threads=threads)
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main)
