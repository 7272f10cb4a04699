"""Which code made a run."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


@cache
def commit(package: Path = PACKAGE) -> str:
    """The commit of a package's checkout, with ``-dirty`` where tracked files of the checkout differ from it.

    Returns:
      Empty where the package is not in a checkout of its own, such as an installed one, or there is no git.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return ""  # of another project, in which this one is installed
        return git("describe", "--always", "--dirty", "--exclude", "*")
    except (OSError, subprocess.CalledProcessError):
        return ""
