"""The ``carla`` client, untyped: where it is not installed, type checkers take this package for it."""

from typing import Any

import carla as _carla

carla: Any = _carla
