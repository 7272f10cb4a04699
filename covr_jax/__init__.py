"""covr_jax: visual SAC agents and vision-language models that teach each other (COVR, arXiv 2601.06122), in JAX.

Rooms, from the ground up (imports run strictly downward, see ``tests/test_imports.py``):

* ``types``, ``config``            records and options
* ``covr``                         the paper's equations, arrays in and arrays out
* ``replay``, ``memory``           experience, each frame once; whether it fits
* ``augment``                      image augmentations
* ``render``                       MuJoCo scenes drawn in pure ``jax.numpy``
* ``agents``                       networks, losses and the jit-able learner
* ``envs``                         vectorised DMControl tasks on MJX; ``envs.interop`` for brax, dm_env, gymnasium
* ``carla``                        driving, in a simulator outside of this process
* ``bridge``, ``vlm``              JAX <-> Torch, the Qwen2.5-VL LoRA service
* ``checkpoint``, ``metrics``, ``profiling``, ``report``, ``runtime``
* ``train_state``, ``programs``    what a run carries on the device; the compiled pieces of a run
* ``streams``, ``draws``           random numbers by purpose; which transitions are drawn
* ``lanes``, ``evaluation``        environments in step; policies on fresh ones
* ``questions``, ``conversation``  which frames the VLM is asked about; asking, and where answers go
* ``selection``, ``rounds``        what of D_f is kept; a COVR round
* ``run_directory``                who owns a run's folder
* ``loop``, ``vlm_loop``           ``train()``; runs in which the VLM itself acts
"""

__version__ = "0.1.0"
