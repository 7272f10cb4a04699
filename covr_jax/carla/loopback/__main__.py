"""Starts a loopback server: ``python -m covr_jax.carla.loopback --port 2000 --map covr_highway``."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from covr_jax.carla.loopback import faults, wire
from covr_jax.carla.loopback.serve import LoopbackServer
from covr_jax.carla.loopback.world import World

ASSETS = Path(__file__).parents[1] / "assets"
MAPS = sorted(path.stem for path in ASSETS.glob("*.xodr"))
_FOLDER = "Carla/Maps/"  # folder of maps in the client's names


def main() -> None:
    """Serves until the parent or a signal ends the process."""
    parser = argparse.ArgumentParser(
        prog="covr_jax.carla.loopback", description="A small simulator with CARLA's protocol; it is not CARLA."
    )
    parser.add_argument("--port", type=int, default=2000, help="port of the calls; sensor data come from the next one")
    parser.add_argument("--map", default=MAPS[0], choices=MAPS)
    parser.add_argument("--version", default=wire.CLIENT_VERSION, help="version that it reports")
    parser.add_argument("--faults", default="[]", metavar="JSON", help="list of [kind, call, after, seconds]")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this is no longer the parent process")
    options = parser.parse_args()
    xodr = (ASSETS / f"{options.map}.xodr").read_text(encoding="utf-8")
    schedule = faults.FaultSchedule(faults.parse_faults(options.faults))
    server = LoopbackServer(World(_FOLDER + options.map, xodr), options.port, options.version, schedule)
    asyncio.run(server.run(options.parent))


if __name__ == "__main__":
    main()
