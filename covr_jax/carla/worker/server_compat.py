"""What the profile wants of a server beyond the driving itself, and what some servers cannot do."""

from __future__ import annotations

import sys
from typing import Any

from covr_jax.carla.worker.carla_import import carla


def hide_scenery(world: Any, labels: tuple[str, ...]) -> set[int]:
    """Switch off the map's objects with these labels, names of carla.CityObjectLabel. Returns their numbers."""
    numbers: set[int] = set()
    for label in labels:
        kind = getattr(carla.CityObjectLabel, label)
        numbers |= {thing.id for thing in _tolerant("scenery", [], world.get_environment_objects, kind)}
    return numbers if show_scenery(world, numbers, False) else set()


def show_scenery(world: Any, numbers: set[int], shown: bool = True) -> bool:
    """Switch objects of the map on or off; whether the server can."""
    return not numbers or _tolerant("scenery", False, lambda: world.enable_environment_objects(numbers, shown) or True)


def quick_gears(vehicle: Any, seconds: float) -> None:
    """Let the vehicle change gears in so many seconds."""

    def change() -> None:
        physics = vehicle.get_physics_control()
        physics.gear_switch_time = seconds
        vehicle.apply_physics_control(physics)

    _tolerant("gears", None, change)


_told = set[str]()


def _tolerant(what: str, otherwise: Any, call: Any, *arguments: Any) -> Any:
    """What the call returns, or ``otherwise`` where the server refuses it, which is told once."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        if "rpc_error" not in str(error):  # a server that does not answer is another matter
            raise
        if what not in _told:
            _told.add(what)
            print(f"{what}: left as they are, the server says: {error}", file=sys.stderr, flush=True)
        return otherwise
