"""MuJoCo's own C engine on the host's threads, called from compiled programs. Letters: A action, G goal, S sensors."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.
from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float
from mujoco import mjx
from mujoco.batch import Batch

from covr_jax.envs.physics import Physics, Stepped
from covr_jax.envs.task import Task
from covr_jax.render.tendon import wraps_around_geoms

# What tasks and renderers read of mjx.Data.
_FIELDS = ("xpos", "xmat", "xipos", "cvel", "subtree_com", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat")
_FIELDS += ("cam_xpos", "cam_xmat", "ten_length", "sensordata")
_STATE = ("qpos", "qvel", "qacc_warmstart")
_SMALL_BYTES = 100 * 1024
_MATRICES = tuple(name for name in _FIELDS if name.endswith("mat"))  # C has rows of 9 where MJX has 3 x 3
_POSITION, _VELOCITY, _ACCELERATION = (
    int(stage) for stage in (mujoco.mjtStage.mjSTAGE_POS, mujoco.mjtStage.mjSTAGE_VEL, mujoco.mjtStage.mjSTAGE_ACC)
)


class _Reader:
    """Data that remembers which of its fields were read."""

    def __init__(self, data: mjx.Data):
        self._data = data
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._data, name)


class MuJoCoPhysics(Physics):
    """``Physics`` in float64 on the processors of the host.

    The state between two calls is the float32 that the caller holds, so a call depends on its arguments alone. All
    envs of a call share a thread pool; the numbers do not depend on its size.

    Attributes:
      max_envs: most envs of a call. JAX copies a callback's arrays of more than 100 KiB on the threads that, on one
        core, wait for the callback.
    """

    def __init__(self, task: Task):
        super().__init__(task)
        if wraps_around_geoms(self.mj_model):
            raise ValueError(f"a tendon of {task.name} passes a geom or a pulley, which needs physics mjx")
        # A state that is not finite stays so, as in MJX; by default C MuJoCo would silently start from qpos0.
        self._simulated = copy.copy(self.mj_model)
        self._simulated.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        empty = mujoco.MjData(self.mj_model)
        real = jnp.result_type(float)
        self._fields: dict[str, tuple[tuple[int, ...], Any]] = {
            name: (getattr(empty, name).shape, real) for name in (*_STATE, *_FIELDS)
        }
        self._fields |= {name: ((*self._fields[name][0][:-1], 3, 3), real) for name in _MATRICES}
        self._fields["ncon"] = ((), jnp.int32)
        self.max_envs = _SMALL_BYTES // (4 * max(self.mj_model.nq, self.mj_model.nv, self.mj_model.nu))
        self._batches: dict[int, Batch] = {}
        self._lock = threading.Lock()  # a Batch serves one thread at a time
        self._default_state = self._batch(1).state.copy()
        self._rewarding = self._fields_of_the_reward()

    def control_steps(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"],
        qacc_warmstart: Float[Array, " nv"],
        ctrl: Float[Array, " A"],
        goal: Float[Array, " G"] | None,
        count: int,
    ) -> Stepped:
        """As ``Physics.control_steps``."""
        given = {"qpos": qpos, "qvel": qvel, "qacc_warmstart": qacc_warmstart, "ctrl": ctrl}
        step = partial(Batch.step, nstep=self.substeps, stage=_VELOCITY)
        steps = self._call(step, given, (*_STATE, *self._rewarding), count)
        reward = jax.vmap(lambda fields: self.task.reward(self.model, self._data(fields | {"ctrl": ctrl}, goal)))(steps)
        last = jax.tree.map(lambda x: x[-1], steps)
        touch = last["sensordata"] if self.task.touch else None
        return (last["qpos"], last["qvel"], last["qacc_warmstart"], touch), reward.sum()

    def data(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"],
        ctrl: Float[Array, " A"],
        goal: Float[Array, " G"] | None,
        touch: Float[Array, " S"] | None,
        fields: dict[str, Array] | None = None,
    ) -> mjx.Data:
        """As ``Physics.data``."""
        given = {"qpos": qpos, "qvel": qvel, "ctrl": ctrl}
        fields = self.host_fields(qpos, qvel, ctrl) if fields is None else fields
        return self._data(fields | given | ({} if touch is None else {"sensordata": touch}), goal)

    def host_fields(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"], ctrl: Float[Array, " A"]
    ) -> dict[str, Array]:
        """As ``Physics.host_fields``."""
        return self._forward({"qpos": qpos, "qvel": qvel, "ctrl": ctrl}, _FIELDS, _VELOCITY)

    def initial_touch(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> Float[Array, " S"] | None:
        """As ``Physics.initial_touch``."""
        if not self.task.touch:
            return None
        return self._forward({"qpos": qpos, "qvel": qvel}, ("sensordata",), _ACCELERATION)["sensordata"]

    def touches(self, qpos: Float[Array, " nq"]) -> Bool[Array, ""]:
        """As ``Physics.touches``."""
        return self._forward({"qpos": qpos}, ("ncon",), _POSITION)["ncon"] > 0

    def settle(self, move: Float[Array, " nq"], steps: int) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        """As ``Physics.settle``."""
        first = self._call(Batch.step, {"qpos": jnp.asarray(self.mj_model.qpos0, move.dtype)}, _STATE, 1)
        moved = {name: value[0] for name, value in first.items()}
        moved["qpos"] += move
        last = self._call(partial(Batch.step, nstep=steps - 1), moved, _STATE, 1)
        return last["qpos"][0], last["qvel"][0]

    def _fields_of_the_reward(self) -> tuple[str, ...]:
        """What a control step must return: handing all fields over costs more than some tasks' physics."""
        task, reader = self.task, _Reader(mjx.make_data(self.mj_model))
        jax.eval_shape(lambda: task.reward(self.model, cast(mjx.Data, reader)))
        if (draw := task.goal) is not None and task.set_goal is not None:
            goal = jax.eval_shape(lambda key: draw(key, self.model), jax.random.key(0))
            jax.eval_shape(partial(task.set_goal, cast(mjx.Data, reader)), goal)
        return tuple(name for name in _FIELDS if name in reader.read or (task.touch and name == "sensordata"))

    def _data(self, fields: dict[str, Array], goal: Float[Array, " G"] | None) -> mjx.Data:
        return self._with_goal(mjx.make_data(self.mj_model).replace(**fields), goal)

    def _forward(self, given: dict[str, Array], names: tuple[str, ...], stage: int) -> dict[str, Array]:
        """Fields of a state from which nothing is simulated."""
        fields = self._call(partial(Batch.forward, stage=stage), given, names, 1)
        return {name: value[0] for name, value in fields.items()}

    def _call(
        self, advance: Callable[[Batch], None], given: dict[str, Array], names: tuple[str, ...], count: int
    ) -> dict[str, Array]:
        """Calls ``advance`` on the host ``count`` times, from a state; under ``vmap`` once for all envs.

        Args:
          advance: moves a batch.
          given: fields of the state; the others are MuJoCo's defaults.
          names: fields to return.
          count: number of calls.

        Returns:
          The named fields after each call, with a leading axis ``count``.
        """
        kinds = {name: jax.ShapeDtypeStruct((count, *self._fields[name][0]), self._fields[name][1]) for name in names}
        host = partial(self._on_host, advance, kinds)
        return jax.pure_callback(host, kinds, given, vmap_method="broadcast_all")

    def _on_host(
        self, advance: Callable[[Batch], None], kinds: dict[str, jax.ShapeDtypeStruct], given: dict[str, Array]
    ) -> dict[str, np.ndarray]:
        """``_call`` of envs with any leading axes."""
        values = {name: np.asarray(value) for name, value in given.items()}
        axes = values["qpos"].shape[:-1]
        results = {name: np.empty((*axes, *kind.shape), kind.dtype) for name, kind in kinds.items()}
        num_envs = math.prod(axes)
        rows = {name: value.reshape(num_envs, *kinds[name].shape) for name, value in results.items()}
        with self._lock:
            batch = self._batch(num_envs)
            batch.state[:] = self._default_state
            for name, value in values.items():
                batch.bind(name)[:] = value.reshape(num_envs, -1)
            for step in range(next(iter(kinds.values())).shape[0]):
                advance(batch)
                for name, value in rows.items():
                    value[:, step] = batch.bind(name).reshape(num_envs, *kinds[name].shape[1:])
        return results

    def _batch(self, num_envs: int) -> Batch:
        if num_envs not in self._batches:
            threads = min(len(os.sched_getaffinity(0)), num_envs)
            batch = Batch(self._simulated, num_envs, nthread=threads, persistent=True)
            for name in _FIELDS:
                batch.bind(name)  # copied out after every call from now on
            self._batches[num_envs] = batch
        return self._batches[num_envs]
