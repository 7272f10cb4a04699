"""The loopback server: a small simulator of this project with CARLA 0.9.16's protocol, for the real ``carla`` client.

It is not CARLA: no Unreal, no PhysX, one road. Vehicles are kinematic and images schematic, so its scores say nothing
about scores on CARLA. ``python -m covr_jax.carla.loopback --port 2000`` listens on 127.0.0.1 only. ``calls`` has the
remote procedures that it knows.
"""
