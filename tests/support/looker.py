"""A second client that reads the state of the first one's ego vehicle and camera, and of the scenery.

``python looker.py PORT`` writes one JSON object. It is a process of its own, since only child processes may import the
client.
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
    world.wait_for_tick(30.0)  # actors are known after a tick only, so the first client must go on stepping
    ego = next(actor for actor in world.get_actors() if actor.attributes.get("role_name") == "hero")
    camera = next(iter(world.get_actors().filter("sensor.camera.rgb")))
    scenery = world.get_environment_objects(carla.CityObjectLabel.Any)
    state = {
        "gear_switch_s": ego.get_physics_control().gear_switch_time,
        "wheels": len(ego.get_physics_control().wheels),
        "camera": dict(camera.attributes),
        "scenery": [[found.id, found.name, str(found.type), found.transform.location.x] for found in scenery],
    }
    print(json.dumps(state), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
