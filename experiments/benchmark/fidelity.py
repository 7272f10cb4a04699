"""The JAX renderer beside MuJoCo's own OpenGL picture: PSNR per task, and sheets to look at.

``python experiments/benchmark/fidelity.py --output experiments/results/renderer``

States come from random behaviour in dm_control. ``multisampled`` compares both as they are used; ``centre`` switches
MuJoCo's multisampling off and casts one ray per pixel, which separates errors of the model from noise at edges.
A sheet's columns: OpenGL, ours, four times the difference around grey.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import cli
from experiments.benchmark import measure

SHEET_ROWS = 4


def states(task: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(qpos, geom_pos) of states ten control steps apart, from several episodes."""
    from dm_control import suite

    env = suite.load(*task.rsplit("_", 1), task_kwargs={"random": 1})
    generator = np.random.default_rng(0)
    size = env.action_spec().shape
    rows = []
    for index in range(count):
        if index % 5 == 0:
            env.reset()
        for _ in range(10):
            env.step(generator.uniform(-1, 1, size))
        rows.append((env.physics.data.qpos.copy(), env.physics.model.geom_pos.copy()))
    return rows


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two u8 pictures, dB."""
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def compare(task: str, size: int, count: int, samples: int) -> tuple[dict[str, Any], np.ndarray]:
    """Statistics over ``count`` states, and the sheet of the first few."""
    import mujoco

    from covr_jax.envs import get_task
    from covr_jax.render import HostRenderer, Renderer

    model = get_task(task).load_model()
    if samples == 1:
        model.vis.quality.offsamples = 0
    golden, data = HostRenderer(model, size, size), mujoco.MjData(model)
    renderer = Renderer(model, size, size, samples=samples)
    values, rows = [], []
    for qpos, geom_pos in states(task, count):
        data.qpos[:], model.geom_pos[:] = qpos, geom_pos
        mujoco.mj_forward(model, data)
        ours, theirs = np.asarray(renderer(data)), golden(data)
        values.append(psnr(ours, theirs))
        if len(rows) < SHEET_ROWS:
            gap = np.clip(128 + 4 * (ours.astype(int) - theirs), 0, 255).astype(np.uint8)
            rows.append(np.concatenate([theirs, ours, gap], 1))
    golden.close()
    row = {"task": task, "samples": samples, "psnr_mean": float(np.mean(values)), "psnr_min": float(np.min(values))}
    return row, np.concatenate(rows)


def main() -> int:
    from covr_jax.envs import TASKS

    parser = argparse.ArgumentParser(prog="fidelity.py", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=[t for t in TASKS if t != "walker_run"], choices=TASKS)
    parser.add_argument("--size", type=int, default=84)
    parser.add_argument("--states", type=int, default=50)
    parser.add_argument("--output", type=Path, help="folder for fidelity.json and a sheet per task")
    arguments = parser.parse_args()
    from PIL import Image

    from covr_jax import runtime

    runtime.configure()
    rows = []
    for task in arguments.tasks:
        multisampled, sheet = compare(task, arguments.size, arguments.states, 4)
        centre, _ = compare(task, arguments.size, arguments.states, 1)
        row = {"task": task}
        for name, values in (("multisampled", multisampled), ("centre", centre)):
            row |= {f"{name}_mean_db": values["psnr_mean"], f"{name}_min_db": values["psnr_min"]}
        rows.append(row)
        print(measure.table([row]), flush=True)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sheet).resize((3 * 252, sheet.shape[0] * 3), 0).save(arguments.output / f"{task}.png")
    if arguments.output:
        measure.write(arguments.output / "fidelity.json", rows, size=arguments.size, states=arguments.states)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main, RuntimeError)
