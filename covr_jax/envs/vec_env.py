"""E copies of one task, stepped and drawn together by pure functions. Letters: E envs, H W image, A action."""

from __future__ import annotations

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from mujoco import mjx

from covr_jax.envs.dmc import ball_in_cup, cartpole, cheetah, finger, hopper, pendulum, reacher, walker
from covr_jax.envs.task import Task
from covr_jax.render import Renderer, make_renderer
from covr_jax.render.distract import Appearance
from covr_jax.render.factory import BatchRenderer
from covr_jax.types import Array, StepType, TimeStep

_TASKS = {
    task.name: task
    for task in (
        cartpole.SWINGUP,
        reacher.EASY,
        cheetah.RUN,
        walker.WALK,
        finger.SPIN,
        ball_in_cup.CATCH,
        hopper.HOP,
        walker.RUN,
        pendulum.SWINGUP,
    )
}
TASKS: tuple[str, ...] = tuple(_TASKS)


def get_task(name: str) -> Task:
    """The task of that name. Raises ValueError, listing the known ones."""
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return _TASKS[name]


class EnvState(flax.struct.PyTreeNode):
    """Everything that the next step depends on; small, so that checkpoints and scans carry no derived data."""

    qpos: Array  # [E,nq]
    qvel: Array  # [E,nv]
    qacc_warmstart: Array  # [E,nv], the constraint solver's starting point
    ctrl: Array  # [E,A], last applied control in actuator units
    goal: Array | None  # [E,G], what some tasks draw for an episode besides the state
    touch: Array | None  # [E,S], the sensors as of the last physics step, where the task reads them
    look: Appearance | None  # [E,...], what the episode looks like, where there are distractors
    step_count: Array  # i32[E], control steps since FIRST
    step_type: Array  # i32[E]
    key: Array  # key[E]
    stack: Array | None  # u8[E,H,W,3*stack], where there are pixels


class VecEnv:
    """A task vectorised over ``num_envs`` lanes; ``reset`` and ``step`` are pure and jit-able.

    A lane that returned LAST starts anew on the next ``step``, whose action for it is ignored (``dm_env`` semantics):
    the true last observation reaches the replay and every frame is drawn once.
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
    ):
        if num_envs < 1 or frame_stack < 1 or (action_repeat is not None and action_repeat < 1):
            raise ValueError("num_envs, frame_stack and action_repeat must be at least 1")
        self.task = task
        self.num_envs = num_envs
        self.pixels = pixels
        self.frame_stack = frame_stack
        self.image_size = image_size
        self.action_repeat = action_repeat or task.action_repeat
        self.mj_model = task.load_model()
        self._model = mjx.put_model(self.mj_model)
        if task.solver_iterations:
            newton, line_search = task.solver_iterations
            self._model = self._model.tree_replace({"opt.iterations": newton, "opt.ls_iterations": line_search})
        self._substeps = round(task.control_timestep / self.mj_model.opt.timestep)
        self._time_limit = round(task.time_limit / task.control_timestep)
        if self._time_limit % self.action_repeat:
            raise ValueError(
                f"an action repeat of {self.action_repeat} does not divide the {self._time_limit} control steps of a"
                f" {task.name} episode"
            )
        drawn = {"samples": samples, "num_envs": num_envs, "distractors": distractors}
        self._renderer = make_renderer(renderer, self.mj_model, image_size, image_size, **drawn) if pixels else None
        self._control_range = jnp.asarray(self.mj_model.actuator_ctrlrange, jnp.result_type(float))

    @property
    def action_dim(self) -> int:
        """A, numbers of an action."""
        return self.mj_model.nu

    @property
    def episode_length(self) -> int:
        """Agent steps of a full episode."""
        return -(-self._time_limit // self.action_repeat)

    def reset(
        self, key: Array, qpos: Array | None = None, qvel: Array | None = None, goal: Array | None = None
    ) -> tuple[EnvState, TimeStep]:
        """Start an episode in every lane, from the task's distribution or from given states.

        Args:
          key: one typed PRNG key, consumed.
          qpos: [E,nq] or None. qvel: [E,nv] or None. goal: [E,G] or None; reacher's target (x, y), m.
        """
        state = self.initial(key, qpos, qvel, goal)
        return self.observe(state, jnp.zeros((self.num_envs,), self._control_range.dtype))

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Apply action f32[E,A] in [-1,1] for ``action_repeat`` control steps; reward is their sum."""
        return self.observe(*self.advance(state, action))

    def initial(
        self, key: Array, qpos: Array | None = None, qvel: Array | None = None, goal: Array | None = None
    ) -> EnvState:
        """The physical half of ``reset``: states at FIRST, not drawn yet."""
        init_key, lane_key = jax.random.split(key)
        fresh_qpos, fresh_qvel, fresh_goal, look = self._fresh(jax.random.split(init_key, self.num_envs))
        qpos = fresh_qpos if qpos is None else jnp.asarray(qpos, fresh_qpos.dtype)
        qvel = fresh_qvel if qvel is None else jnp.asarray(qvel, fresh_qvel.dtype)
        goal = fresh_goal if goal is None or fresh_goal is None else jnp.asarray(goal, fresh_goal.dtype)
        zeros = jnp.zeros((self.num_envs,), jnp.int32)
        return EnvState(
            qpos=qpos,
            qvel=qvel,
            qacc_warmstart=jnp.zeros_like(qvel),
            ctrl=jnp.zeros((self.num_envs, self.action_dim), self._control_range.dtype),
            goal=goal,
            touch=self._touch(qpos, qvel),
            look=look,
            step_count=zeros,
            step_type=zeros + StepType.FIRST,
            key=jax.random.split(lane_key, self.num_envs),
            stack=self._empty_stack(),
        )

    def advance(self, state: EnvState, action: Array) -> tuple[EnvState, Array]:
        """The physical half of ``step``: new states, not drawn yet, and reward [E]."""
        restart = state.step_type == StepType.LAST
        state, reward = self.simulate(state, action)
        # Some tasks simulate for a while, or draw again and again, before an episode: not at every step.
        state = jax.lax.cond(restart.any(), self._restart, lambda state, _: state, state, restart)
        return state, jnp.where(restart, 0.0, reward)

    def simulate(self, state: EnvState, action: Array) -> tuple[EnvState, Array]:
        """``advance`` without new episodes: who wraps single lanes brings resets of his own."""
        low, high = self._control_range[:, 0], self._control_range[:, 1]
        ctrl = low + 0.5 * (jnp.clip(action, -1.0, 1.0).astype(low.dtype) + 1.0) * (high - low)
        (qpos, qvel, warmstart, touch), reward = jax.vmap(self._repeat)(
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

    def _restart(self, state: EnvState, restart: Array) -> EnvState:
        """New episodes in the lanes ``restart`` bool[E]."""
        keys = jax.vmap(partial(jax.random.split, num=2))(state.key)
        qpos, qvel, goal, look = self._fresh(keys[:, 0])
        fresh = state.replace(
            qpos=qpos,
            qvel=qvel,
            qacc_warmstart=jnp.zeros_like(qvel),
            ctrl=jnp.zeros_like(state.ctrl),
            goal=goal,
            touch=self._touch(qpos, qvel),
            look=look,
            step_count=jnp.zeros_like(state.step_count),
            step_type=jnp.full_like(state.step_type, StepType.FIRST),
            key=keys[:, 1],
            stack=None,
        )

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(restart.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(choose, fresh, state.replace(stack=None)).replace(stack=state.stack)

    def observe(self, state: EnvState, reward: Array) -> tuple[EnvState, TimeStep]:
        """Draw the states (or read dm_control's state observation) and complete the time step."""
        data = jax.vmap(self._data)(state.qpos, state.qvel, state.ctrl, state.goal, state.touch)
        if self._renderer is None or state.stack is None:
            observation = jax.vmap(partial(self.task.observation, self._model))(data)
        else:
            frame = self._frame(self._renderer, state, data)
            first = (state.step_type == StepType.FIRST)[:, None, None, None]
            shifted = jnp.concatenate([state.stack[..., 3:], frame], axis=-1)
            observation = jnp.where(first, jnp.tile(frame, self.frame_stack), shifted)
            state = state.replace(stack=observation)
        discount = jnp.ones((self.num_envs,), reward.dtype)  # no task of the suite's benchmark terminates
        return state, TimeStep(state.step_type, reward, discount, observation)

    def _frame(self, renderer: BatchRenderer, state: EnvState, data: mjx.Data) -> Array:
        if state.look is None or not isinstance(renderer, Renderer):
            return renderer.batch(data)
        time = (state.step_count * self.task.control_timestep).astype(jnp.float32)
        return renderer.batch(data, state.look._replace(time=time))

    def _empty_stack(self) -> Array | None:
        if not self.pixels:
            return None
        return jnp.zeros((self.num_envs, self.image_size, self.image_size, 3 * self.frame_stack), jnp.uint8)

    def _fresh(self, keys: Array) -> tuple[Array, Array, Array | None, Appearance | None]:
        """qpos, qvel, goal and look of new episodes; keys key[E]."""

        def draw(key: Array) -> tuple[Array, Array, Array | None, Appearance | None]:
            goal = self.task.goal(jax.random.fold_in(key, 1), self._model) if self.task.goal else None
            renderer = self._renderer
            look = renderer.look(jax.random.fold_in(key, 2)) if isinstance(renderer, Renderer) else None
            return *self.task.init(key, self._model), goal, look

        return jax.vmap(draw)(keys)

    def _touch(self, qpos: Array, qvel: Array) -> Array | None:
        """Sensors of states at rest in which nothing was simulated yet."""
        if not self.task.touch:
            return None

        def read(qpos: Array, qvel: Array) -> Array:
            return mjx.forward(self._model, mjx.make_data(self.mj_model).replace(qpos=qpos, qvel=qvel)).sensordata

        return jax.vmap(read)(qpos, qvel)

    def _data(self, qpos: Array, qvel: Array, ctrl: Array, goal: Array | None, touch: Array | None) -> mjx.Data:
        """One world's data with kinematics, centres of mass, velocities, tendons and cameras as of qpos and qvel."""
        data = mjx.make_data(self.mj_model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl)
        data = mjx.tendon(self._model, self._kinematics(data, goal))  # taut ones are drawn in another colour
        return data if touch is None else data.replace(sensordata=touch)

    def _kinematics(self, data: mjx.Data, goal: Array | None) -> mjx.Data:
        for stage in (mjx.kinematics, mjx.com_pos, mjx.camlight, mjx.com_vel):
            data = stage(self._model, data)
        return self.task.set_goal(data, goal) if self.task.set_goal else data

    def _repeat(
        self, qpos: Array, qvel: Array, warmstart: Array, ctrl: Array, goal: Array | None
    ) -> tuple[tuple[Array, Array, Array, Array | None], Array]:
        """One world, ``action_repeat`` control steps of ``_substeps`` physics steps each."""
        start = mjx.make_data(self.mj_model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl, qacc_warmstart=warmstart)

        def control_step(data: mjx.Data, _: None) -> tuple[mjx.Data, Array]:
            data, _ = jax.lax.scan(lambda d, _: (mjx.step(self._model, d), None), data, None, length=self._substeps)
            data = self._kinematics(data, goal)
            return data, self.task.reward(self._model, data)

        data, rewards = jax.lax.scan(control_step, start, None, length=self.action_repeat)
        touch = data.sensordata if self.task.touch else None
        return (data.qpos, data.qvel, data.qacc_warmstart, touch), rewards.sum()


def make(
    task: str,
    num_envs: int,
    *,
    pixels: bool = True,
    action_repeat: int | None = None,
    image_size: int = 84,
    frame_stack: int = 3,
    samples: int = 4,
    renderer: str = "jax",
    distractors: str = "none",
) -> VecEnv:
    """A vectorised task by name (``TASKS``).

    Args:
      task: for example ``cartpole_swingup``. num_envs: E.
      pixels: u8[E,H,W,3*frame_stack] observations; False: dm_control's state observation, f32[E,N].
      action_repeat: control steps per agent step; None: the task's PlaNet value.
      image_size: H = W of the picture of camera 0, pixels. samples: visibility rays per pixel.
      renderer: one of ``render.RENDERERS``: ``jax``; ``gl``, MuJoCo's OpenGL on the host; ``warp``, mjx.render.
      distractors: a name of ``render.distract.DISTRACTORS``, for example ``color_hard``.

    Raises:
      ValueError: unknown task or an option out of range.
      RendererError: a renderer that cannot be used here.
    """
    return VecEnv(
        get_task(task),
        num_envs,
        pixels=pixels,
        action_repeat=action_repeat,
        image_size=image_size,
        frame_stack=frame_stack,
        samples=samples,
        renderer=renderer,
        distractors=distractors,
    )
