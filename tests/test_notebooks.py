"""The notebooks of docs run from their first cell to the last, in a directory of their own."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.py"))


def test_every_notebook_is_cells_that_begin_with_a_title():
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        assert path.read_text().startswith("# %% [markdown]\n# # "), path


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    runpy.run_path(str(path))
    assert capsys.readouterr().out
