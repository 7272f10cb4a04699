"""Files that are there whole or as they were before."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import IO, Any


def write_text(path: Path, text: str) -> None:
    """Replaces a file by ``text`` in one move; after a failure, a kill or a power loss at any moment, it is as before.

    Raises:
      OSError: the disk refused.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", errors="replace") as file:
        file.write(text)
        sync(file)
    os.replace(partial, path)
    sync_directory(path.parent)


def to_json(value: Any, **options: Any) -> str:
    """Returns a JSON text as RFC 8259 has it: NaN and infinities, which Python would write as such, become null.

    Args:
      value: of dicts, lists, tuples, strings, numbers and None.
      **options: of ``json.dumps``.
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {name: _finite(part) for name, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
        case float() if not math.isfinite(value):
            return None
    return value


def append_json(path: Path, value: Any) -> None:
    """Adds a JSON document as one line at the end of a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(value) + "\n")
        sync(file)


def sync(file: IO[Any]) -> None:
    """Waits until what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Waits until the names of a directory's files are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, indent: int = 1) -> None:
    """Replaces a file by a JSON document, as ``write_text`` does."""
    write_text(path, to_json(value, indent=indent))


def link_or_copy(source: str, target: str) -> str:
    """Makes a file that is replaced, never modified, appear at a second path as well; returns that path.

    It is a hard link, or a copy on another file system. A target that exists stays.
    """
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    return target
