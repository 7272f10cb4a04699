"""E copies of one task, stepped and rendered together by pure functions. Letters: E envs, H W image, A action."""

from __future__ import annotations

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt8
from mujoco import mjx

from covr_jax import runtime
from covr_jax.checks import check_actions
from covr_jax.envs.engines import make_physics
from covr_jax.envs.mujoco_physics import MuJoCoPhysics
from covr_jax.envs.starts import given_or_drawn, touch_at_start
from covr_jax.envs.task import Task
from covr_jax.envs.warp_physics import WarpPhysics
from covr_jax.render import BatchRenderer, Renderer, make_renderer
from covr_jax.render.distract import Appearance
from covr_jax.types import StepType, TimeStep


def is_bad(values: Float[Array, "E n"]) -> Bool[Array, " E"]:
    """Whether an env has a number that MuJoCo takes for a failed simulation: not finite, or above mjMAXVAL."""
    return ~(jnp.abs(values) <= mujoco.mjMAXVAL).all(1)


class EnvState(flax.struct.PyTreeNode):
    """Everything that the next step depends on; small, so that checkpoints and scans carry no derived data."""

    qpos: Float[Array, "E nq"]
    qvel: Float[Array, "E nv"]
    qacc_warmstart: Float[Array, "E nv"]  # the constraint solver's starting point
    ctrl: Float[Array, "E A"]  # last applied control in actuator units
    goal: Float[Array, "E G"] | None  # what some tasks draw for an episode besides qpos and qvel
    touch: Float[Array, "E S"] | None  # sensors as of the last physics step, where the task reads them
    look: Appearance | None  # [E,...], the appearance of the episode, where there are distractors
    step_count: Int[Array, " E"]  # control steps since FIRST
    step_type: Int[Array, " E"]
    key: Key[Array, " E"]
    stack: UInt8[Array, "E H W C"] | None  # C = 3 * frame_stack, newest frame last; None without pixels


class VecEnv:
    """A task vectorised over ``num_envs`` envs; ``reset`` and ``step`` are pure and jit-able.

    An env that returned LAST starts a new episode on the next ``step``, whose action for it is ignored (``dm_env``
    semantics): the true last observation reaches the replay, and every frame is rendered once. An env whose state or
    reward leaves the numbers of MuJoCo starts a new episode at once: a FIRST that follows no LAST, and the other envs
    do not notice.

    Args:
      task: the task.
      num_envs: E.
      pixels: whether observations are images u8[E,H,W,3*frame_stack]; False: dm_control's state observation f32[E,N].
      action_repeat: control steps per agent step; None: the task's PlaNet value.
      image_size: H = W of the images of camera 0, pixels.
      frame_stack: number of frames in an observation.
      samples: visibility samples per pixel.
      renderer: one of ``render.RENDERERS``: ``jax``; ``gl``, MuJoCo's OpenGL on the host; ``warp``, mjx.render.
      distractors: a name of ``render.distract.DISTRACTORS``, for example ``color_hard``.
      physics: one of ``PHYSICS``: ``mjx``; ``warp``, the same on NVIDIA Warp; ``mujoco``, the C engine on the threads
        of the host; ``auto``, as ``default_physics`` says.

    Raises:
      ValueError: on construction, for an option out of range.
      RuntimeError: on construction, in a process that was forked after JAX had started.
      RendererError: on construction, for a renderer that cannot be used here.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        *,
        pixels: bool = True,
        action_repeat: int | None = None,
        image_size: int = 84,
        frame_stack: int = 3,
        samples: int = 4,
        renderer: str = "jax",
        distractors: str = "none",
        physics: str = "auto",
    ):
        runtime.refuse_forked()
        if num_envs < 1 or frame_stack < 1 or (action_repeat is not None and action_repeat < 1):
            raise ValueError("num_envs, frame_stack and action_repeat must be at least 1")
        self.task = task
        self.num_envs = num_envs
        self.pixels = pixels
        self.frame_stack = frame_stack
        self.image_size = image_size
        self.action_repeat = action_repeat or task.action_repeat
        self.physics = make_physics(task, physics, num_envs)
        if isinstance(self.physics, MuJoCoPhysics) and num_envs > self.physics.max_envs:
            most = self.physics.max_envs
            raise ValueError(f"physics mujoco steps up to {most} {task.name} envs, got {num_envs}; use physics mjx")
        self.mj_model = self.physics.mj_model
        self._time_limit = round(task.time_limit / task.control_timestep)
        if self._time_limit % self.action_repeat:
            raise ValueError(
                f"an action repeat of {self.action_repeat} does not divide the {self._time_limit} control steps of a"
                f" {task.name} episode"
            )
        options = {"samples": samples, "num_envs": num_envs, "distractors": distractors}
        self._renderer = make_renderer(renderer, self.mj_model, image_size, image_size, **options) if pixels else None

    @property
    def action_dim(self) -> int:
        """A, numbers of an action."""
        return self.mj_model.nu

    @property
    def episode_length(self) -> int:
        """Agent steps of a full episode."""
        return -(-self._time_limit // self.action_repeat)

    def reset(
        self,
        key: PRNGKeyArray,
        qpos: Float[Array | np.ndarray, "E nq"] | None = None,
        qvel: Float[Array | np.ndarray, "E nv"] | None = None,
        goal: Float[Array | np.ndarray, "E G"] | None = None,
    ) -> tuple[EnvState, TimeStep]:
        """Starts an episode in every env, from the task's distribution or from given states.

        Args:
          key: one typed PRNG key, consumed.
          qpos: joint positions, or None to draw them.
          qvel: joint velocities, or None to draw them.
          goal: goals, or None to draw them; reacher's is the target (x, y), m.

        Returns:
          The state and the FIRST time step.

        Raises:
          ValueError: given states of another shape, or a goal for a task without one.
        """
        state = self.initial(key, qpos, qvel, goal)
        return self.observe(state, jnp.zeros((self.num_envs,), self.physics.control_range.dtype))

    def step(self, state: EnvState, action: Float[Array | np.ndarray, "E A"]) -> tuple[EnvState, TimeStep]:
        """Applies actions in [-1, 1] for ``action_repeat`` control steps; the reward is the sum over these.

        Args:
          state: as ``reset`` or ``step`` returned it.
          action: clipped to [-1, 1]; ignored where the last time step was LAST.

        Returns:
          The new state and its time step.

        Raises:
          ValueError: actions of another shape, which is known while tracing. Their numbers are not looked at.
        """
        return self.observe(*self.advance(state, action))

    def initial(
        self,
        key: PRNGKeyArray,
        qpos: Float[Array | np.ndarray, "E nq"] | None = None,
        qvel: Float[Array | np.ndarray, "E nv"] | None = None,
        goal: Float[Array | np.ndarray, "E G"] | None = None,
    ) -> EnvState:
        """The physical half of ``reset``: returns states at FIRST that are not rendered yet."""
        init_key, env_key = jax.random.split(key)
        drawn_qpos, drawn_qvel, drawn_goal, look = self.draw_starts(jax.random.split(init_key, self.num_envs))
        start = partial(given_or_drawn, self.task.name)
        positions, velocities = start("qpos", qpos, drawn_qpos), start("qvel", qvel, drawn_qvel)
        zeros = jnp.zeros((self.num_envs,), jnp.int32)
        return EnvState(
            qpos=positions,
            qvel=velocities,
            qacc_warmstart=jnp.zeros_like(velocities),
            ctrl=jnp.zeros((self.num_envs, self.action_dim), self.physics.control_range.dtype),
            goal=start("goal", goal, drawn_goal),
            touch=touch_at_start(self.physics, positions, velocities, drawn=qpos is None),
            look=look,
            step_count=zeros,
            step_type=zeros + StepType.FIRST,
            key=jax.random.split(env_key, self.num_envs),
            stack=self._empty_stack(),
        )

    def advance(self, state: EnvState, action: Float[Array | np.ndarray, "E A"]) -> tuple[EnvState, Float[Array, " E"]]:
        """The physical half of ``step``: returns new states that are not rendered yet, and rewards."""
        over = state.step_type == StepType.LAST
        state, reward = self.simulate(state, action)
        restart = over | is_bad(state.qpos) | is_bad(state.qvel) | is_bad(reward[:, None])
        # Some tasks simulate for a while, or draw until nothing touches, before an episode: not at every step.
        state = jax.lax.cond(restart.any(), self._restart, lambda state, _: state, state, restart)
        return state, jnp.where(restart, 0.0, reward)

    def simulate(
        self, state: EnvState, action: Float[Array | np.ndarray, "E A"]
    ) -> tuple[EnvState, Float[Array, " E"]]:
        """``advance`` without new episodes, for wrappers of single envs that have resets of their own."""
        check_actions(action, (self.num_envs, self.action_dim))
        ctrl = self.physics.scale_action(action)
        simulate = jax.vmap(partial(self.physics.control_steps, count=self.action_repeat))
        (qpos, qvel, warmstart, touch), reward = simulate(
            state.qpos, state.qvel, state.qacc_warmstart, ctrl, state.goal
        )
        count = state.step_count + self.action_repeat
        step_type = jnp.where(count >= self._time_limit, StepType.LAST, StepType.MID).astype(jnp.int32)
        state = state.replace(
            qpos=qpos,
            qvel=qvel,
            qacc_warmstart=warmstart,
            ctrl=ctrl,
            touch=touch,
            step_count=count,
            step_type=step_type,
        )
        return state, reward

    def host_fields(self, state: EnvState) -> dict[str, Array] | None:
        """What ``observe`` computes on the host, [E,...], for callers that compile the two apart; None: nothing."""
        return jax.vmap(self.physics.host_fields)(state.qpos, state.qvel, state.ctrl)

    def observe(
        self, state: EnvState, reward: Float[Array, " E"], fields: dict[str, Array] | None = None
    ) -> tuple[EnvState, TimeStep]:
        """Renders the states (or reads dm_control's state observation) and completes the time step.

        Args:
          state: as ``initial`` or ``advance`` returned it.
          reward: of the step.
          fields: as ``host_fields`` returns them for the state; None: they are computed here.
        """
        data = jax.vmap(self.physics.data)(state.qpos, state.qvel, state.ctrl, state.goal, state.touch, fields)
        if self._renderer is None or state.stack is None:
            observation = jax.vmap(partial(self.task.observation, self.physics.model))(data)
        else:
            frame = self._render(self._renderer, state, data)
            observation = self._push_frame(state.stack, frame, state.step_type == StepType.FIRST)
            state = state.replace(stack=observation)
        discount = jnp.ones((self.num_envs,), reward.dtype)  # no task of the suite's benchmark terminates
        return state, TimeStep(state.step_type, reward, discount, observation)

    def draw_starts(
        self, keys: Key[Array, " K"]
    ) -> tuple[Float[Array, "K nq"], Float[Array, "K nv"], Float[Array, "K G"] | None, Appearance | None]:
        """Draws qpos, qvel, goal and appearance of new episodes, one per key; with physics warp, up to E."""
        if isinstance(self.physics, WarpPhysics) and len(keys) > self.num_envs:  # whose contacts would be lost
            raise ValueError(f"physics warp draws up to {self.num_envs} starts at once here, got {len(keys)}")

        def draw(key: Array) -> tuple[Array, Array, Array | None, Appearance | None]:
            renderer = self._renderer
            look = renderer.sample_appearance(jax.random.fold_in(key, 2)) if isinstance(renderer, Renderer) else None
            return *self.physics.draw_start(key), look

        return jax.vmap(draw)(keys)

    def _restart(self, state: EnvState, restart: Bool[Array, " E"]) -> EnvState:
        """Starts new episodes where ``restart`` is True."""
        keys = jax.vmap(partial(jax.random.split, num=2))(state.key)
        qpos, qvel, goal, look = self.draw_starts(keys[:, 0])
        new = state.replace(
            qpos=qpos,
            qvel=qvel,
            qacc_warmstart=jnp.zeros_like(qvel),
            ctrl=jnp.zeros_like(state.ctrl),
            goal=goal,
            touch=touch_at_start(self.physics, qpos, qvel, drawn=True),
            look=look,
            step_count=jnp.zeros_like(state.step_count),
            step_type=jnp.full_like(state.step_type, StepType.FIRST),
            key=keys[:, 1],
            stack=None,
        )

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(restart.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, new, state.replace(stack=None)).replace(stack=state.stack)

    def _render(self, renderer: BatchRenderer, state: EnvState, data: mjx.Data) -> UInt8[Array, "E H W 3"]:
        if state.look is None or not isinstance(renderer, Renderer):
            return renderer.batch(data)
        time = (state.step_count * self.task.control_timestep).astype(jnp.float32)
        return renderer.batch(data, state.look._replace(time=time))

    def _push_frame(
        self, stack: UInt8[Array, "E H W C"], frame: UInt8[Array, "E H W 3"], first: Bool[Array, " E"]
    ) -> UInt8[Array, "E H W C"]:
        """Appends the newest frame to the stacks; at FIRST it is repeated over the whole stack."""
        shifted = jnp.concatenate([stack[..., 3:], frame], axis=-1)
        return jnp.where(first[:, None, None, None], jnp.tile(frame, self.frame_stack), shifted)

    def _empty_stack(self) -> UInt8[Array, "E H W C"] | None:
        if not self.pixels:
            return None
        return jnp.zeros((self.num_envs, self.image_size, self.image_size, 3 * self.frame_stack), jnp.uint8)
