"""A second client that only looks: what the first has made of its ego vehicle, its camera and the scenery.

``python looker.py PORT`` writes one JSON object; a process of its own, since no other may import the client.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    import carla

    client = carla.Client("127.0.0.1", int(sys.argv[1]))
    client.set_timeout(5.0)
    world = client.get_world()
    world.wait_for_tick(30.0)  # only then does it know who is there; the first client has to drive on
    ego = next(actor for actor in world.get_actors() if actor.attributes.get("role_name") == "hero")
    camera = next(iter(world.get_actors().filter("sensor.camera.rgb")))
    things = world.get_environment_objects(carla.CityObjectLabel.Any)
    found = {
        "gear_switch_s": ego.get_physics_control().gear_switch_time,
        "wheels": len(ego.get_physics_control().wheels),
        "camera": dict(camera.attributes),
        "scenery": [[thing.id, thing.name, str(thing.type), thing.transform.location.x] for thing in things],
    }
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
