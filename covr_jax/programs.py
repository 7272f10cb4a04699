"""The compiled programs of a run: act, step and draw the environments, store, learn, ask for priors, evaluate.

One agent step is a composition of five compiled pieces. On accelerators ``chunk`` compiles K of them, pieces and all,
into one rolled scan over donated state; on CPU, where convolutions inside a rolled loop are an order of magnitude
slower, the same composition is dispatched piece by piece. Letters: E envs, K agent steps, Q queries, A action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import memory, replay, runtime
from covr_jax.agents import Augmentation, Learner, LearnerState, make_augmentation, make_learner
from covr_jax.config import WITH_VLM, Config, ConfigError
from covr_jax.envs import EnvState, VecEnv, get_task
from covr_jax.render import RendererError
from covr_jax.replay import ReplayState
from covr_jax.train_state import Progress, TrainState, advance
from covr_jax.types import Array, Prior, TimeStep

# Purpose streams: a key is fold_in(fold_in(key(seed), stream), counter), so a new consumer never shifts another's.
INIT, ENV, ACT, UPDATE, EVAL, ENTROPY = range(6)


def stream(seed: int, purpose: int) -> Array:
    """The root key of a purpose; fold a counter in before use."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


class CompiledEnv:
    """``reset`` and ``step`` of a VecEnv in three compiled pieces, so that drawing is compiled once for both."""

    def __init__(self, env: VecEnv, place: Callable[[Any], Any] = lambda x: x):
        self._initial = runtime.jit(env.initial)
        self._advance = runtime.jit(env.advance, donate_argnums=0)
        self._observe = runtime.jit(env.observe, donate_argnums=0)
        self._no_reward = place(jnp.zeros((env.num_envs,), jnp.float32))

    def reset(self, key: Array) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.reset``."""
        return self._observe(self._initial(key), self._no_reward)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.step``; the state is donated."""
        return self._observe(*self._advance(state, action))


class Programs:
    """Builds the parts of a run from its config and compiles them.

    Raises:
      ConfigError: options that do not fit together.
    """

    def __init__(self, config: Config):
        self.config = config
        try:
            task = get_task(config.task)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        env, sac = config.env, config.sac
        make = partial(
            VecEnv,
            task,
            action_repeat=env.action_repeat,
            image_size=env.image_size,
            frame_stack=env.frame_stack,
            samples=env.samples,
            renderer=config.renderer,
        )
        lanes, distractors = max(env.num_envs, config.eval.episodes), config.eval.distractors or env.distractors
        same = (lanes, distractors) == (env.num_envs, env.distractors)
        try:
            self.env = make(env.num_envs, distractors=env.distractors)
            self.eval_env = self.env if same else make(lanes, distractors=distractors)
        except RendererError as error:
            raise ConfigError(str(error)) from error
        base = config.base if config.method in WITH_VLM else config.method
        self.augmentation = make_augmentation(base, config.augment, env.image_size, task.augmentation)
        self.learner: Learner = make_learner(
            self.env.action_dim, sac.learning_rate or task.learning_rate, self.augmentation, sac
        )
        self.slots = replay.capacity_in_slots(config.replay.capacity, env.num_envs, env.frame_stack)
        # A cycle is the fewest agent steps after which "actor every n updates" repeats.
        self.cycle = sac.actor_update_every // math.gcd(sac.actor_update_every, sac.updates_per_step)
        every = math.lcm(config.vlm.every, self.cycle)
        self.chunk_steps = every * math.ceil(10 / every)
        self._check(self.augmentation)
        self._keys = {purpose: stream(config.seed, purpose) for purpose in (ACT, UPDATE)}
        self._compile()

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
        least = self.chunk_steps + config.env.frame_stack
        if self.slots < least:
            raise ConfigError(
                f"--replay.capacity must be at least {least * config.env.num_envs} for these options,"
                f" got {config.replay.capacity}"
            )

    # ------------------------------------------------------------------ pieces

    def _compile(self) -> None:
        self._act = runtime.jit(self._act_piece)
        self._random = runtime.jit(self._random_piece)
        self._env = CompiledEnv(self.env, self._placed)
        self._eval = self._env if self.eval_env is self.env else CompiledEnv(self.eval_env, self._placed)
        self._add = runtime.jit(replay.add, donate_argnums=0)
        self._progress = runtime.jit(advance)
        self._learn = {
            with_actor: runtime.jit(partial(self._update_piece, with_actor=with_actor), donate_argnums=0)
            for with_actor in (False, True)
        }
        self._mean_action = runtime.jit(lambda learner, observation: self.learner.act(learner, observation))
        self._entropy = runtime.jit(self.learner.entropy)
        vlm = self.config.vlm
        self._attach = runtime.jit(
            partial(replay.attach_prior, every=vlm.every, hold=vlm.hold), donate_argnums=0
        )
        self._query = runtime.jit(self._query_piece)
        if runtime.on_cpu():
            self._run_cycles = self._dispatch_cycles
        else:
            self._run_cycles = runtime.jit(self.rolled, static_argnums=(1, 2), donate_argnums=0)

    def _act_piece(self, learner: LearnerState, observation: Array, vec_steps: Array) -> Array:
        return self.learner.act(learner, observation, jax.random.fold_in(self._keys[ACT], vec_steps))

    def _random_piece(self, vec_steps: Array) -> Array:
        shape = (self.env.num_envs, self.env.action_dim)
        return jax.random.uniform(jax.random.fold_in(self._keys[ACT], vec_steps), shape, minval=-1.0, maxval=1.0)

    def _update_piece(
        self, learner: LearnerState, store: ReplayState, *, with_actor: bool
    ) -> tuple[LearnerState, dict[str, Array]]:
        sample_key, update_key = jax.random.split(jax.random.fold_in(self._keys[UPDATE], learner.updates))
        sac, stack = self.config.sac, self.config.env.frame_stack
        batch = replay.sample(store, sample_key, sac.batch_size, stack, sac.n_step, sac.discount)
        return self.learner.update(learner, batch, update_key, with_actor=with_actor)

    def _query_piece(self, store: ReplayState) -> Array:
        every = self.config.vlm.every
        offsets = jnp.arange(self.chunk_steps // every) * every
        asked = (store.count - self.chunk_steps + offsets)[:, None], jnp.arange(self.env.num_envs)[None]
        return replay.frames(store, *jnp.broadcast_arrays(*asked))

    # ------------------------------------------------------------- composition

    def _agent_step(
        self, state: TrainState, *, random: bool, actor_pattern: tuple[bool, ...]
    ) -> tuple[TrainState, dict[str, Array]]:
        """act -> store -> step and draw -> learn; one update per entry of ``actor_pattern``."""
        vec_steps = state.progress.vec_steps
        action = self._random(vec_steps) if random else self._act(state.learner, state.timestep.observation, vec_steps)
        store = self._add(state.replay, state.timestep, action)
        env, timestep = self._env.step(state.env, action)
        learner, metrics = state.learner, {}
        for with_actor in actor_pattern:
            learner, latest = self._learn[with_actor](learner, store)
            metrics |= latest
        progress = self._progress(state.progress, timestep)
        return TrainState(learner, store, env, timestep, progress), metrics

    def _cycle(self, state: TrainState, learn: bool) -> tuple[TrainState, dict[str, Array]]:
        sac = self.config.sac
        metrics: dict[str, Array] = {}
        for step in range(self.cycle):
            first = step * sac.updates_per_step
            numbers = range(first, first + sac.updates_per_step) if learn else range(0)
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
    def replay_bytes(self) -> int:
        """What the replay takes, predicted."""
        return replay.nbytes(self.slots, self.env.num_envs, self.config.env.image_size, self.env.action_dim)

    def init(self) -> TrainState:
        """A fresh state: networks, empty replay, environments at FIRST.

        Raises:
          ConfigError: the replay does not fit into the free memory.
        """
        store = self.config.replay
        memory.check_replay(self.replay_bytes, store.capacity, store.storage)
        env, timestep = self._env.reset(self._placed(stream(self.config.seed, ENV)))
        observation = timestep.observation[:1]
        action = jnp.zeros((1, self.env.action_dim), jnp.float32)
        # Not compiled as one program: concurrent QR factorisations (orthogonal initialisation) deadlock XLA's CPU
        # thread pool when there are few cores.
        learner = self.learner.init(stream(self.config.seed, INIT), observation, action)
        lanes = self.env.num_envs
        state = TrainState(
            learner=learner,
            replay=replay.init(self.slots, lanes, self.config.env.image_size, self.env.action_dim, store.storage),
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

    def query_frames(self, state: TrainState) -> Array:
        """Frames of the newest chunk that the VLM is asked about, u8[Q,E,H,W,3]."""
        return self._query(state.replay)

    def attach(self, state: TrainState, prior: Prior, end: int | None = None) -> TrainState:
        """Store answers (action f32[Q,E,A], valid bool[Q,E]) with the newest chunk, or the one before slot ``end``."""
        # Through the host: arrays that came over DLPack are pinned to their device, the replay would be too, and
        # every piece that reads it would be compiled once more.
        prior = jax.tree.map(np.asarray, prior)
        end = int(state.replay.count) if end is None else end
        return state.replace(replay=self._attach(state.replay, prior, np.asarray(end, np.int32)))

    def entropy(self, state: TrainState, time: np.ndarray, lane: np.ndarray, round_number: int) -> float:
        """H(pi), nats: mean of -log pi(a|s), one sample per stored observation (times i64[N], lanes i64[N])."""
        observation = replay.observations(
            state.replay, jnp.asarray(time, jnp.int32), jnp.asarray(lane, jnp.int32), self.config.env.frame_stack
        )
        key = jax.random.fold_in(stream(self.config.seed, ENTROPY), round_number)
        return float(self._entropy(state.learner, observation, key).mean())

    def evaluate(self, policy: Callable[[TimeStep, int], Any], episodes: int, number: int) -> np.ndarray:
        """Returns f64[episodes] of a policy (time step, agent step) -> action f32[E,A] on fresh environments.

        Args:
          number: which evaluation this is; equal numbers start from equal states.
        """
        total = np.zeros(self.eval_env.num_envs)
        for _, timestep in self.episode(policy, number):
            total += np.asarray(timestep.reward, np.float64)
        return total[:episodes]

    def episode(
        self, policy: Callable[[TimeStep, int], Any], number: int
    ) -> Iterator[tuple[EnvState, TimeStep]]:
        """One episode in every evaluation lane, step by step from FIRST to LAST. A state is gone at the next step."""
        state, timestep = self._eval.reset(self._placed(jax.random.fold_in(stream(self.config.seed, EVAL), number)))
        yield state, timestep
        for step in range(self.eval_env.episode_length):
            state, timestep = self._eval.step(state, self._placed(jnp.asarray(policy(timestep, step))))
            yield state, timestep

    def learned_policy(self, learner: LearnerState) -> Callable[[TimeStep, int], Array]:
        """The mean action of the actor; the VLM has no part in it."""
        return lambda timestep, _: self._mean_action(learner, timestep.observation)

    def random_policy(self, number: int) -> Callable[[TimeStep, int], np.ndarray]:
        """Uniform actions."""
        generator = np.random.default_rng([self.config.seed, number])
        shape = (self.eval_env.num_envs, self.eval_env.action_dim)
        return lambda timestep, _: generator.uniform(-1.0, 1.0, shape).astype(np.float32)
