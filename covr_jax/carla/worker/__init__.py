"""The child process: the only place where the ``carla`` client is imported. ``python -m covr_jax.carla.worker``."""
