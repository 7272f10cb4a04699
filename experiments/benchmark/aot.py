"""A run's programs compiled for chips that are not here: seconds, memory, and what the compiler made of them.

``python experiments/benchmark/aot.py --target tpu:v5e:2x2 cuda:h100 --program learner chunk --output FILE``

Needs the compiler of the target and none of its devices: ``pip install libtpu==0.0.42.*`` for TPUs, ``pip install
--no-deps jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2`` for NVIDIA GPUs. A program is made for one chip, or split
over ``--devices`` of them; then sizes are those of one.

* ``learner``: an update of critic and actor, ``chunk``: act, learn, step and draw as one program, ``act``: the policy,
  ``render``: the pictures of all environments.
* ``trace_s`` is the time of tracing and lowering, ``compile_s`` the compiler's; ``hlo_lines`` are those of the compiled
  program. ``copied_mb`` adds up what copies and slices of over 100 MB write; ``on_host`` counts calls of the host, and
  ``collective_mb`` adds up what each exchange between chips gives one of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure

LARGE_BYTES = 100_000_000
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f64": 8,
    "s64": 8,
    "u64": 8,
}  # others: 4
HOST_CALLS = ("xla_python", "xla_ffi_python", "MoveToHost", "MoveToDevice", "HostExecute", "infeed", "outfeed")
COPY = re.compile(r"= (\w+)\[([\d,]*)\]\S* (?:copy|copy-start|transpose|slice)\(")
EXCHANGES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
EXCHANGE = re.compile(rf"= (.*?) ({'|'.join(EXCHANGES)})(?:-start)?\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Gpu(NamedTuple):
    """A GPU's numbers that XLA decides by, from its maker's data sheet and CUDA's tables for compute capability 9.0."""

    name: str
    memory_bytes: int
    bandwidth: int  # bytes/s


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 80 * 2**30, 3_350_000_000_000),
    "h200": Gpu("NVIDIA H200", 141 * 10**9, 4_800_000_000_000),
}
# 132 multiprocessors with 128 lanes, 228 KiB of shared memory each (227 for one block) and 50 MiB of cache.
HOPPER = """gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  l2_cache_size: 52428800  memory_bandwidth: {gpu.bandwidth}  device_memory_size: {gpu.memory_bytes}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


class Program(NamedTuple):
    """A function and what it is called with: arrays' shapes, and other arguments as they are."""

    function: Any  # of ``jax.jit``
    arguments: tuple[Any, ...]
    static: tuple[Any, ...] = ()


def devices_of(target: str) -> list[Any]:
    """Devices that can only be compiled for, of ``tpu:<topology>`` or ``cuda:<name>``."""
    from jax.experimental import topologies

    platform, _, name = target.partition(":")
    try:
        if platform == "tpu":
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # what machine is this: a question to a cloud's network
            os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it locks a device that is not here
            return topologies.get_topology_desc(name, platform="tpu").devices
        if platform == "cuda" and name in GPUS:
            config = HOPPER.format(gpu=GPUS[name])
            options = {"target_config": config, "topology": "1x1x1"}
            return topologies.get_topology_desc(name, "cuda", **options).devices
    except (RuntimeError, ValueError) as error:
        wanted = {"tpu": "libtpu", "cuda": "jax-cuda12-plugin and jax-cuda12-pjrt"}[platform]
        cli.fail(f"no compiler for {target} ({str(error).splitlines()[0]}); install {wanted}, see --help")
    known = ", ".join(f"cuda:{gpu}" for gpu in GPUS)
    cli.fail(f"unknown target {target}; give tpu:<topology>, such as tpu:v5e:2x2, or {known}")


def programs_of(options: argparse.Namespace) -> tuple[Any, dict[str, Callable[[], Program]]]:
    """The mesh of a run, if any, and its programs by name; made within ``runtime.compiling_for``."""
    import jax

    from covr_jax import presets
    from covr_jax.runtime.rng import ENV, stream
    from covr_jax.training.programs import Programs
    from covr_jax.training.state import TrainState, initial_progress

    config = presets.make(options.preset, options.method, task=options.task)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, devices=options.devices))
    programs = Programs(config)
    pieces, envs = programs.pieces, programs.parts.env
    stepper: Any = programs.stepper

    def state() -> TrainState:
        learner = programs._init.shapes(*programs._init_inputs())
        ring, progress = jax.eval_shape(lambda: (programs._init_replay(), initial_progress(envs.num_envs)))
        env, timestep = jax.eval_shape(lambda key: stepper.reset(key), stream(config.seed, ENV))
        return TrainState(learner, ring, env, timestep, progress)

    def learner() -> Program:
        def update(learner: Any, ring: Any) -> Any:
            learner, _, _, _, inputs = pieces.learn_critic(learner, ring)
            return pieces.learn_actor(learner, inputs)[0]

        whole = state()
        return Program(jax.jit(update, donate_argnums=0), (whole.learner, whole.replay))

    def chunk() -> Program:
        return Program(programs._scanned, (state(),), (programs._cycles, True))

    def act() -> Program:
        whole = state()
        return Program(pieces.act, (whole.learner, whole.timestep.observation, whole.progress.vec_steps), (None,))

    def render() -> Program:
        whole = state()
        return Program(jax.jit(stepper._observe, donate_argnums=0), (whole.env, whole.timestep.reward), (None,))

    return programs.parts.mesh, {"learner": learner, "chunk": chunk, "act": act, "render": render}


def compiled(program: Program, mesh: Any) -> dict[str, Any]:
    """Compiles a program for the devices in use; ``mesh``, if there are several. Returns what is known of it."""
    import jax

    from covr_jax import runtime
    from covr_jax.training.mesh import shardings

    one = jax.sharding.SingleDeviceSharding(runtime.devices()[0])
    places = shardings(mesh, program.arguments) if mesh else jax.tree.map(lambda _: one, program.arguments)
    arguments = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), program.arguments, places
    )
    started = time.perf_counter()
    lowered = program.function.lower(*arguments, *program.static)
    traced = time.perf_counter()
    executable = lowered.compile()
    row = {"trace_s": traced - started, "compile_s": time.perf_counter() - traced}
    memory, cost, text = executable.memory_analysis(), executable.cost_analysis() or {}, executable.as_text()
    for name in ("argument", "output", "temp", "alias"):
        row[f"{name}_mb"] = round(getattr(memory, f"{name}_size_in_bytes") / 1e6, 1)
    return row | {"flops": cost.get("flops"), "bytes": cost.get("bytes accessed")} | counts(text)


def counts(text: str) -> dict[str, Any]:
    """What a compiled program is made of, from its text."""
    copied = [size for found in COPY.finditer(text) if (size := _nbytes(*found.groups())) > LARGE_BYTES]
    exchanged = [found.groups() for found in EXCHANGE.finditer(text)]
    return {
        "hlo_lines": text.count("\n") + 1,
        "fusions": len(re.findall(r" fusion\(", text)),
        "convolutions": len(re.findall(r" convolution\(|__cudnn\$conv", text)),
        "large_copies": len(copied),
        "copied_mb": round(sum(copied) / 1e6),
        "on_host": sum(text.count(name) for name in HOST_CALLS),
        "collectives": len(exchanged),
        "gathers": sum(name == "all-gather" for _, name in exchanged),
        "collective_mb": sum(_nbytes(*array) for arrays, _ in exchanged for array in ARRAY.findall(arrays)) / 1e6,
    }


def _nbytes(kind: str, sizes: str) -> int:
    total = BYTES.get(kind, 4)
    for size in filter(None, sizes.split(",")):
        total *= int(size)
    return total


def main() -> None:
    names = ("learner", "chunk", "act", "render")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", default=["tpu:v5e:2x2", "cuda:h100"], help="chips to compile for")
    parser.add_argument("--program", nargs="+", choices=names, default=list(names))
    parser.add_argument("--preset", default="throughput")
    parser.add_argument("--task", default="cartpole_swingup")
    parser.add_argument("--method", default="rad")
    parser.add_argument("--devices", type=int, default=1, help="chips that a program is split over")
    parser.add_argument("--output", type=Path, help="JSON of every number")
    options = parser.parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")  # what is computed here, such as constants, is computed on the host
    from covr_jax import runtime

    rows = []
    for target in options.target:
        with runtime.compiling_for(devices_of(target)):
            mesh, made = programs_of(options)
            for name in options.program:
                rows.append({"target": target, "program": name} | compiled(made[name](), mesh))
                print(rows[-1], flush=True)
                if options.output is not None:
                    settings = {name: getattr(options, name) for name in ("preset", "task", "method", "devices")}
                    measure.write(options.output, rows, settings=settings)
    print(measure.table(rows))


if __name__ == "__main__":
    main()
