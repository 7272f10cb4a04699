"""Where compiled programs are kept between processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Returns ``~/.cache/covr_jax/<name>``; where there is no home or none that can be written to, a temporary folder.

    Args:
      name: what is kept.
    """
    try:
        folder = Path.home() / ".cache" / "covr_jax" / name
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: a user without a home and without an entry in passwd
        pass
    place = Path(tempfile.gettempdir()) / f"covr_jax-{os.getuid()}"
    place.mkdir(exist_ok=True, mode=0o700)
    status = place.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:  # others could put programs of theirs there
        place = Path(tempfile.mkdtemp(prefix="covr_jax-"))
    folder = place / name
    folder.mkdir(exist_ok=True)
    return folder
