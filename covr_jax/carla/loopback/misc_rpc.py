"""Remote procedures of the loopback server for scenery, lights, ROS and the Traffic Manager's registry."""

from __future__ import annotations

from typing import Any

from covr_jax.carla.loopback import wire
from covr_jax.carla.loopback.world import World


class MiscRpc:
    """Procedures besides those for the server and its actors."""

    def __init__(self, world: World):
        self._world = world

    def query_lights_state(self, client: Any) -> Any:
        """States of the street lights; there are none."""
        del client
        return wire.value([])

    def update_lights_state(self, client: Any, lights: Any, *options: Any) -> Any:
        """Changes street lights; there are none."""
        del client, lights, options
        return wire.void()

    def get_environment_objects(self, label: int) -> Any:
        """Objects of the scenery with that label."""
        return wire.value([wire.scenery(*found) for found in self._world.scenery if label in (found.label, wire.ANY)])

    def enable_environment_objects(self, numbers: list[int], enabled: bool) -> Any:
        """Shows or hides objects of the scenery; stored without effect, since images never show them."""
        change = self._world.hidden.difference_update if enabled else self._world.hidden.update
        change(numbers)
        return wire.void()

    def get_vehicle_light_states(self) -> Any:
        """States of the lights of all vehicles; always off."""
        return wire.value([[actor.number, 0] for actor in self._world.actors.values() if actor.is_vehicle])

    def reset_all_traffic_lights(self) -> Any:
        """Restarts the traffic lights; there are none."""
        return wire.void()

    def freeze_all_traffic_lights(self, frozen: bool) -> Any:
        """Freezes the traffic lights; there are none."""
        del frozen
        return wire.void()

    def is_sensor_enabled_for_ros(self, stream: int) -> Any:
        """Whether a sensor publishes to ROS; always false."""
        del stream
        return wire.value(False)

    def enable_sensor_for_ros(self, stream: int) -> Any:
        """Publishes a sensor to ROS; accepted without effect."""
        del stream
        return wire.void()

    def disable_sensor_for_ros(self, stream: int) -> Any:
        """Stops publishing a sensor to ROS; accepted without effect."""
        del stream
        return wire.void()

    def is_traffic_manager_running(self, port: int) -> Any:
        """Whether a Traffic Manager is registered at a port; always false."""
        del port
        return wire.value(False)

    def get_traffic_manager_running(self, port: int) -> Any:
        """Address of the Traffic Manager at a port; there is none."""
        del port
        return wire.value(["", 0])

    def add_traffic_manager_running(self, address: Any) -> Any:
        """Registers a Traffic Manager; accepted without effect."""
        del address
        return wire.value(True)

    def destroy_traffic_manager(self, port: int) -> Any:
        """Removes a Traffic Manager from the registry; accepted without effect."""
        del port
        return wire.value(True)
