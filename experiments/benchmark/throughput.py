"""Where the time of an agent step goes: ``python experiments/benchmark/throughput.py --task cartpole_swingup ...``

Takes every option of train.py, so that users profile their own configuration, and ``--output FILE`` for the numbers as
JSON, ``--trace DIR`` for a profiler trace of one chunk (opens in XProf and in Perfetto). Each row is one compiled piece
of the run, timed alone; ``whole`` is the run's own chunk with everything in it. The VLM is not asked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import cli
from experiments.benchmark import measure


class Bench:
    """The pieces of one configuration over a filled replay."""

    def __init__(self, config: Any):
        import jax

        from covr_jax.programs import Programs

        self.config, self.jax = config, jax
        self.programs = Programs(config)
        self.state = self.programs.init()
        self.compile_s = self._warm_up()

    def _warm_up(self) -> float:
        """Seconds until everything is compiled; leaves at least two chunks of experience in the replay."""
        started = time.perf_counter()
        for learn in (False, False, True):
            self.state, _ = self.jax.block_until_ready(self.programs.chunk(self.state, learn=learn))
        return time.perf_counter() - started

    def rows(self) -> list[dict[str, Any]]:
        steps = self.programs.chunk_steps
        whole = self._seconds(self._chunk) / steps
        return [self._row(name, seconds, count, whole) for name, seconds, count in self._pieces()] + [
            self._row("whole", whole, 1.0, whole)
        ]

    def _row(self, name: str, seconds: float, count: float, whole: float) -> dict[str, Any]:
        return {
            "piece": name,
            "ms": 1e3 * seconds,
            "per_agent_step": count,
            "share_of_step": seconds * count / whole,
        }

    def _pieces(self) -> list[tuple[str, float, float]]:
        """(name, seconds of one call, calls per agent step)."""
        programs, config = self.programs, self.config
        updates = config.sac.updates_per_step
        actor = updates / config.sac.actor_update_every
        vec_steps, timestep = self.state.progress.vec_steps, self.state.timestep
        action = programs._act(self.state.learner, timestep.observation, vec_steps)
        return [
            ("act", self._seconds(lambda: programs._act(self.state.learner, timestep.observation, vec_steps)), 1.0),
            ("physics", self._seconds(lambda: self._physics(action)), 1.0),
            ("render", self._seconds(self._render), 1.0),
            ("replay.add", self._seconds(lambda: self._add(action)), 1.0),
            ("update, critic", self._seconds(lambda: self._update(False)), updates - actor),
            ("update, critic and actor", self._seconds(lambda: self._update(True)), actor),
        ]

    def _seconds(self, work: Callable[[], Any]) -> float:
        self.jax.block_until_ready(work())
        return 1.0 / measure.median_rate(lambda: self.jax.block_until_ready(work()), 1.0)

    # Donated parts go back into the state, since the caller's copy is gone after the call.

    def _chunk(self) -> Any:
        self.state, metrics = self.programs.chunk(self.state, learn=True)
        return self.state.progress, metrics

    def _physics(self, action: Any) -> Any:
        env, reward = self.programs._env._advance(self.state.env, action)
        self.state = self.state.replace(env=env)
        return reward

    def _render(self) -> Any:
        env, timestep = self.programs._env._observe(self.state.env, self.programs._env._no_reward)
        self.state = self.state.replace(env=env)
        return timestep

    def _add(self, action: Any) -> Any:
        self.state = self.state.replace(replay=self.programs._add(self.state.replay, self.state.timestep, action))
        return self.state.replay.count

    def _update(self, with_actor: bool) -> Any:
        learner, metrics = self.programs._learn[with_actor](self.state.learner, self.state.replay)
        self.state = self.state.replace(learner=learner)
        return metrics


def main() -> int:
    output, rest = cli.split_option(sys.argv[1:], "output")
    trace, rest = cli.split_option(rest, "trace")
    config = cli.parse_config(rest, "throughput.py", __doc__ or "")

    from covr_jax import config as configuration
    from covr_jax import runtime

    runtime.configure()
    configuration.validate(config)
    bench = Bench(config)
    rows = bench.rows()
    if trace:
        with bench.jax.profiler.trace(trace, create_perfetto_trace=True):
            bench.jax.block_until_ready(bench._chunk())
        print(f"trace: {trace}")
    seconds = rows[-1]["ms"] / 1e3
    lanes, repeat = config.env.num_envs, bench.programs.env.action_repeat
    summary = {
        "compile_s": bench.compile_s,
        "env_steps_per_s": lanes * repeat / seconds,
        "frames_per_s": lanes / seconds,
        "updates_per_s": config.sac.updates_per_step / seconds,
        "peak_memory_bytes": runtime.peak_memory_bytes(),
        "device": bench.jax.devices()[0].device_kind,
    }
    print(measure.table(rows))
    print("  ".join(f"{name} {value:,.0f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in summary.items()))
    if output:
        measure.write(Path(output), rows, config=configuration.to_dict(config), **summary)
    return 0


if __name__ == "__main__":
    from covr_jax.config import ConfigError

    cli.import_quietly()
    cli.guarded(main, ConfigError)
