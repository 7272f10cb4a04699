"""Shares a run's policy on the Hugging Face Hub; see ``--help`` and ``covr_jax/commands/push.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from covr_jax.commands.push import run

if __name__ == "__main__":
    run()
