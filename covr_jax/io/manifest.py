"""Which files a directory holds, and what is in them: written when it is complete, compared before it is read.

``manifest.json`` holds the size in bytes and the SHA-256 of every other file, by its path within the directory.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from covr_jax.io.files import sync_directory, write_json
from covr_jax.runtime.errors import one_line

NAME = "manifest.json"
_THREADS = 4  # hashing lets other threads run


def write_manifest(directory: Path) -> int:
    """Waits until every file of a directory is on the disk, reads them back, and writes what is in them.

    Returns:
      Bytes of all files before it.

    Raises:
      OSError: the disk refused.
    """
    files = _files(directory)
    with ThreadPoolExecutor(_THREADS) as pool:
        described = list(pool.map(_describe_on_disk, files))
    for folder in {file.parent for file in files} | {directory}:
        sync_directory(folder)
    names = [file.relative_to(directory).as_posix() for file in files]
    write_json(directory / NAME, {"sha256": dict(zip(names, described, strict=True))})
    return sum(size for size, _ in described)


def has_manifest(directory: Path) -> bool:
    """Whether a directory has a manifest."""
    return (directory / NAME).exists()


def find_damage(directory: Path) -> str | None:
    """Returns what is wrong with a directory that has a manifest, as one line; None: every file is as it was written.

    Files that the manifest does not name are not looked at.
    """
    try:
        listed = json.loads((directory / NAME).read_text())["sha256"]
        expected = {str(name): (int(size), str(digest)) for name, (size, digest) in listed.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{NAME} cannot be read ({one_line(error)})"
    if not expected:
        return f"{NAME} names no file"
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda item: _compare(directory / item[0], *item[1]), expected.items())
        return next((f"{name} {fault}" for name, fault in zip(expected, found, strict=True) if fault), None)


def _compare(path: Path, size: int, digest: str) -> str | None:
    try:
        if path.stat().st_size != size:
            return f"has {path.stat().st_size:,} bytes instead of {size:,}"
        return None if _digest(path) == digest else "is not what was written"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({one_line(error)})"


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / NAME)


def _describe_on_disk(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size, _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
