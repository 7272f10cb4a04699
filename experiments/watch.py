"""Serves the growing report of a run; see ``--help`` and ``covr_jax/commands/watch.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from covr_jax.commands.watch import run

if __name__ == "__main__":
    run()
