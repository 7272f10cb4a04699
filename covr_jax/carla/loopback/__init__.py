"""A stand-in for a CARLA 0.9.16 server that the real ``carla`` client talks to: no Unreal, no PhysX, one small world.

``python -m covr_jax.carla.loopback --port 2000`` listens on 127.0.0.1 only. Vehicles are kinematic, pictures are
schematic, and what it returns says nothing about scores on CARLA. ``calls`` lists the remote procedures it knows.
"""
