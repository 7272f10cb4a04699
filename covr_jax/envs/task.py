"""What one DMControl task adds to its MuJoCo model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mujoco
from mujoco import mjx

from covr_jax.types import Array


@dataclass(frozen=True)
class Task:
    """Functions of one world (no batch axis); ``VecEnv`` vmaps them.

    ``data`` has up-to-date kinematics and body velocities, and contact sensors as of the last physics step. ``init``
    returns (qpos[nq], qvel[nv]); ``observation`` is dm_control's dict flattened in its order, f32[N]; ``reward`` is a
    scalar in [0, 1] per control step.
    """

    name: str
    xml: str  # file in dm_control's suite folder
    control_timestep: float  # seconds
    action_repeat: int  # PlaNet benchmark
    learning_rate: float  # PlaNet benchmark: actor, critic, encoder
    augmentation: str  # RAD's choice for the task
    init: Callable[[Array, mjx.Model], tuple[Array, Array]]
    observation: Callable[[mjx.Model, mjx.Data], Array]
    reward: Callable[[mjx.Model, mjx.Data], Array]
    time_limit: float = 10.0  # seconds; 1000 control steps in every task of the suite's benchmark
    prepare: Callable[[mujoco.MjModel], None] | None = None  # what the suite changes in the model for this task
    goal: Callable[[Array, mjx.Model], Array] | None = None  # key -> f32[G], drawn anew for each episode
    set_goal: Callable[[mjx.Data, Array], mjx.Data] | None = None  # shows the goal in the world
    touch: bool = False  # the observation reads contact sensors
    # Newton and line search steps at most. In float32 MJX never meets the XML's tolerance and burns all of them; None
    # leaves the XML's numbers, a pair must give the same errors against C MuJoCo (tests/envs/test_dmc.py).
    solver_iterations: tuple[int, int] | None = None

    def load_model(self) -> mujoco.MjModel:
        """The suite's own XML as shipped in the installed dm_control, as the task wants it.

        Energy is switched off, which MJX cannot compute, and so are sensors that nothing reads.
        """
        spec = importlib.util.find_spec("dm_control")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("dm_control is not installed; run: pip install -r requirements.txt")
        path = Path(next(iter(spec.submodule_search_locations))) / "suite" / self.xml
        model = mujoco.MjModel.from_xml_path(str(path))
        model.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_ENERGY)
        if not self.touch:
            model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
        if self.prepare:
            self.prepare(model)
        return model
