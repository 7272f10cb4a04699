"""Updates per second of every method relative to plain SAC, taking turns in one run.

``python experiments/benchmark/methods.py --preset cpu --output methods.json``

Each makes whole updates (critic, auxiliary loss, and the actor as often as its settings say) in the preset's sizes for
that method, on one batch that is already on the device. With ``--equal`` all have SAC's sizes (batch, image,
layers), so that the ratio is the cost of the composition alone. Compile seconds are of the first call, without the
persistent cache. ``gflop`` is an update's arithmetic as XLA counts it before it optimises, the same for every device;
where a method's share of SAC's speed is that of the arithmetic, nothing is computed twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.benchmark import measure  # noqa: E402
from experiments.benchmark.turns import Contestant, pin, row, take_turns  # noqa: E402

ACTION_DIM, UPDATES = 2, 2


def contestant(name: str, preset: str, equal: bool) -> tuple[Contestant, dict[str, float]]:
    """A method's updates; the seconds until the first ones were done, and GFLOP per update."""
    import jax
    import jax.numpy as jnp

    from covr_jax import presets, runtime
    from covr_jax.agents import make_learner, make_method
    from covr_jax.agents.methods import of_group, published_hyperparameters
    from covr_jax.config import AugmentConfig

    config = presets.make(preset, name)
    common = presets.make(preset, "sac")
    sac, size, augment = config.sac, config.env.image_size, config.augment
    if equal:
        sac = dataclasses.replace(common.sac, **of_group(published_hyperparameters(name).always, "sac"))
        size, augment = common.env.image_size, AugmentConfig()
    method = make_method(name, augment, size, "translate")
    learner = make_learner(ACTION_DIM, sac.learning_rate or 1e-3, method, sac)
    batch = _batch(method, sac.batch_size, size, config.env.frame_stack)
    state = learner.init(jax.random.key(0), batch.observation[:1], jnp.zeros((1, ACTION_DIM)))
    pattern = [index % sac.actor_update_every == 0 for index in range(UPDATES)]
    update = {flag: runtime.jit(partial(learner.update, with_actor=flag), often=True) for flag in set(pattern)}
    held = [state]

    def work() -> None:
        for number, flag in enumerate(pattern):
            held[0] = update[flag](held[0], batch, jax.random.key(number))[0]

    started = time.perf_counter()
    work()
    jax.block_until_ready(held[0])
    facts = {"compile_s": time.perf_counter() - started}
    counts = {
        flag: program.trace(held[0], batch, jax.random.key(0)).lower(lowering_platforms=("cuda",)).cost_analysis()
        for flag, program in update.items()
    }
    facts["gflop"] = 1e-9 * sum(counts[flag]["flops"] for flag in pattern) / UPDATES
    return Contestant(work, UPDATES, lambda: jax.block_until_ready(held[0])), facts


def _batch(method: Any, size: int, side: int, stack: int) -> Any:
    """Random transitions with what the method reads."""
    import jax
    import numpy as np

    from covr_jax.types import Batch, Future, Maps, Prior

    generator = np.random.default_rng(0)
    shape = (size, side, side, 3 * (stack + method.history))
    images = [generator.integers(0, 256, shape, np.uint8) for _ in range(2)]
    action = generator.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32)
    ones, horizon = np.ones(size, np.float32), method.horizon
    future = None
    if horizon:
        seen = generator.integers(0, 256, (horizon, *shape), np.uint8)
        steps = np.stack([ones] * horizon)
        future = Future(np.stack([action] * horizon), steps, seen, np.ones(size, bool), steps, steps > 0)
    cells = generator.random((size, method.map_side**2), np.float32)
    maps = Maps(cells, np.ones(size, bool)) if method.map_side else None
    batch = Batch(
        images[0], action, ones, ones, images[1], Prior(action, np.zeros(size, bool)),
        previous_action=action if method.residual else None, future=future, maps=maps,
        reward_scale=np.float32(1.0) if method.objective.scales_rewards else None,
    )  # fmt: skip
    return jax.tree.map(jax.numpy.asarray, batch)


def main() -> int:
    from covr_jax.agents.methods import METHODS

    parser = argparse.ArgumentParser(prog="methods.py", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--preset", default="cpu", choices=("cpu", "paper"))
    parser.add_argument("--equal", action="store_true", help="SAC's sizes for all")
    parser.add_argument("--threads", type=int, help="processors to keep to; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one method's turn in a round, about")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    threads = pin(arguments.threads)

    import jax

    from covr_jax import runtime

    runtime.configure()
    jax.config.update("jax_enable_compilation_cache", False)
    names = ["sac", *[name for name in arguments.methods if name != "sac"]]
    made = {name: contestant(name, arguments.preset, arguments.equal) for name in names}
    turns = take_turns({name: one for name, (one, _) in made.items()}, arguments.rounds, arguments.seconds)
    rows = []
    for name in names:
        found = row(name, turns[name], turns["sac"])
        speed = 1.0 / found.pop("ours_is")
        found.pop("ours_is_by_cpu")
        rows.append({"method": found.pop("contestant")} | found | {"of_sac": speed} | made[name][1])
    print(measure.table(rows))
    if arguments.output:
        measure.write(arguments.output, rows, preset=arguments.preset, equal=arguments.equal, threads=threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
