"""The programs of one run: its parts, their compiled pieces, and the calls that the host loop makes.

``chunk`` advances training, ``evaluator`` tries policies on fresh environments, the other methods read the replay for a
COVR round. Letters: E envs, N samples, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from covr_jax import replay, runtime
from covr_jax.agents import LearnerState
from covr_jax.config import Config
from covr_jax.envs import HostVecEnv, VecEnv
from covr_jax.envs.stepper import HostStepper, JitStepper, make_stepper
from covr_jax.replay import ReplayState
from covr_jax.runtime import memory
from covr_jax.runtime.ahead import Ahead
from covr_jax.runtime.kept import Program
from covr_jax.runtime.rng import ENTROPY, ENV, INIT, stream
from covr_jax.training import needs
from covr_jax.training.chunk import (
    ChunkResult,
    dispatched_chunk,
    filled_index,
    power_of_two,
    run_updates,
    scanned_chunk,
    to_device_index,
)
from covr_jax.training.counts import Counts, of_seed, read_counts
from covr_jax.training.evaluation import Evaluator
from covr_jax.training.mesh import kept
from covr_jax.training.parts import build_parts
from covr_jax.training.pieces import Keys, Metrics, compile_pieces
from covr_jax.training.state import EvaluatedState, TrainState, initial_progress

_VALUE_BATCH = 256  # observations per call of the critic
_UPDATES = ("update of the critic", "update of the actor")
_CHUNKS = ("chunk of random actions", "chunk of updates")


class Programs:
    """Parts, compiled pieces and environments of one run.

    Attributes:
      copies: states of a run that the memory of a device holds.
      parts: what the pieces are made of.
      pieces: the compiled pieces.
      stepper: steps the training environments.
      evaluator: steps the evaluation environments.
    """

    copies = 1
    _stacked = False  # whether a state has an axis in front of all others

    def __init__(self, config: Config, ahead: Ahead | None = None):
        """Builds everything; nothing is traced yet.

        Args:
          config: of the run.
          ahead: compiles the programs of training in threads, from ``init`` on; None: each where it is called.

        Raises:
          ConfigError: options that do not fit together.
        """
        self.config = config
        self.ahead, self._ahead_of_calls = ahead or Ahead(), ahead is not None
        self.parts = parts = build_parts(config)
        self.pieces = compile_pieces(parts)
        keeping = partial(kept, parts.mesh)
        self.stepper = make_stepper(parts.env, parts.device_put, keeping)
        self.evaluator = self._evaluator(
            parts.eval_env,
            self.stepper if parts.eval_env is parts.env else make_stepper(parts.eval_env, parts.device_put, keeping),
        )
        self._init = Program(runtime.jit(parts.learner.init, rarely=True))
        self._scanned = self._chunk_program()

    def _chunk_program(self) -> Program:
        static = (2, 3)
        jitted = runtime.jit(self._scan, static_argnums=static, donate_argnums=1)
        return Program(jitted, self.pieces.keys, static_argnums=static)

    def _evaluator(self, env: VecEnv | HostVecEnv, stepper: JitStepper | HostStepper) -> Evaluator:
        parts = self.parts
        return Evaluator(self.config.seed, env, stepper, parts.learner, parts.method, parts.device_put)

    def evaluate_in(self, env: HostVecEnv) -> None:
        """Lets ``evaluator`` step other environments from now on, of the same image size, frames and actions."""
        self.evaluator = self._evaluator(env, make_stepper(env, self.parts.device_put))

    def check_memory(self) -> None:
        """Compares what a state and its updates need with the free memory.

        Raises:
          ConfigError: replay or networks do not fit.
        """
        parts, store, replay_bytes = self.parts, self.config.replay, self.copies * self.parts.replay_bytes
        memory.check_replay(replay_bytes, store.capacity, store.storage)
        needed = [self._learner_need, *needs.of_frames(parts.config, parts.method, hosted=parts.hosted)]
        needed = [need._replace(nbytes=self.copies * need.nbytes) for need in needed]
        memory.check_needs(needed, replay_bytes, store.storage)

    @cached_property
    def _learner_need(self) -> memory.Need:
        return needs.of_learner(self.parts)  # traces the networks

    def init(self, *, begin: bool = True) -> TrainState:
        """Makes a fresh state: networks, an empty replay, environments at FIRST.

        Args:
          begin: False for a state to restore a checkpoint into: no environment on the host is opened for it.

        Raises:
          ConfigError: replay or networks do not fit into the free memory.
          EnvironmentLost: an environment on the host cannot be opened.
        """
        self.check_memory()
        parts, env_key = self.parts, self.parts.device_put(stream(self.config.seed, ENV))
        pinned = self.config.replay.storage == "host"  # which shapes are not
        if self._ahead_of_calls and not pinned:
            self._begin_compiling(env_key)
        ring, progress = self._init_replay(), initial_progress(parts.env.num_envs)
        self.ahead.wait("networks")
        learner, ring, progress = parts.device_put((self._init_learner(), ring, progress))
        start = self.stepper.reset if begin else self.stepper.abstract_state
        env, timestep = parts.device_put(start(env_key))
        return TrainState(learner, ring, env, timestep, progress)

    @property
    def _dispatched(self) -> bool:
        """Whether a chunk is made up of pieces, instead of being one program."""
        return runtime.on_cpu() or self.parts.hosted

    def _begin_compiling(self, env_key: Array) -> None:
        pieces, stepper, inputs = self.pieces, self.stepper, self._init_inputs()
        pictured = stepper.begin_compiling(self.ahead, env_key) if isinstance(stepper, JitStepper) else None
        learner = self.ahead.begin("networks", self._init, *inputs)
        ring, progress = jax.eval_shape(lambda: (self._init_replay(), initial_progress(self.parts.env.num_envs)))
        if pictured and not self._dispatched:
            state = TrainState(learner, ring, *pictured, progress)
            for name, learn in zip(_CHUNKS, (False, True), strict=True):
                self.ahead.begin(name, self._scanned, state, self._cycles, learn)
            return
        if pictured:
            residual = self.parts.method.residual
            previous = pieces.random_action.shapes(progress.vec_steps) if residual else None
            self.ahead.begin("policy", pieces.act, learner, pictured[1].observation, progress.vec_steps, previous)
        *_, inputs = self.ahead.begin(_UPDATES[0], pieces.learn_critic, learner, ring)
        self.ahead.begin(_UPDATES[1], pieces.learn_actor, learner, inputs)

    def _init_replay(self) -> ReplayState:
        parts, store = self.parts, self.config.replay
        sizes = (self.config.env.image_size, parts.env.action_dim)
        whole = parts.mesh is None and not self._stacked
        return replay.init(parts.slots, parts.env.num_envs, *sizes, store.storage, parts.answer_dim, whole)

    def init_policy(self) -> EvaluatedState:
        """Makes the part of a fresh state that evaluations need."""
        parts = self.parts
        return parts.device_put(EvaluatedState(self._init_learner(), initial_progress(parts.env.num_envs)))

    def _init_learner(self) -> LearnerState:
        return self._init(*self._init_inputs())

    def _init_inputs(self) -> tuple[Array, Array, Array]:
        """Key, and an observation and an action for their shapes."""
        parts, size = self.parts, self.config.env.image_size
        observation = jnp.zeros((1, size, size, 3 * parts.frame_stack), jnp.uint8)
        action = jnp.zeros((1, parts.env.action_dim), jnp.float32)
        return stream(self.config.seed, INIT), observation, action

    def chunk(self, state: TrainState, *, learn: bool) -> ChunkResult:
        """Runs ``parts.chunk_steps`` agent steps; the state is donated.

        Args:
          state: as ``init``, a checkpoint or the chunk before left it.
          learn: False for random actions and no updates.
        """
        if not self._dispatched:
            self.ahead.wait(_CHUNKS[learn])
            return ChunkResult(*self.scanned(state, self._cycles, learn))
        if learn:
            self.ahead.wait("policy", *_UPDATES)
        return dispatched_chunk(self.parts, self.pieces, self.stepper, state, self._cycles, learn)

    def counts(self, state: TrainState, slots: int | None = None) -> Counts:
        """Reads the counters of a state; ``slots`` as of ``read_counts``."""
        return of_seed(read_counts(self.pieces.count_cut, state, slots))

    @property
    def _cycles(self) -> int:
        """Cycles of a chunk."""
        return self.parts.chunk_steps // self.parts.cycle

    def catch_up(self, state: TrainState) -> TrainState:
        """Makes the ``sac.catch_up_updates`` on random experience with which learning starts; the state is donated.

        Each updates the actor too, as in the code of DBC and DMControl-GB, where the step at which learning starts is a
        multiple of their actor's interval.
        """
        learner, store = state.learner, state.replay
        self.ahead.wait(*_UPDATES)
        for _ in range(self.config.sac.catch_up_updates):
            learner, store, _ = run_updates(
                self.pieces,
                learner,
                store,
                (True,),
                prioritised=self.config.replay.sampling == "prioritised",
                scan=False,
            )
        return state.replace(learner=learner, replay=store)

    def _scan(self, keys: Keys, state: TrainState, cycles: int, learn: bool) -> tuple[TrainState, Metrics]:
        return scanned_chunk(self.parts, self.pieces.with_keys(keys), self.stepper, state, cycles, learn)

    def scanned(self, state: TrainState, cycles: int, learn: bool) -> tuple[TrainState, Metrics]:
        """``cycles`` cycles as one compiled program, the accelerators' chunk; the state is donated."""
        return self._scanned(state, cycles, learn)

    def set_scheduled(self, state: TrainState, **values: float) -> TrainState:
        """Returns the state with scalars of the learner set: ``guidance_weight``, ``exploration_noise``."""
        leaves = {name: self.parts.device_put(jnp.asarray(value, jnp.float32)) for name, value in values.items()}
        return state.replace(learner=state.learner.replace(**leaves))

    def entropy(self, state: TrainState, time: np.ndarray, env_id: np.ndarray, round_number: int) -> np.ndarray:
        """-log pi(a|s) in nats, f32[N], of one sampled action per stored observation; its mean estimates H(pi).

        Args:
          state: holds the replay and the policy.
          time: i64[N], replay times of the stored observations.
          env_id: i64[N], their environments.
          round_number: of the COVR round; decides the samples.
        """
        some = filled_index(time, 0, power_of_two(len(time)))
        index = to_device_index(time[some], env_id[some])
        observation = replay.observations(state.replay, *index, self.parts.frame_stack)
        previous = replay.previous_actions(state.replay, *index) if self.parts.method.residual else None
        key = jax.random.fold_in(stream(self.config.seed, ENTROPY), round_number)
        return np.asarray(self.pieces.entropy(state.learner, observation, key, previous))[: len(time)]

    def q_values(self, state: TrainState, time: np.ndarray, env_id: np.ndarray, action: np.ndarray) -> np.ndarray:
        """min_i Q_i(o, a), f32[N], of stored observations (time, env_id i64[N]) and actions f32[N,A]."""

        def of_batch(some: np.ndarray, observation: Array, _: Array | None) -> Array:
            return self.pieces.value(state.learner, observation, jnp.asarray(action[some]))

        return self._of_stored(state, time, env_id, of_batch)

    def state_values(self, state: TrainState, time: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        """V(o), f32[N], of stored observations (time, env_id i64[N]): min_i Q_i(o, a) at the policy's mode a."""

        def of_batch(_: np.ndarray, observation: Array, previous: Array | None) -> Array:
            mode = self.pieces.mode(state.learner, observation, previous)
            return self.pieces.value(state.learner, observation, mode)

        return self._of_stored(state, time, env_id, of_batch)

    def _of_stored(
        self,
        state: TrainState,
        time: np.ndarray,
        env_id: np.ndarray,
        of_batch: Callable[[np.ndarray, Array, Array | None], Array],
    ) -> np.ndarray:
        """Concatenates what a function of (positions, observations, previous actions) gives in batches of one size."""
        values = [np.zeros(0, np.float32)]
        for start in range(0, len(time), _VALUE_BATCH):
            some = filled_index(time, start, _VALUE_BATCH)
            index = to_device_index(time[some], env_id[some])
            observation = replay.observations(state.replay, *index, self.parts.frame_stack)
            previous = replay.previous_actions(state.replay, *index) if self.parts.method.residual else None
            values.append(np.asarray(of_batch(some, observation, previous)))
        return np.concatenate(values)[: len(time)]

    def mark_elite(self, state: TrainState, time: np.ndarray, env_id: np.ndarray) -> TrainState:
        """Marks stored transitions (time, env_id i64[N]) as elite for the replay's ``elite`` sampling."""
        some = filled_index(time, 0, power_of_two(len(time)))
        return state.replace(replay=self.pieces.mark_elite(state.replay, *to_device_index(time[some], env_id[some])))

    def close(self) -> None:
        """Closes the environments on the host."""
        self.stepper.close()
        self.evaluator.close()
