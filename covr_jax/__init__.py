"""covr_jax: visual SAC agents and vision-language models that train each other (COVR, arXiv 2601.06122), in JAX.

Rooms, from the ground up (imports run strictly downward, see ``tests/test_imports.py``):

* ``types``     records that every room knows; ``checks``: what public functions refuse; ``lazy``: late imports
* ``covr``      the paper's equations
* ``config``    options of a run and their rules
* ``runtime``   backend settings, CPU kernels, memory, profiling, DLPack, random streams
* ``io``        checkpoints, metrics, run directories; ``report``: what they become for a reader
* ``replay``    experience, each frame stored once
* ``render``    MuJoCo scenes drawn in pure ``jax.numpy``
* ``agents``    networks, losses, methods and the jit-able learner
* ``carla``     driving, in a simulator outside of this process
* ``envs``      vectorised DMControl tasks on MJX, environments on the host; ``envs.interop``: brax, dm_env, gymnasium
* ``vlm``       the vision-language model: prompts, decoding, LoRA fine-tuning, serving
* ``presets``   named starting points
* ``policy``    a trained policy as one file: ``load_policy(path).act(observation)``
* ``training``  the compiled programs of a run, its loop, its queries to the VLM, its COVR rounds: ``run.train``
* ``commands``  what users type: training, evaluation, export, sweeps, tables
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covr_jax.lazy import lazy_names

if TYPE_CHECKING:
    from covr_jax.policy import load_policy

__all__ = ["__version__", "load_policy"]
__getattr__ = lazy_names(__name__, {"policy": ("load_policy",)})
__version__ = "0.2.0"
