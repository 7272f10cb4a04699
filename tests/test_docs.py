"""What the README shows runs, and what it names exists."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from covr_jax.config import Config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
ROWS = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("|") and "tests/" in line]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n", 1)[0])
def test_an_example_runs(block):
    exec(compile(block.replace("64", "2"), "README.md", "exec"), {})


def test_the_examples_are_there():
    assert len(BLOCKS) >= 2 and len(ROWS) >= 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_a_row_of_the_table_names_what_exists(row):
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", row[1]):
        assert resolves(f"covr_jax.{name}"), name
    for path in re.findall(r"`(tests/[^`]+)`", row[2]):
        assert (ROOT / path).exists(), path


def resolves(name):
    """A module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), attribute)
    return True


def test_the_options_that_it_names_exist():
    """As `--group.leaf`; those of booleans take no value, and `--group.no-leaf` turns them off."""
    known, booleans = set(), set()
    for group in fields(Config):
        value = getattr(Config(), group.name)
        for leaf in fields(value) if is_dataclass(value) else ():
            name = f"--{group.name}.{leaf.name}".replace("_", "-")
            known.add(name)
            if isinstance(getattr(value, leaf.name), bool):
                booleans.add(name)
    off = {name.replace(".", ".no-") for name in booleans}
    named = re.findall(r"(--(?!group\.)[a-z]+\.[a-z0-9-]+)( true| false|)\b", TEXT)
    assert len(named) > 20 and {name for name, _ in named} <= known | off
    assert [name for name, value in named if value and name in booleans | off] == []
