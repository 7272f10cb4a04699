"""The policies that have learned nothing."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.benchmark.policies import constant


def test_a_constant_policy_answers_its_numbers_in_every_lane():
    policy = constant("0 -0.5", 3, 2)
    np.testing.assert_array_equal(policy(None, 7), [[0.0, -0.5]] * 3)


def test_too_few_numbers_are_a_usage_error(capsys):
    with pytest.raises(SystemExit) as exit_info:
        constant("0.5", 3, 2)
    assert exit_info.value.code == 2 and "needs 2 numbers" in capsys.readouterr().err
