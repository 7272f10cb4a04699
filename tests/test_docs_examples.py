"""The Python examples of README and docs run, at the size of two environments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    f"{path.stem} {i}": block
    for path in TEXTS
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL))
}


@pytest.mark.parametrize("name", BLOCKS)
def test_an_example_runs(name):
    exec(compile(BLOCKS[name].replace("64", "2"), name, "exec"), {})


def test_the_examples_are_there():
    assert len(BLOCKS) >= 6
