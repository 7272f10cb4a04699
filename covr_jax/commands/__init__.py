"""Commands: training, evaluation, export, sweeps, tables, plots and a check of the machine.

A module that is a command has a ``run``: an installed package offers it as ``covr-train`` and so on, a checkout as
``experiments/train.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path


def program() -> str:
    """Name of the command that runs, as its messages show it."""
    return Path(sys.argv[0]).name
