"""The skeleton that both training loops share: counters, logging, evaluation, checkpoints, resuming.

``loop.AgentTrainer`` trains an agent, ``vlm_agent.VLMTrainer`` a VLM that acts itself. A run is a directory; the same
command on it resumes from its newest checkpoint. What lives on the device is ``state``; what the host loop remembers is
``loop``, a small record that every checkpoint holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from covr_jax import config as configuration
from covr_jax.config import Config
from covr_jax.io.checkpoint import BEST, Checkpointer, CheckpointError
from covr_jax.io.metrics import MetricsLogger, NoMetrics
from covr_jax.io.reporter import Reporter
from covr_jax.io.run_dir import Result
from covr_jax.io.sinks import check_sinks, open_sinks
from covr_jax.runtime import hosts
from covr_jax.training.evaluation import FINAL_EVALUATION, Policy
from covr_jax.training.host_checks import clean_together
from covr_jax.training.loop_state import LoopState
from covr_jax.training.programs import Programs
from covr_jax.training.state import HISTORY
from covr_jax.training.surroundings import changes, surroundings
from covr_jax.types import Diverged, EnvironmentLost, Preempted, Stop


class Trainer:
    """One run. Subclasses say what an iteration is, and set ``state`` and ``loop`` before they call ``open_log``.

    Attributes:
      state: everything on the device; None until the first environments are open.
      loop: the loop's own state.
    """

    trains = True  # False: the run only evaluates, and has no checkpoints
    state: Any
    loop: Any
    logger: MetricsLogger

    def __init__(self, config: Config, run_dir: Path, reporter: Reporter, stop: Stop, programs: Programs, vlm: Any):
        check_sinks(config.run.log)
        self.config, self.run_dir, self.reporter = config, run_dir, reporter
        self.programs, self.vlm, self.stop = programs, vlm, stop  # which is asked between chunks
        self.checkpointer = Checkpointer(run_dir, history=HISTORY)
        self.best = Checkpointer(run_dir, BEST, keep=1, history=HISTORY)  # the best evaluation's policy, without replay
        clean_together((self.checkpointer, self.best))  # before anything is restored: one may lack only its name
        self.damaged_checkpoints = 0  # passed over when this process started
        self._moved: list[str] = []  # what of the surroundings differs from those of the checkpoint
        self._started = time.monotonic()

    # ------------------------------------------------------------------ hooks

    @property
    def agent_steps(self) -> int:
        """Agent steps so far, over all training environments."""
        raise TypeError("a trainer says how many agent steps it has made")

    @property
    def updates(self) -> int:
        """Gradient updates so far."""
        raise TypeError("a trainer says how many updates it has made")

    def policy(self) -> Policy:
        """The policy that evaluations measure."""
        raise TypeError("a trainer says what it evaluates")

    def begin(self) -> None:
        """Measures and logs what a new run is compared with."""

    def iterate(self) -> None:
        """Trains for a while."""
        raise TypeError("a trainer says what an iteration is")

    def do_what_is_due(self) -> bool:
        """Does what the present env step asks for beside evaluations and checkpoints, after every iteration.

        Returns:
          Whether a checkpoint is due whatever ``next_checkpoint`` says.
        """
        return False

    def evaluated_state(self) -> Any:
        """What of the state makes the policy that evaluations measure; None where it is not in the state."""
        return None

    def evaluation_metrics(self, *, final: bool) -> dict[str, float]:
        """What is logged beside an evaluation's returns."""
        del final
        return {}

    def adapter_writer(self) -> Callable[[Path], Any] | None:
        """Writes the VLM's adapter into a checkpoint's directory; None where the run has no adapter."""
        return None

    def after_training(self) -> None:
        """Runs after the last iteration, before the final evaluation."""

    def finish(self) -> None:
        """Runs after the final evaluation."""

    # ----------------------------------------------------------------- counts

    @property
    def env_steps(self) -> int:
        """Agent steps times action repeat so far, the x of every curve."""
        return self.agent_steps * self.programs.parts.env.action_repeat

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all processes of this run."""
        return self.loop.seconds + time.monotonic() - self._started

    def log(self, metrics: dict[str, Any]) -> None:
        """Writes one row of metrics at the present counts."""
        self.logger.write(metrics, env_steps=self.env_steps, agent_steps=self.agent_steps, updates=self.updates)

    def open_log(self, *, resumed: bool) -> None:
        """Opens the metrics log; a resumed run drops rows that are newer than its checkpoint."""
        at = (self.env_steps, self.loop.metrics_bytes) if resumed else (None, None)
        config = self.config
        title = f"{config.task}/{config.method}/seed{config.seed}"
        names = config.run.log if hosts.is_first() else ()
        sinks = open_sinks(names, self.run_dir, at[0], configuration.to_dict(config), title)
        self.logger = MetricsLogger(self.run_dir, *at, sinks=sinks) if hosts.is_first() else NoMetrics()
        if self.damaged_checkpoints:
            self.log({"checkpoint/damaged": self.damaged_checkpoints})
        if self._moved:
            self.log({"checkpoint/changed_surroundings": len(self._moved)})

    # ---------------------------------------------------------------- the run

    def run(self) -> Result:
        """Trains to ``total_steps`` and evaluates.

        Raises:
          EnvironmentLost: an environment on the host does not come back; a checkpoint has been written.
          Diverged: training has left the finite numbers; no checkpoint has been written since.
          Preempted: ``stop`` says so; a checkpoint has been written.
          CheckpointError: a checkpoint cannot be written.
        """
        try:
            self.start()
            while not self.trained:
                self.iterate()
                self.after_iteration()
                if not self.trained and (reason := self.stop()):
                    raise Preempted(reason)
            values = self.conclude()
        except (EnvironmentLost, Preempted):
            self.save_if_new()
            raise
        finally:
            self.close()
        return self.result(values)

    @property
    def trained(self) -> bool:
        """Whether no iteration is left."""
        return not self.trains or self.env_steps >= self.config.total_steps

    def start(self) -> None:
        """Runs before the first iteration of this process."""
        if self.env_steps == 0:
            self.begin()
        elif self.trains:
            self.after_iteration()  # a process that was asked to stop may have left something undone

    def conclude(self) -> np.ndarray:
        """Runs after the last iteration; returns f64[episodes] of the final evaluation."""
        self.after_training()
        values = self.evaluate(FINAL_EVALUATION)
        self.logger.close()
        self.finish()
        return values

    def close(self) -> None:
        """Closes the environments, and waits until the checkpoints are complete."""
        self.programs.close()
        for checkpointer in (self.checkpointer, self.best):
            checkpointer.wait()

    def result(self, values: np.ndarray) -> Result:
        """The result of a run whose final evaluation gave these returns."""
        mean, std = float(values.mean()), float(values.std())
        return Result(mean, std, self.loop.random_return, self.env_steps, self.seconds)

    def after_iteration(self) -> None:
        """The evaluation and the checkpoint that are due."""
        due = self.do_what_is_due()
        if self.loop.next_eval <= self.env_steps < self.config.total_steps:
            self.loop.evaluations += 1
            self.loop.next_eval = self.env_steps + self.config.eval.every
            self.evaluate(self.loop.evaluations)
        if self.env_steps >= self.loop.next_checkpoint or due:
            self.save()

    def measure_random(self) -> dict[str, float]:
        """Evaluates uniform actions and remembers their mean return; returns the row to log."""
        evaluator = self.programs.evaluator
        values = evaluator.evaluate(evaluator.random_policy(0), self.config.eval.episodes, FINAL_EVALUATION)
        self.loop.random_return = float(values.mean())
        return {"eval/random_return": self.loop.random_return}

    def evaluate(self, number: int) -> np.ndarray:
        """Returns f64[episodes] of the present policy in the ``number``-th evaluation; logs them.

        Raises:
          Diverged: a return is not finite.
        """
        evaluator, final = self.programs.evaluator, number == FINAL_EVALUATION
        values = evaluator.evaluate(self.policy(), self.config.eval.episodes, number)
        if not np.isfinite(values).all():
            raise Diverged("the return of an evaluation is not finite")
        measured = evaluator.episode_metrics()
        row = {"eval/episode_return": values.mean(), "eval/episode_return_std": values.std()}
        row |= {f"eval/{name}": value for name, value in measured.items()}
        self.log(row | self.evaluation_metrics(final=final))
        if not values.mean() <= self.loop.best_return:  # NaN before the first evaluation
            self.loop.best_return = float(values.mean())
            self.save_best()
        if not final:
            shown = "".join(f", {name} {value:.3g}" for name, value in measured.items())
            text = f"evaluation at {self.env_steps:,} env steps: {values.mean():.0f} ± {values.std():.0f}{shown}"
            self.reporter.message(text)
        return values

    # ------------------------------------------------------------ checkpoints

    def save_if_new(self) -> None:
        """Writes a checkpoint, unless there is one of the present env steps."""
        if hosts.as_first(self.env_steps not in self.checkpointer.steps()):
            self.save()

    def whole_state(self) -> Any:
        """What a checkpoint holds of the device."""
        return self.state

    def save(self) -> None:
        """Writes a checkpoint, where the run has any and there is something to save."""
        if not self.trains or self.state is None:
            return
        self.loop.next_checkpoint = self.env_steps + self.config.run.checkpoint_every
        if self.vlm:
            self.loop.vlm_counters = dict(self.vlm.counters)
        self.logger.flush()
        self.loop.metrics_bytes = self.logger.size
        host = asdict(self.loop) | {"seconds": self.seconds, "surroundings": surroundings()}
        self.checkpointer.save(self.env_steps, self.whole_state(), host, self.adapter_writer())

    def checkpoint_metrics(self) -> dict[str, float]:
        """What the last checkpoint of this process cost; NaN before the first one is complete."""
        names, last = ("checkpoint/bytes", "checkpoint/seconds", "checkpoint/blocked_seconds"), self.checkpointer.last
        return dict(zip(names, last[1:] if last else [math.nan] * 3, strict=True))

    def save_best(self) -> None:
        """Writes the policy of the best evaluation so far, where the run has checkpoints."""
        if self.trains and (kept := self.evaluated_state()) is not None:
            self.best.save(self.env_steps, kept, {"return": self.loop.best_return})

    def restore(self, like: Callable[[], Any], loop_type: type[LoopState]) -> Path:
        """Sets ``state`` and ``loop`` from the newest checkpoint that is whole, and returns its directory.

        Args:
          like: makes a state of the same structure, see ``Checkpointer.restore``.
          loop_type: class of the loop state.

        Raises:
          CheckpointError: it cannot be read.
        """
        self.state, values, directory = self.checkpointer.restore(like, tell=self._tell_damage)
        if moved := changes(values.pop("surroundings", {}), surroundings()):
            self._moved = moved
            self.reporter.message(f"going on elsewhere ({', '.join(moved)}): the last digits may differ from now on")
        self.loop = loop_type.from_dict(values)
        return directory

    def _tell_damage(self, text: str) -> None:
        self.damaged_checkpoints += 1
        self.reporter.message(text)

    def restore_adapter(self, directory: Path, load: Callable[[Path], Any]) -> None:
        """Calls ``load`` with a checkpoint's adapter directory.

        Raises:
          CheckpointError: the adapter cannot be read.
        """
        try:
            load(directory / "adapter")
        except RuntimeError as error:  # VLMLoadError, without importing Torch
            raise CheckpointError(f"cannot read the adapter of checkpoint {directory}: {error}") from error
