"""Driving tasks in CARLA 0.9.16, or on a loopback server of this project that speaks CARLA's protocol.

``env.CarlaEnv`` is a ``dm_env.Environment``. The ``carla`` client runs in a child process (``worker``), since it may
crash or hang its process. The server named ``loopback`` is a small simulator of our own, not CARLA.
"""
