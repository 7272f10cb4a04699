"""The remote procedures about what is neither the server nor an actor: scenery, lights, ROS, the Traffic Manager."""

from __future__ import annotations

from typing import Any

from covr_jax.carla.loopback import wire
from covr_jax.carla.loopback.world import World


class MiscRpc:
    """Answers to the client."""

    def __init__(self, world: World):
        self._world = world

    def query_lights_state(self, client: Any) -> Any:
        """Street lights; none."""
        del client
        return wire.value([])

    def update_lights_state(self, client: Any, lights: Any, *options: Any) -> Any:
        """Change street lights; none."""
        del client, lights, options
        return wire.done()

    def get_environment_objects(self, label: int) -> Any:
        """Objects of the scenery with that label."""
        return wire.value([wire.scenery(*thing) for thing in self._world.scenery if label in (thing.label, wire.ANY)])

    def enable_environment_objects(self, numbers: list[int], enabled: bool) -> Any:
        """Show or hide objects of the scenery; kept, of no effect on the pictures, which never show them."""
        change = self._world.hidden.difference_update if enabled else self._world.hidden.update
        change(numbers)
        return wire.done()

    def get_vehicle_light_states(self) -> Any:
        """The lights of all vehicles."""
        return wire.value([[actor.number, 0] for actor in self._world.actors.values() if actor.is_vehicle])

    def reset_all_traffic_lights(self) -> Any:
        """Restart the traffic lights; none."""
        return wire.done()

    def freeze_all_traffic_lights(self, frozen: bool) -> Any:
        """Freeze the traffic lights; none."""
        del frozen
        return wire.done()

    def is_sensor_enabled_for_ros(self, stream: int) -> Any:
        """Whether a sensor publishes to ROS; never."""
        del stream
        return wire.value(False)

    def enable_sensor_for_ros(self, stream: int) -> Any:
        """Publish a sensor to ROS; refused silently, as nothing listens."""
        del stream
        return wire.done()

    def disable_sensor_for_ros(self, stream: int) -> Any:
        """Stop publishing a sensor to ROS."""
        del stream
        return wire.done()

    # --------------------------------------------------------- Traffic Manager

    def is_traffic_manager_running(self, port: int) -> Any:
        """Whether a Traffic Manager runs at a port."""
        del port
        return wire.value(False)

    def get_traffic_manager_running(self, port: int) -> Any:
        """Address of the Traffic Manager at a port."""
        del port
        return wire.value(["", 0])

    def add_traffic_manager_running(self, address: Any) -> Any:
        """Remember a Traffic Manager's address."""
        del address
        return wire.value(True)

    def destroy_traffic_manager(self, port: int) -> Any:
        """Forget a Traffic Manager."""
        del port
        return wire.value(True)
