"""Driving in CARLA 0.9.16, or on a loopback server that speaks its protocol: ``env.CarlaEnv``.

The ``carla`` client lives in a child process (``worker``), where it may crash or hang without harm.
"""
