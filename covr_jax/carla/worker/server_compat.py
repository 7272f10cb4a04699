"""Optional calls of a profile, besides driving, which some servers do not support."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from covr_jax.carla.worker.carla_import import carla


def hide_scenery(world: Any, labels: tuple[str, ...]) -> set[int]:
    """Hides the map's objects with these labels.

    Args:
      world: carla.World.
      labels: names of carla.CityObjectLabel.

    Returns:
      Ids of the hidden objects; none where the server cannot hide objects.
    """
    object_ids: set[int] = set()
    for label in labels:
        kind = getattr(carla.CityObjectLabel, label)
        object_ids |= {found.id for found in _call_if_supported("scenery", [], world.get_environment_objects, kind)}
    return object_ids if show_scenery(world, object_ids, False) else set()


def show_scenery(world: Any, object_ids: set[int], shown: bool = True) -> bool:
    """Shows or hides objects of the map; returns whether the server supports it."""
    if not object_ids:
        return True
    return _call_if_supported("scenery", False, lambda: world.enable_environment_objects(object_ids, shown) or True)


def set_gear_switch_time(vehicle: Any, seconds: float) -> None:
    """Sets the time in s that the vehicle takes to change gears."""

    def change() -> None:
        physics = vehicle.get_physics_control()
        physics.gear_switch_time = seconds
        vehicle.apply_physics_control(physics)

    _call_if_supported("gears", None, change)


_reported = set[str]()


def _call_if_supported(feature: str, default: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the call's result, or ``default`` where the server refuses the call, which is reported once."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        if "rpc_error" not in str(error):  # a server that does not respond is a fault
            raise
        if feature not in _reported:
            _reported.add(feature)
            print(f"{feature}: left as they are, the server says: {error}", file=sys.stderr, flush=True)
        return default
