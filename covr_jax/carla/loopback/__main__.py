"""``python -m covr_jax.carla.loopback --port 2000 --map covr_highway``"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from covr_jax.carla.loopback import faults, wire
from covr_jax.carla.loopback.serve import LoopbackServer
from covr_jax.carla.loopback.world import World

ASSETS = Path(__file__).parents[1] / "assets"
MAPS = sorted(path.stem for path in ASSETS.glob("*.xodr"))
_FOLDER = "Carla/Maps/"  # where the client expects maps to lie


def main() -> None:
    """Serve until the parent or a signal ends it."""
    parser = argparse.ArgumentParser(prog="covr_jax.carla.loopback", description="A stand-in for a CARLA server.")
    parser.add_argument("--port", type=int, default=2000, help="of the calls; sensor data comes from the next one")
    parser.add_argument("--map", default=MAPS[0], choices=MAPS)
    parser.add_argument("--version", default=wire.CLIENT_VERSION, help="what it claims to be")
    parser.add_argument("--faults", default="[]", metavar="JSON", help="list of [kind, call, after, seconds]")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this is no longer the parent process")
    options = parser.parse_args()
    xodr = (ASSETS / f"{options.map}.xodr").read_text(encoding="utf-8")
    script = faults.Script(faults.parse(options.faults))
    server = LoopbackServer(World(_FOLDER + options.map, xodr), options.port, options.version, script)
    asyncio.run(server.run(options.parent))


if __name__ == "__main__":
    main()
