"""Files that are there whole or as they were before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replaces a file by ``text`` in one move; after a failure, or a kill at any moment, it is as it was before.

    Raises:
      OSError: the disk refused.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    os.replace(partial, path)


def write_json(path: Path, value: Any, indent: int = 1) -> None:
    """Replaces a file by a JSON document, as ``write_text`` does."""
    write_text(path, json.dumps(value, indent=indent))
