"""The compiled programs of a run: act, step and draw the environments, store, learn, ask for priors, evaluate.

One agent step is a composition of five compiled pieces. On accelerators ``chunk`` compiles K of them, pieces and all,
into one rolled scan over donated state; on CPU, where convolutions inside a rolled loop are an order of magnitude
slower, the same composition is dispatched piece by piece. Letters: E envs, K agent steps, Q queries, A action.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import config as configuration
from covr_jax import replay, runtime
from covr_jax.agents import Augmentation, Learner, LearnerState, make_learner, make_method
from covr_jax.config import Config, ConfigError, value_or
from covr_jax.envs import HostVecEnv, find_task
from covr_jax.envs.stepper import make_envs, make_stepper
from covr_jax.replay import ReplayState, sampling
from covr_jax.runtime import memory
from covr_jax.runtime.rng import ACT, ENTROPY, ENV, INIT, UPDATE, stream
from covr_jax.training import query_selection
from covr_jax.training.evaluation import Evaluator
from covr_jax.training.query_selection import Query
from covr_jax.training.state import Progress, TrainState, advance
from covr_jax.types import Array, EnvironmentLost, Prior, StepType


class Programs:
    """Builds the parts of a run from its config and compiles them.

    Raises:
      ConfigError: options that do not fit together.
    """

    def __init__(self, config: Config):
        self.config = config
        try:
            task = find_task(config.task, **dataclasses.asdict(config.carla))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        env, sac = config.env, config.sac
        agent = configuration.agent(config)
        self.method = make_method(agent, config.augment, env.image_size, task.augmentation)
        self.augmentation = self.method.augmentation
        self.frame_stack = env.frame_stack + self.method.history
        self.env, eval_env = make_envs(config, task, self.frame_stack)
        self.learner: Learner = make_learner(
            self.env.action_dim, value_or(sac.learning_rate, task.learning_rate), self.method, sac
        )
        self.slots = replay.capacity_in_slots(config.replay.capacity, env.num_envs, self.frame_stack)
        # A cycle is the fewest agent steps after which "actor every n updates" repeats.
        rounds = sac.actor_update_every // math.gcd(sac.actor_update_every, sac.updates_per_step)
        self.cycle = rounds * sac.steps_per_update
        every = math.lcm(config.vlm.every, self.cycle)
        self.chunk_steps = every * math.ceil(10 / every)
        self.candidates = self.chunk_steps // config.vlm.every * env.num_envs
        self._check(self.augmentation)
        self._sampler = sampling.make_sampler(config.replay)
        self._keys = {purpose: stream(config.seed, purpose) for purpose in (ACT, UPDATE)}
        self._compile()
        driver = self._env if eval_env is self.env else make_stepper(eval_env, self._placed)
        self.evaluator = Evaluator(config.seed, eval_env, driver, self.learner, self.method, self._placed)

    def _check(self, augmentation: Augmentation) -> None:
        """Refuse sizes that would fail, or silently overwrite, only later."""
        config, size = self.config, self.config.env.image_size
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
        side = jax.eval_shape(augmentation.center, image).shape[1]
        for kernel, stride in zip(config.sac.conv_kernels, config.sac.conv_strides, strict=True):
            side = (side - kernel) // stride + 1
            if side < 1:
                raise ConfigError(
                    f"--sac.conv-kernels {config.sac.conv_kernels} and --sac.conv-strides {config.sac.conv_strides}"
                    f" leave nothing of {size} pixels; use fewer of them or a larger --env.image-size"
                )
        if config.vlm.ask_share < 1 and not self.method.policy.entropy_regularised:
            raise ConfigError(
                f"--vlm.ask-share {config.vlm.ask_share} needs a policy with an entropy of its own;"
                f" {configuration.agent(config)} explores with the same noise everywhere"
            )
        least = self.chunk_steps + self.frame_stack + self.method.horizon
        if self.slots < least:
            raise ConfigError(
                f"--replay.capacity must be at least {least * config.env.num_envs} for these options,"
                f" got {config.replay.capacity}"
            )

    # ------------------------------------------------------------------ pieces

    def _compile(self) -> None:
        self._act = runtime.jit(self._act_piece)
        self._random = runtime.jit(self._random_piece)
        self._env = make_stepper(self.env, self._placed)
        self._add = runtime.jit(replay.add, donate_argnums=0)
        self._set_priorities = runtime.jit(sampling.set_priorities, donate_argnums=0)
        self._mark = runtime.jit(sampling.mark, donate_argnums=0)
        self._progress = runtime.jit(advance)
        self._learn = {
            with_actor: runtime.jit(partial(self._update_piece, with_actor=with_actor), donate_argnums=0)
            for with_actor in (False, True)
        }
        self._last_action = runtime.jit(replay.last_action)
        self._entropy = runtime.jit(self.learner.entropy)
        self._value = runtime.jit(self.learner.value)
        vlm = self.config.vlm
        self._attach = runtime.jit(partial(replay.set_prior, every=vlm.every, hold=vlm.hold), donate_argnums=0)
        self._query = runtime.jit(self._query_piece)
        if runtime.on_cpu() or self.hosted:
            self._run_cycles = self._dispatch_cycles
        else:
            self._run_cycles = runtime.jit(self.rolled, static_argnums=(1, 2), donate_argnums=0)

    def _act_piece(self, learner: LearnerState, observation: Array, vec_steps: Array, previous: Array | None) -> Array:
        return self.learner.act(learner, observation, jax.random.fold_in(self._keys[ACT], vec_steps), previous)

    def _random_piece(self, vec_steps: Array) -> Array:
        shape = (self.env.num_envs, self.env.action_dim)
        return jax.random.uniform(jax.random.fold_in(self._keys[ACT], vec_steps), shape, minval=-1.0, maxval=1.0)

    def _update_piece(
        self, learner: LearnerState, store: ReplayState, *, with_actor: bool
    ) -> tuple[LearnerState, dict[str, Array], tuple[Any, Array]]:
        sample_key, update_key = jax.random.split(jax.random.fold_in(self._keys[UPDATE], learner.updates))
        sac, method = self.config.sac, self.method
        batch = replay.sample(
            store,
            sample_key,
            sac.batch_size,
            self.frame_stack,
            sac.n_step,
            sac.discount,
            previous=method.residual,
            horizon=method.horizon,
            maps=method.map_side > 0,
            sampler=self._sampler,
            updates=learner.updates,
        )
        learner, metrics = self.learner.update(learner, batch, update_key, with_actor=with_actor)
        return learner, metrics, (batch.index, metrics.pop("td_error"))

    def _query_piece(self, learner: LearnerState, store: ReplayState) -> Query:
        vlm = self.config.vlm
        time, env_id = query_selection.candidates(store.count, self.chunk_steps, vlm.every, self.env.num_envs)
        place = jnp.arange(self.candidates)
        if vlm.ask_share < 1:
            observation = replay.observations(store, time, env_id, self.frame_stack)
            previous = replay.previous_actions(store, time, env_id) if self.method.residual else None
            entropy = self.learner.mean_entropy(learner, observation, previous)
            acts = store.step_type[time % store.reward.shape[0], env_id] < StepType.LAST
            place = query_selection.top_k_entropy(
                entropy, acts, query_selection.num_queries(self.candidates, vlm.ask_share)
            )
        return Query(replay.observations(store, time[place], env_id[place], vlm.frames), place)

    # ------------------------------------------------------------- composition

    def _agent_step(
        self, state: TrainState, *, random: bool, actor_pattern: tuple[bool, ...]
    ) -> tuple[TrainState, dict[str, Array]]:
        """Act -> store -> learn -> step and draw; one update per entry of ``actor_pattern``.

        The update needs nothing of the step that follows, so on the host the two run side by side.
        """
        vec_steps = state.progress.vec_steps
        if random:
            action = self._random(vec_steps)
        else:
            previous = self._last_action(state.replay, state.timestep) if self.method.residual else None
            action = self._act(state.learner, state.timestep.observation, vec_steps, previous)
        store = self._add(state.replay, state.timestep, action)
        learner, metrics = state.learner, {}
        for with_actor in actor_pattern:
            learner, latest, seen = self._learn[with_actor](learner, store)
            metrics |= latest
            if self.config.replay.sampling == "prioritised":
                store = self._set_priorities(store, *seen)
        try:
            env, timestep = self._env.step(state.env, action)
        except EnvironmentLost as lost:
            # A resumed run adds this time step once more, before it begins episodes anew.
            unknown = state.timestep._replace(step_type=jnp.zeros_like(state.timestep.step_type))
            lost.state = state.replace(learner=learner, replay=self._env.cut(store, state.timestep, unknown))
            raise
        store = self._env.cut(store, state.timestep, timestep)
        progress = self._progress(state.progress, timestep)
        return TrainState(learner, store, env, timestep, progress), metrics

    def _cycle(self, state: TrainState, learn: bool) -> tuple[TrainState, dict[str, Array]]:
        sac = self.config.sac
        metrics: dict[str, Array] = {}
        for step in range(self.cycle):
            first = step // sac.steps_per_update * sac.updates_per_step
            due = learn and step % sac.steps_per_update == 0
            numbers = range(first, first + sac.updates_per_step) if due else range(0)
            pattern = tuple(number % sac.actor_update_every == 0 for number in numbers)
            state, latest = self._agent_step(state, random=not learn, actor_pattern=pattern)
            metrics |= latest
        return state, metrics

    def rolled(self, state: TrainState, cycles: int, learn: bool) -> tuple[TrainState, dict[str, Array]]:
        """``cycles`` cycles as one scan: the accelerators' chunk (also what is exported for other platforms)."""
        state, metrics = jax.lax.scan(lambda carry, _: self._cycle(carry, learn), state, None, length=cycles)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    def _dispatch_cycles(self, state: TrainState, cycles: int, learn: bool) -> tuple[TrainState, dict[str, Array]]:
        metrics: dict[str, Array] = {}
        for _ in range(cycles):
            state, metrics = self._cycle(state, learn)
        return state, metrics

    # ---------------------------------------------------------------- programs

    @property
    def hosted(self) -> bool:
        """Whether the environments run on the host."""
        return isinstance(self.env, HostVecEnv)

    @property
    def pictures(self) -> str:
        """What draws them: a renderer of this project, or the simulator on the host."""
        return self.env.task.pictures if isinstance(self.env, HostVecEnv) else self.config.renderer

    @property
    def answer_dim(self) -> int:
        """Numbers that the VLM answers per frame: an action's, or a map's for methods that read maps."""
        return self.method.map_side**2 or self.env.action_dim

    @property
    def replay_bytes(self) -> int:
        """What the replay takes, predicted."""
        size = self.config.env.image_size
        return replay.nbytes(self.slots, self.env.num_envs, size, self.env.action_dim, self.answer_dim)

    def init(self, *, begin: bool = True) -> TrainState:
        """A fresh state: networks, empty replay, environments at FIRST.

        Args:
          begin: False for a state to restore a checkpoint into: no world on the host is opened for it.

        Raises:
          ConfigError: the replay does not fit into the free memory.
          EnvironmentLost: a world on the host cannot be opened.
        """
        store = self.config.replay
        memory.check_replay(self.replay_bytes, store.capacity, store.storage)
        env, timestep = (self._env.reset if begin else self._env.abstract_state)(
            self._placed(stream(self.config.seed, ENV))
        )
        observation = timestep.observation[:1]
        action = jnp.zeros((1, self.env.action_dim), jnp.float32)
        # Not compiled as one program: concurrent QR factorisations (orthogonal initialisation) deadlock XLA's CPU
        # thread pool when there are few cores.
        learner = self.learner.init(stream(self.config.seed, INIT), observation, action)
        lanes, sizes = self.env.num_envs, (self.config.env.image_size, self.env.action_dim)
        state = TrainState(
            learner=learner,
            replay=replay.init(self.slots, lanes, *sizes, store.storage, self.answer_dim),
            env=env,
            timestep=timestep,
            progress=Progress(
                vec_steps=jnp.zeros((), jnp.int32),
                transitions=jnp.zeros((), jnp.int32),
                running_return=jnp.zeros((lanes,), jnp.float32),
                last_return=jnp.full((lanes,), jnp.nan, jnp.float32),
            ),
        )
        return self._placed(state)

    def _placed(self, tree: Any) -> Any:
        """With frames in host memory, which pins them, everything pinned: programs tell pinned arrays from others."""
        if self.config.replay.storage == "device":
            return tree
        device = jax.local_devices()[0]
        pin = partial(jax.sharding.SingleDeviceSharding, device)
        return jax.tree.map(lambda x: jax.device_put(x, pin(memory_kind=x.sharding.memory_kind)), tree)

    def chunk(self, state: TrainState, *, learn: bool) -> tuple[TrainState, dict[str, Array]]:
        """``chunk_steps`` agent steps; the state is donated. ``learn=False``: random actions, no updates."""
        return self._run_cycles(state, self.chunk_steps // self.cycle, learn)

    def questions(self, state: TrainState) -> Query:
        """What the VLM is asked about the newest chunk: all of its candidates, or where the policy is least certain."""
        return self._query(state.learner, state.replay)

    def attach(self, state: TrainState, prior: Prior, end: int | None = None) -> TrainState:
        """Store answers with the newest chunk, or the one before slot ``end``.

        ``prior``: action f32[Q,E,answer_dim], valid bool[Q,E].
        """
        # Through the host: arrays that came over DLPack are pinned to their device, the replay would be too, and
        # every piece that reads it would be compiled once more.
        prior = jax.tree.map(np.asarray, prior)
        end = int(state.replay.count) if end is None else end
        return state.replace(replay=self._attach(state.replay, prior, np.asarray(end, np.int32)))

    def scheduled(self, state: TrainState, **values: float) -> TrainState:
        """The state with scalars of the learner set: ``guidance_weight``, ``exploration_noise``."""
        leaves = {name: self._placed(jnp.asarray(value, jnp.float32)) for name, value in values.items()}
        return state.replace(learner=state.learner.replace(**leaves))

    def entropy(self, state: TrainState, time: np.ndarray, env_id: np.ndarray, round_number: int) -> float:
        """H(pi), nats: mean of -log pi(a|s), one sample per stored observation (times i64[N], lanes i64[N])."""
        index = jnp.asarray(time, jnp.int32), jnp.asarray(env_id, jnp.int32)
        observation = replay.observations(state.replay, *index, self.frame_stack)
        previous = replay.previous_actions(state.replay, *index) if self.method.residual else None
        key = jax.random.fold_in(stream(self.config.seed, ENTROPY), round_number)
        return float(self._entropy(state.learner, observation, key, previous).mean())

    def q_values(self, state: TrainState, time: np.ndarray, env_id: np.ndarray, action: np.ndarray) -> np.ndarray:
        """min_i Q_i(o, a), f32[N], of stored observations (times and lanes i64[N]) and actions f32[N,A]."""
        size, values = 256, []
        for start in range(0, len(time), size):
            # The last batch is filled up, so that all have one shape.
            index = np.minimum(np.arange(start, start + size), len(time) - 1)
            place = jnp.asarray(time[index], jnp.int32), jnp.asarray(env_id[index], jnp.int32)
            observation = replay.observations(state.replay, *place, self.frame_stack)
            values.append(np.asarray(self._value(state.learner, observation, jnp.asarray(action[index]))))
        return np.concatenate(values)[: len(time)]

    def mark(self, state: TrainState, time: np.ndarray, env_id: np.ndarray) -> TrainState:
        """Mark stored transitions (times and lanes i64[N]) as elite for the replay's ``elite`` sampling."""
        place = jnp.asarray(time, jnp.int32), jnp.asarray(env_id, jnp.int32)
        return state.replace(replay=self._mark(state.replay, *place))

    def close(self) -> None:
        """Close the worlds on the host."""
        self._env.close()
