"""Trains several seeds together: one program advances all of them, each keeps its own loop, log and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covr_jax.agents import LearnerState
from covr_jax.config import Config
from covr_jax.io.reporter import Reporter
from covr_jax.io.run_dir import Result
from covr_jax.runtime.profiling import chunk_annotation
from covr_jax.training.counts import Counts, of_seed
from covr_jax.training.loop import AgentTrainer
from covr_jax.training.seed_programs import SeedPrograms
from covr_jax.training.state import Progress, TrainState
from covr_jax.types import Diverged, Preempted, Stop, never


class StackedState:
    """The states of all seeds on the device, with the counters of the last chunk."""

    def __init__(self, programs: SeedPrograms):
        """Makes the fresh states of all seeds."""
        self.programs, self.axis = programs, programs.axis
        self.state = programs.init()
        self._slots, self._counts = np.zeros(self.axis.seeds, np.int32), None  # slots of the reading before

    def counts(self) -> Counts:
        """The counters of all seeds, read once after every change."""
        if self._counts is None:
            self._counts = self.programs.stacked_counts(self.state, self._slots)
        return self._counts

    def put(self, one: TrainState, index: int) -> None:
        """Replaces the state of a seed."""
        self.state = self.axis.put(self.state, one, index)
        self._counts, self._slots[index] = None, int(one.replay.count)

    def change(self, idle: Sequence[int], function: Callable[[TrainState], tuple[TrainState, Any]]) -> Any:
        """Replaces the states of all seeds but some.

        Args:
          idle: positions of the seeds whose states stay as they are.
          function: of the states, which are donated; returns the new ones and something else.

        Returns:
          What ``function`` returned beside the states.
        """
        self._slots = np.array(self.counts().slots)
        kept = [(self.axis.cut(self.state, index), index) for index in idle]
        self.state, result = function(self.state)
        self._counts = None
        for one, index in kept:
            self.put(one, index)
        return result


class SeedState:
    """One seed's part of the stacked state. It is copied where it is read."""

    def __init__(self, stacked: StackedState, index: int):
        self._stacked, self._index = stacked, index

    @property
    def learner(self) -> LearnerState:
        """Of this seed, for programs of one seed."""
        return self._stacked.axis.cut_anywhere(self._stacked.state.learner, self._index)

    @property
    def progress(self) -> Progress:
        """Of this seed, for programs of one seed."""
        return self._stacked.axis.cut_anywhere(self._stacked.state.progress, self._index)

    def whole(self) -> TrainState:
        """Everything of this seed, where it is."""
        return self._stacked.axis.cut(self._stacked.state, self._index)


class MemberPrograms:
    """What the trainer of one seed asks of its programs; the group has checked the memory, and makes the chunks."""

    def __init__(self, config: Config, stacked: StackedState, index: int):
        programs = stacked.programs
        self.config, self.parts = config, programs.parts._replace(config=config)
        self.evaluator = programs.evaluator.of_seed(config.seed)
        self.stacked, self.index = stacked, index

    def check_memory(self) -> None:
        """Does nothing."""

    def init(self, *, begin: bool = True) -> TrainState:
        """The seed's fresh state, as long as no chunk was made."""
        del begin
        return self.stacked.axis.cut(self.stacked.state, self.index)

    def counts(self, state: SeedState, slots: int | None = None) -> Counts:
        """The seed's counters."""
        del state, slots
        return of_seed(self.stacked.counts(), self.index)

    def close(self) -> None:
        """Does nothing."""


class Member(AgentTrainer):
    """The run of one seed in a group, which calls its methods in the order of ``Trainer.run``."""

    programs: Any  # MemberPrograms

    @property
    def state(self) -> Any:
        """The seed's part of the group's state."""
        return SeedState(self.programs.stacked, self.programs.index)

    @state.setter
    def state(self, one: TrainState) -> None:
        """Replaces the seed's part."""
        self.programs.stacked.put(one, self.programs.index)

    def whole_state(self) -> TrainState:
        """Everything of this seed."""
        return self.state.whole()


class SeedReporter:
    """Reports of one seed in a group: lines name the seed, and progress is shown of one of them."""

    def __init__(self, reporter: Reporter, seed: int, leads: Callable[[], bool]):
        """Wraps a reporter.

        Args:
          reporter: of the group.
          seed: named in front of every line.
          leads: whether the progress of this seed is shown now.
        """
        self._reporter, self._seed, self._leads = reporter, seed, leads

    def message(self, text: str) -> None:
        """See ``Reporter``."""
        self._reporter.message(f"seed {self._seed}: {text}")

    def update(self, env_steps: int, shown: dict[str, float]) -> None:
        """See ``Reporter``."""
        if self._leads():
            self._reporter.update(env_steps, shown)

    def finetune(self, step: int, steps: int, loss: float) -> None:
        """See ``Reporter``."""
        self._reporter.finetune(step, steps, loss)


class SeedGroup:
    """Runs that differ in their seed alone, trained together.

    They need not be at the same env step: no number of one depends on another.
    """

    def __init__(self, configs: Sequence[Config], run_dirs: Sequence[Path], reporter: Reporter, stop: Stop = never):
        """Builds the programs, makes or restores every seed's state, and opens every log.

        Args:
          configs: resolved, one per seed.
          run_dirs: of the runs, in the same order.
          reporter: shows progress.
          stop: asked between chunks.

        Raises:
          ConfigError: options that do not fit together, or do not fit into the memory for so many seeds.
          CheckpointError: a run's checkpoint cannot be read.
        """
        seeds, self._stop = [config.seed for config in configs], stop
        self.stacked = StackedState(SeedPrograms(configs[0], seeds))
        self.members = []
        for index, (config, run_dir) in enumerate(zip(configs, run_dirs, strict=True)):
            own = SeedReporter(reporter, config.seed, partial(self._leads, index))
            self.members.append(Member(config, run_dir, own, stop, MemberPrograms(config, self.stacked, index)))
        self.running = list(self.members)

    def _leads(self, index: int) -> bool:
        return self.running[0].programs.index == index

    def run(self) -> Iterator[tuple[Member, Result | Diverged]]:
        """Trains all seeds to ``total_steps`` and evaluates them; yields each as it ends, with how it ended.

        A seed that has diverged, or has ended, stays in the program, which is compiled for so many seeds; nobody looks
        at it any more.

        Raises:
          Preempted: ``stop`` says so; every seed that has not ended has a checkpoint.
          CheckpointError: a checkpoint cannot be written.
        """
        try:
            yield from self._each(self.running, methodcaller("start"))
            yield from self._end()
            while self.running:
                metrics, active, learn = self._chunk()
                yield from self._each(active, partial(_after_chunk, metrics, learn))
                yield from self._end()
                if self.running and (reason := self._stop()):
                    raise Preempted(reason)
        except Preempted:
            for member in self.running:
                member.save_if_new()
            raise
        finally:
            for member in self.members:
                member.close()

    def _each(
        self, members: Sequence[Member], function: Callable[[Member], Any]
    ) -> Iterator[tuple[Member, Result | Diverged]]:
        """Calls a function of every member; yields those whose numbers have left the finite ones, or that it ends."""
        for member in list(members):
            try:
                ended = function(member)
            except Diverged as error:
                ended = error
            if ended is not None:
                self.running.remove(member)
                yield member, ended

    def _end(self) -> Iterator[tuple[Member, Result | Diverged]]:
        def conclude(member: Member) -> Result:
            values = member.conclude()
            member.close()
            return member.result(values)

        return self._each([member for member in self.running if member.trained], conclude)

    def _chunk(self) -> tuple[dict[str, np.ndarray], list[Member], bool]:
        """Makes a chunk of the seeds that have to learn or, as long as some do not yet, of those.

        Returns:
          Metrics f32[seeds] each, the members whose chunk it was, and whether it had updates.
        """
        learn = all(member.learns for member in self.running)
        active = [member for member in self.running if learn or not member.learns]
        if learn:
            self._catch_up()
        programs, idle = self.stacked.programs, self._positions(set(self.running) - set(active))
        scheduled = [member.scheduled() for member in self.members]
        values = {name: [row[name] for row in scheduled] for name in scheduled[0]}
        number = int(self.stacked.counts().vec_steps.max()) // programs.parts.chunk_steps

        def chunk(state: TrainState) -> tuple[TrainState, dict[str, Any]]:
            state, metrics, _ = programs.chunk(programs.set_scheduled(state, **values), learn=learn)
            return state, metrics

        with chunk_annotation(number):
            return jax.device_get(self.stacked.change(idle, chunk)), active, learn

    def _catch_up(self) -> None:
        """Makes the updates with which learning starts, of the seeds that have none yet."""
        begun = {member for member in self.running if member.updates}
        if self.members[0].config.sac.catch_up_updates and len(begun) < len(self.running):
            catch_up = self.stacked.programs.catch_up
            self.stacked.change(self._positions(begun), lambda state: (catch_up(state), None))

    def _positions(self, members: set[Member]) -> list[int]:
        return [index for index, member in enumerate(self.members) if member in members]


def _after_chunk(metrics: dict[str, np.ndarray], learn: bool, member: Member) -> None:
    index = member.programs.index
    member.after_chunk({name: values[index] for name, values in metrics.items()}, learn=learn)
    member.after_iteration()
