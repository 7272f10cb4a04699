"""Damages checkpoints and environments, and counts what is noticed; part of ``reliability.py``."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def row_of(name: str, count: int, wanted: str, found: Counter[str], seconds: float) -> dict[str, Any]:
    """A row of the table; ``held`` says whether nothing but ``wanted`` was found."""
    shown = ", ".join(f"{number} {what}" for what, number in found.most_common())
    held = set(found) <= set(wanted.split(" or "))
    return {"broken by": name, "trials": count, "wanted": wanted, "found": shown, "held": held, "s": round(seconds)}


def _leaves(tree: Any) -> list[Any]:
    """The arrays of a tree on the host; of PRNG keys their data."""
    import jax
    import numpy as np

    found = []
    for leaf in jax.tree.leaves(tree):
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.append(np.asarray(jax.random.key_data(leaf) if is_key else leaf))
    return found


def checkpoints(run_dir: Path, flips: int, seed: int) -> list[dict[str, Any]]:
    """Flips bits in the newest checkpoint's files, cuts them short and deletes them, one at a time."""
    import numpy as np

    from covr_jax import runtime
    from covr_jax.io.checkpoint import Checkpointer, CheckpointError
    from covr_jax.training.restore import load_run

    runtime.configure()
    generator = random.Random(seed)
    _, programs, _ = load_run(run_dir)
    state = programs.init(begin=False)
    known = Checkpointer(run_dir)
    before, host, newest = known.restore(lambda: state)
    whole = {path: path.read_bytes() for path in sorted(newest.rglob("*")) if path.is_file()}
    files = [path for path, data in whole.items() if data]

    expected = _leaves(before)

    def outcome() -> str:
        try:
            found, values, directory = known.restore(lambda: state, tell=lambda text: None)
        except CheckpointError:
            return "refused"
        if directory != newest:
            return "fell back"
        same = all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(expected, _leaves(found), strict=True)
        )
        return "harmless" if same and values == host else "SILENT"

    def flip(path: Path) -> None:
        data = bytearray(whole[path])
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)

    def truncate(path: Path) -> None:
        path.write_bytes(whole[path][: generator.randrange(len(whole[path]))])

    def drawn(count: int) -> Iterator[Path]:
        """Files by their sizes, so that every byte is as likely; every fourth time all files alike."""
        sizes = [len(whole[path]) for path in files]
        for number in range(count):
            yield generator.choice(files) if number % 4 == 0 else generator.choices(files, sizes)[0]

    rows = []
    jobs: tuple[tuple[str, Callable[[Path], None], list[Path]], ...] = (
        ("flipped bit in a checkpoint", flip, list(drawn(flips))),
        ("truncated file of a checkpoint", truncate, list(drawn(flips // 3))),
        ("deleted file of a checkpoint", Path.unlink, list(whole)),
    )
    for name, harm, paths in jobs:
        started, found = time.monotonic(), Counter[str]()
        for path in paths:
            harm(path)
            found[outcome()] += 1
            path.write_bytes(whole[path])
        rows.append(row_of(name, len(paths), "fell back or refused or harmless", found, time.monotonic() - started))
    shutil.rmtree(run_dir)
    return rows


def environments(count: int, seed: int) -> list[dict[str, Any]]:
    """Puts numbers that are not finite into environments, in the middle of their episodes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from covr_jax import runtime
    from covr_jax.commands import cli
    from covr_jax.training.programs import Programs
    from covr_jax.training.resolve import resolve
    from covr_jax.types import StepType

    runtime.configure()
    started, found, generator = time.monotonic(), Counter[str](), np.random.default_rng(seed)
    options = (
        "--preset demo --method sac --env.num-envs 50 --env.image-size 20 --env.samples 1 --replay.capacity 200000"
    )
    programs = Programs(resolve(cli.parse_config(options.split(), "reliability.py", "")))
    state, put = programs.init(), 0
    env: Any = None
    while put < count:
        state = programs.chunk(state, learn=False).state
        env = state.env
        lanes = np.nonzero(np.asarray(env.step_type) != StepType.LAST)[0]
        lanes = generator.permutation(lanes)[: min(10, count - put)]
        field = "qpos" if generator.random() < 0.5 else "qvel"
        value = generator.choice([np.nan, np.inf, -np.inf, 1e30])
        poisoned = getattr(env, field).at[lanes, 0].set(value)
        state, put = state.replace(env=env.replace(**{field: poisoned})), put + len(lanes)
    for _ in range(2):
        state = programs.chunk(state, learn=False).state
    env = state.env
    stored = (state.replay.reward, state.replay.action, state.replay.discount, env.qpos, env.qvel)
    clean = all(bool(jnp.isfinite(jax.device_get(x)).all()) for x in stored)
    cut = int(programs.pieces.count_cut(state.replay, 0))
    found["kept out and counted"] = cut if clean else 0
    found["MISSED"] = count - found["kept out and counted"]
    found = Counter({what: number for what, number in found.items() if number})
    return [
        row_of("number in an environment not finite", count, "kept out and counted", found, time.monotonic() - started)
    ]
