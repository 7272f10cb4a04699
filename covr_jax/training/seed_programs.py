"""The programs of several seeds as one: those of one run, with a leading axis of seeds. S seeds, E envs."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from covr_jax import runtime
from covr_jax.config import Config
from covr_jax.envs import VecEnv
from covr_jax.envs.seed_stepper import SeedStepper
from covr_jax.runtime.rng import ACT, ENV, INIT, UPDATE
from covr_jax.training.counts import Counts, read_counts
from covr_jax.training.pieces import compile_pieces_of_seeds
from covr_jax.training.programs import Programs
from covr_jax.training.seed_axis import SeedAxis
from covr_jax.training.state import TrainState, initial_progress


class SeedPrograms(Programs):
    """Programs whose states are those of S runs that differ in their seed alone, stacked.

    What is compiled depends on S and not on the seeds: their keys are arguments. Evaluations are of one seed at a time,
    by ``evaluator.of_seed``.

    Attributes:
      seeds: of the runs.
      axis: the leading axis of all arrays.
    """

    _stacked = True

    def __init__(self, config: Config, seeds: Sequence[int]):
        """Builds everything; nothing is traced yet.

        Args:
          config: of one run, whose environments are compiled (physics mjx, renderer jax); its seed is not read.
          seeds: of the runs.

        Raises:
          ConfigError: options that do not fit together.
        """
        super().__init__(config)
        self.seeds, self.axis = tuple(seeds), SeedAxis(len(seeds))
        parts, axis = self.parts, self.axis
        assert isinstance(parts.env, VecEnv)
        self.copies = axis.seeds if runtime.on_cpu() else axis.local
        keys = axis.keys(seeds, ACT), axis.keys(seeds, UPDATE)
        self.pieces = compile_pieces_of_seeds(parts, axis.over, *keys)
        self.stepper = SeedStepper(parts.env, axis.seeds, axis.local, axis.split)
        self._start = runtime.jit(axis.over(self._start_of_one), rarely=True)
        self._scanned = self._chunk_program()

    def _start_of_one(self, key: Array) -> tuple:
        _, observation, action = self._init_inputs()
        learner = self.parts.learner.init(key, observation, action)
        return learner, self._init_replay(), initial_progress(self.parts.env.num_envs)

    def init(self, *, begin: bool = True) -> TrainState:
        """Makes the fresh states of all seeds, stacked; ``begin`` makes no difference.

        Raises:
          ConfigError: replays or networks do not fit into the free memory.
        """
        del begin
        self.check_memory()
        learner, ring, progress = self._start(self.axis.keys(self.seeds, INIT))
        env, timestep = self.stepper.reset(self.axis.keys(self.seeds, ENV))
        return TrainState(learner, ring, env, timestep, progress)

    def set_scheduled(self, state: TrainState, **values: Sequence[float]) -> TrainState:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As ``Programs.set_scheduled``, with a value for every seed."""
        leaves = {name: self.axis.place(jnp.asarray(value, jnp.float32)) for name, value in values.items()}
        return state.replace(learner=state.learner.replace(**leaves))

    def stacked_counts(self, state: TrainState, slots: np.ndarray | None = None) -> Counts:
        """Reads the counters of all seeds; ``slots`` as of ``read_counts``."""
        return read_counts(self.pieces.count_cut, state, slots)
