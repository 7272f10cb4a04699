"""JSON that every reader takes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from covr_jax.io.files import append_json, to_json, write_json


def test_numbers_that_are_not_finite_become_null(tmp_path):
    value = {"a": math.nan, "b": [1.5, -math.inf, {"c": (2, math.inf)}], "d": np.float64("nan"), "e": "NaN", "f": True}
    expected = {"a": None, "b": [1.5, None, {"c": [2, None]}], "d": None, "e": "NaN", "f": True}
    assert to_json(value) == json.dumps(expected)
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == expected
    for _ in range(2):
        append_json(tmp_path / "a.jsonl", value)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [expected, expected]
    with pytest.raises(TypeError):
        to_json({"a": object()})
