"""Files of options, for ``--config FILE``: YAML, or JSON, which is YAML too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from covr_jax.config import ConfigError
from covr_jax.runtime.errors import one_line


def read_config_file(path: str) -> dict[str, Any]:
    """Reads options by their group, as in a run's config.json.

    Raises:
      ConfigError: the file cannot be read, or holds something else.
    """
    try:
        values = _load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {path} cannot be read: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} must hold options by their group, as a run's config.json does")
    return values


def _load(text: str) -> Any:
    import yaml  # slow to load, and seldom used

    class Loader(yaml.SafeLoader):
        """Reads 1e-4 as a number: YAML 1.1, which PyYAML follows, asks for 1.0e-4."""

    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from error
