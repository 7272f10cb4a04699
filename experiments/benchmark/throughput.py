"""Where the time of an agent step goes: ``python experiments/benchmark/throughput.py --task cartpole_swingup ...``.

Takes every option of train.py, so that users profile their own configuration, and ``--output FILE`` for the numbers as
JSON, ``--trace DIR`` for a profiler trace of three chunks: an XProf directory (``xprof --logdir DIR``) with a
``perfetto_trace.json.gz`` in it (ui.perfetto.dev).

Each phase is timed alone. ``critic`` is the critic's update less sampling and augmenting, ``actor`` that of actor,
temperature and targets; ``VLM`` asks about the frames of one chunk, ``transfer`` is what crosses between host and
device for it, ``host`` is the start of programs. ``whole`` is the run's own chunk, in which all but the VLM happen, and
``compile`` what compiling took before. mflop and mbyte are XLA's count for one call (a loop's body counts once, so
physics shows too little); of_roofline is the shortest time that the device's measured ceilings allow for them, divided
by the time taken: above 1 where caches serve bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure, roofline

TRACED_CHUNKS = 3


def trace(bench: Any, directory: str) -> None:
    """Write what the profiler sees of a few chunks."""
    from covr_jax.runtime.profiling import chunk_annotation

    with bench.jax.profiler.trace(directory, create_perfetto_trace=True):
        for number in range(TRACED_CHUNKS):
            with chunk_annotation(number):
                bench.jax.block_until_ready(bench.chunk())
    for pattern in ("*.xplane.pb", "perfetto_trace.json.gz"):
        print(*(f"trace: {path}" for path in sorted(Path(directory).rglob(pattern))[-1:]))


def summary_of(bench: Any, rows: list[dict[str, Any]], ceilings: roofline.Ceilings) -> dict[str, Any]:
    """The numbers beside the table."""
    from covr_jax import runtime

    config, by_name = bench.config, {row["phase"]: row for row in rows}
    seconds = by_name["whole"]["ms"] / 1e3
    lanes = config.env.num_envs
    return {
        "env_steps_per_s": lanes * bench.programs.parts.env.action_repeat / seconds,
        "frames_per_s": lanes / seconds,
        "updates_per_s": config.sac.updates_per_step / config.sac.steps_per_update / seconds,
        "dispatch_share": by_name["host"]["share"],
        "chunk_steps": bench.programs.parts.chunk_steps,
        "compile_s": bench.compile_log.seconds,
        "compile_cold_s": bench.compile_log.cold_seconds,
        "programs": bench.compile_log.programs,
        "replay_bytes": bench.programs.parts.replay_bytes,
        "peak_memory_bytes": runtime.peak_memory_bytes(),
        "ceiling_gflop_per_s": ceilings.flops_per_s / 1e9,
        "ceiling_gbyte_per_s": ceilings.bytes_per_s / 1e9,
        "device": bench.jax.devices()[0].device_kind,
    }


def main() -> int:
    output, rest = cli.split_option(sys.argv[1:], "output")
    directory, rest = cli.split_option(rest, "trace")
    config = cli.parse_config(rest, "throughput.py", __doc__ or "")

    from covr_jax import config as configuration
    from covr_jax import runtime
    from covr_jax.config.validate import validate
    from experiments.benchmark.phases import Bench

    runtime.configure()
    validate(config)
    bench = Bench(config)
    ceilings = roofline.ceilings()
    rows = bench.rows(ceilings)
    summary = summary_of(bench, rows, ceilings)
    print(bench.compile_log)
    print(measure.table(rows))
    print(
        "  ".join(
            f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in summary.items()
        )
    )
    if directory:
        trace(bench, directory)
    if output:
        measure.write(Path(output), rows, config=configuration.to_dict(config), **summary)
    return 0


if __name__ == "__main__":
    from covr_jax.config import ConfigError

    cli.import_quietly()
    cli.guarded(main, ConfigError)
