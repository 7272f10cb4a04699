"""The JAX renderer beside MuJoCo's own OpenGL picture: PSNR per task, and sheets to look at.

``python experiments/benchmark/fidelity.py --output experiments/results/renderer``
``python experiments/benchmark/fidelity.py --models gymnasium mujoco.mjx --output experiments/results/renderer``

With ``--models``, all XML files of packages, folders or files at 84 and 256 pixels, seen by the model's first camera or
the free one; models with meshes or other things that are not drawn are listed with the reason.

States come from random behaviour in dm_control. ``multisampled`` compares both as they are used; ``centre`` switches
MuJoCo's multisampling off and casts one ray per pixel, which separates errors of the model from noise at edges.
A sheet's columns: OpenGL, ours, four times the difference around grey.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure

SHEET_ROWS = 4
MODEL_STATES = 3  # of each model of others


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


def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """A row of a sheet."""
    gap = np.clip(128 + 4 * (ours.astype(int) - theirs), 0, 255).astype(np.uint8)
    return np.concatenate([theirs, ours, gap], 1)


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
            rows.append(difference(ours, theirs))
    golden.close()
    row = {"task": task, "samples": samples, "psnr_mean": float(np.mean(values)), "psnr_min": float(np.min(values))}
    return row, np.concatenate(rows)


def files_of(source: str) -> list[Path]:
    """XML files of a file, a folder or an installed package."""
    path = Path(source)
    if not path.exists():
        found = importlib.util.find_spec(source)
        if found is None or not found.submodule_search_locations:
            raise SystemExit(f"--models {source}: neither a path nor an installed package")
        path = Path(found.submodule_search_locations[0])
    return [path] if path.is_file() else sorted(path.rglob("*.xml"))


def compare_model(path: Path, size: int, count: int) -> tuple[dict[str, Any], np.ndarray | None]:
    """Statistics of a model over states 20 steps of random controls apart; no sheet where it cannot be drawn."""
    import mujoco

    from covr_jax.render import HostRenderer, Renderer

    row: dict[str, Any] = {"model": "/".join(path.parts[-2:]), "size": size}
    row |= {"mean_db": None, "min_db": None, "not_drawn": ""}
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
        buffer = model.vis.global_
        buffer.offheight, buffer.offwidth = max(buffer.offheight, size), max(buffer.offwidth, size)
        renderer = Renderer(model, size, size, 0 if model.ncam else -1)
    except ValueError as error:
        return row | {"not_drawn": str(error).strip().splitlines()[0][:90]}, None
    golden, data = HostRenderer(model, size, size, 0 if model.ncam else -1), mujoco.MjData(model)
    generator, values, rows = np.random.default_rng(0), [], []
    for _ in range(count):
        mujoco.mj_forward(model, data)
        ours, theirs = np.asarray(renderer(data)), golden(data)
        values.append(psnr(ours, theirs))
        rows.append(difference(ours, theirs))
        if model.nu:
            data.ctrl[:] = generator.uniform(*np.where(model.actuator_ctrllimited, model.actuator_ctrlrange.T, 0.0))
        mujoco.mj_step(model, data, nstep=20)
    golden.close()
    return row | {"mean_db": float(np.mean(values)), "min_db": float(np.min(values))}, np.concatenate(rows)


def save_sheet(sheet: np.ndarray, path: Path) -> None:
    """Enlarges small pictures."""
    from PIL import Image

    factor = max(1, 252 // (sheet.shape[1] // 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((sheet.shape[1] * factor, sheet.shape[0] * factor), 0).save(path)


def compare_tasks(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of our tasks."""
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
            save_sheet(sheet, arguments.output / f"{task}.png")
    return rows


def compare_models(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of other people's models."""
    import jax

    rows = []
    for path in (file for source in arguments.models for file in files_of(source)):
        for size in (84, 256):
            row, sheet = compare_model(path, size, MODEL_STATES)
            jax.clear_caches()  # compiled renderers map memory, and those of all models more than Linux lets a process
            gc.collect()
            rows.append(row)
            print(measure.table([row]), flush=True)
            if sheet is None:
                break
            if arguments.output and arguments.sheets:
                save_sheet(sheet, arguments.output / "models" / f"{path.parent.name}_{path.stem}_{size}.png")
    return rows


def main() -> int:
    from covr_jax.envs import TASKS

    parser = argparse.ArgumentParser(prog="fidelity.py", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=[t for t in TASKS if t != "walker_run"], choices=TASKS)
    parser.add_argument("--models", nargs="+", help="packages, folders or XML files to compare instead of our tasks")
    parser.add_argument("--size", type=int, default=84)
    parser.add_argument("--states", type=int, default=50)
    parser.add_argument("--sheets", action="store_true", help="with --models: also a sheet per model")
    parser.add_argument("--output", type=Path, help="folder for the numbers and a sheet per task")
    arguments = parser.parse_args()

    from covr_jax import runtime

    runtime.configure()
    rows = compare_models(arguments) if arguments.models else compare_tasks(arguments)
    if arguments.output:
        name, settings = "fidelity", {"size": arguments.size, "states": arguments.states}
        if arguments.models:
            name, settings = "models", {"models": arguments.models, "states": MODEL_STATES}
        measure.write(arguments.output / f"{name}.json", rows, **settings)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main, RuntimeError)
