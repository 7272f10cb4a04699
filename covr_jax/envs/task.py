"""What one DMControl task adds to its MuJoCo model. Letters: N numbers of an observation, G of a goal."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.
from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

if TYPE_CHECKING:
    from covr_jax.envs.physics import Physics


@dataclass(frozen=True)
class Task:
    """A task's constants and its functions of one env (no batch axis); ``VecEnv`` vmaps them.

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
    init: Callable[[PRNGKeyArray, Physics], tuple[Float[Array, " nq"], Float[Array, " nv"]]]
    observation: Callable[[mjx.Model, mjx.Data], Float[Array, " N"]]
    reward: Callable[[mjx.Model, mjx.Data], Float[Array, ""]]
    time_limit: float = 10.0  # seconds; 1000 control steps in every task of the suite's benchmark
    guidance_weight: float = 1.0  # lambda of Eq. 4 [COVR]
    cold_start_rounds: int = 4  # rounds before the guidance starts [COVR]
    lora_alpha: int = 16  # scale of the VLM's adapter is alpha / rank [COVR]
    prepare: Callable[[mujoco.MjModel], None] | None = None  # what the suite changes in the model for this task
    goal: Callable[[PRNGKeyArray, mjx.Model], Float[Array, " G"]] | None = None  # drawn anew for each episode
    set_goal: Callable[[mjx.Data, Float[Array, " G"]], mjx.Data] | None = None  # moves the goal's geom
    touch: bool = False  # whether the observation reads contact sensors
    clear_starts: bool = False  # whether nothing touches in the starts that ``init`` draws: these sensors read 0
    # Most Newton and line search steps of MJX, which in float32 never meets the XML's tolerance and takes all of them.
    # None keeps the XML's numbers; a pair must give the same errors against C MuJoCo (tests/envs/test_dmc.py).
    solver_iterations: tuple[int, int] | None = None

    def load_model(self) -> mujoco.MjModel:
        """Loads the suite's own XML from the installed dm_control and applies ``prepare``.

        Energy, which MJX cannot compute, and sensors that nothing reads are switched off.

        Raises:
          ModuleNotFoundError: dm_control is not installed.
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
