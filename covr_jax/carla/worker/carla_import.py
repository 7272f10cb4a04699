"""The ``carla`` client as Any: without it, type checkers resolve the name to ``covr_jax.carla``."""

from typing import Any

import carla as _carla

carla: Any = _carla
