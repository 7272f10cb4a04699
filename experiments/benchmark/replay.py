"""Our replay beside flashbax's trajectory buffer: seconds to add and to sample, bytes held.

``python experiments/benchmark/replay.py --output FILE`` (needs ``pip install flashbax==0.1.3``; nothing else does)

Both hold single frames and give the same batch: stacked observation and next observation, action, reward, discount.
flashbax samples stretches of consecutive steps, which are stacked afterwards, in the same compiled program; it does not
look at where episodes end, so ``mixed`` is the share of its rows that reach over an end, which ours never do. Ours also
carries a prior and its validity per row. Letters: E envs, B batch, T slots.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure

STACK = 3
EPISODE = 126  # time steps of a cartpole episode at action repeat 8, FIRST included


class Shape(NamedTuple):
    """One setting: E, T, pixels, A, B."""

    num_envs: int
    slots: int
    size: int
    action_dim: int
    batch: int


SHAPES = {"paper": Shape(1, 20_000, 100, 1, 128), "demo": Shape(16, 1_879, 48, 1, 128)}


def timestep_of(shape: Shape, time: Any) -> tuple[Any, Any]:
    """(time step, action) of one call, on the device; episodes of EPISODE steps."""
    import jax.numpy as jnp

    from covr_jax.types import StepType, TimeStep

    lanes, position = shape.num_envs, time % EPISODE
    kind = jnp.where(position == 0, StepType.FIRST, jnp.where(position == EPISODE - 1, StepType.LAST, StepType.MID))
    image = jnp.full((lanes, shape.size, shape.size, 3 * STACK), time % 256, jnp.uint8)
    values = jnp.full((lanes,), kind, jnp.int32), jnp.ones(lanes), jnp.ones(lanes)
    return TimeStep(*values, image), jnp.zeros((lanes, shape.action_dim))


class Measured(NamedTuple):
    """What is timed: a state and two programs, ``add(state, timestep, action)`` and ``sample(state, key)``."""

    state: Any
    add: Callable[..., Any]
    sample: Callable[..., Any]
    mixed: Callable[[Any], float]


def ours(shape: Shape) -> Measured:
    from covr_jax import replay, runtime

    state = replay.init(shape.slots, shape.num_envs, shape.size, shape.action_dim)
    sample = runtime.jit(partial(replay.sample, batch_size=shape.batch, frame_stack=STACK))
    return Measured(state, runtime.jit(replay.add, donate_argnums=0), sample, lambda _: 0.0)


def flashbax(shape: Shape) -> Measured:
    """STACK + 1 consecutive steps per row, stacked and cut into a transition inside the program."""
    try:
        import flashbax as fbx
    except ImportError:
        cli.fail("flashbax is not installed; pip install flashbax==0.1.3, or --ours-only")
    import jax
    import jax.numpy as jnp

    from covr_jax import runtime
    from covr_jax.types import StepType

    buffer = fbx.make_trajectory_buffer(
        add_batch_size=shape.num_envs,
        sample_batch_size=shape.batch,
        sample_sequence_length=STACK + 1,
        period=1,
        min_length_time_axis=STACK + 1,
        max_length_time_axis=shape.slots,
    )

    def item(timestep: Any, action: Any) -> dict[str, Any]:
        return {
            "frame": timestep.observation[..., -3:],
            "step_type": timestep.step_type.astype(jnp.int8),
            "reward": timestep.reward,
            "discount": timestep.discount,
            "action": action,
        }

    def add(state: Any, timestep: Any, action: Any) -> Any:
        return buffer.add(state, jax.tree.map(lambda x: x[:, None], item(timestep, action)))

    def sample(state: Any, key: Any) -> dict[str, Any]:
        rows = buffer.sample(state, key).experience

        def stacked(start: int) -> Any:
            frames = rows["frame"][:, start : start + STACK]
            return frames.transpose(0, 2, 3, 1, 4).reshape(*frames.shape[:1], *frames.shape[2:4], -1)

        last = rows["step_type"][:, :-1] == StepType.LAST
        return {
            "observation": stacked(0),
            "next_observation": stacked(1),
            "action": rows["action"][:, -2],
            "reward": rows["reward"][:, -1],
            "discount": rows["discount"][:, -1],
            "mixed": last.any(axis=1),
        }

    first = jax.tree.map(lambda x: x[0], item(*timestep_of(shape, jnp.int32(0))))
    state = jax.jit(buffer.init)(first)
    return Measured(
        state, runtime.jit(add, donate_argnums=0), runtime.jit(sample), lambda batch: float(batch["mixed"].mean())
    )


def row_of(name: str, preset: str, measured: Measured) -> dict[str, Any]:
    """Times of one buffer, filled to its seam and over it first."""
    import jax

    shape = SHAPES[preset]
    make = jax.jit(partial(timestep_of, shape))
    step, action = make(7)
    held, key = [measured.state], jax.random.key(0)
    for time in range(shape.slots + EPISODE):
        held[0] = measured.add(held[0], *make(time))
    where = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(held[0])}

    def add() -> None:
        held[0] = jax.block_until_ready(measured.add(held[0], step, action))

    def sample() -> None:
        jax.block_until_ready(measured.sample(held[0], key))

    mixed = sum(measured.mixed(measured.sample(held[0], draw)) for draw in jax.random.split(key, 50)) / 50
    row = {
        "buffer": name,
        "preset": preset,
        "add_us": 1e6 / measure.median_rate(add, 1.0),
        "sample_ms": 1e3 / measure.median_rate(sample, 1.0),
        "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(held[0])),
        "mixed": mixed,
    }
    kept = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(held[0])}
    return row | {"in_place": bool(where & kept)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="replay.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--ours-only", action="store_true", help="without flashbax")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    from covr_jax import runtime

    runtime.configure()
    buffers = {"ours": ours} if arguments.ours_only else {"ours": ours, "flashbax": flashbax}
    rows = []
    for preset in arguments.presets:
        for name, make in buffers.items():
            rows.append(row_of(name, preset, make(SHAPES[preset])))
            print(measure.table(rows[-1:]), flush=True)
    if arguments.output:
        shapes = {preset: SHAPES[preset]._asdict() for preset in arguments.presets}
        measure.write(arguments.output, rows, shapes=shapes, frame_stack=STACK)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    cli.guarded(main)
