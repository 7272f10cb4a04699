"""The child process, the only place that imports the ``carla`` client: ``python -m covr_jax.carla.worker``."""
