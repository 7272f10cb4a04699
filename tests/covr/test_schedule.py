"""psi_c and the cold-start gate, in whole numbers."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covr_jax.covr.schedule import KINDS, gate_open, interval, round_steps

fuzz = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [5_000, 10_000, 15_000, 20_000, 25_000]), ("recursive", [5_000, 10_000, 30_000, 120_000, 600_000])],
)
def test_intervals_by_hand(kind, expected):
    assert [interval(c, 5_000, kind) for c in range(5)] == expected


def test_the_recursive_kind_obeys_the_printed_recurrence():
    for c in range(1, 8):  # psi_{c+1} = psi_c + psi_c c
        psi_c = interval(c - 1, 7, "recursive")
        assert interval(c, 7, "recursive") == psi_c + psi_c * c


def test_rounds_of_the_paper():
    assert round_steps(5_000, 100_000) == [5_000, 15_000, 30_000, 50_000, 75_000]
    assert round_steps(5_000, 100_000, "recursive") == [5_000, 15_000, 45_000]
    assert len(round_steps(5_000, 500_000)) == 13 and round_steps(5_000, 500_000)[-1] == 455_000


def test_rounds_at_the_ends_of_a_run():
    assert round_steps(10, 9) == []
    assert round_steps(10, 0) == [], "never a round at step 0"
    assert round_steps(10, 10) == [10]
    assert round_steps(10, 29) == [10] and round_steps(10, 30) == [10, 30]


@fuzz
@given(psi_0=st.integers(1, 10_000), total=st.integers(0, 200_000), kind=st.sampled_from(KINDS))
def test_rounds_are_the_sums_of_the_intervals(psi_0, total, kind):
    steps = round_steps(psi_0, total, kind)
    assert all(0 < step <= total for step in steps)
    assert [b - a for a, b in itertools.pairwise([0, *steps])] == [interval(c, psi_0, kind) for c in range(len(steps))]
    due = (steps[-1] if steps else 0) + interval(len(steps), psi_0, kind)
    assert due > total, "none is forgotten"


def test_gate():
    assert [gate_open(c, 2) for c in range(4)] == [False, False, True, True]
    assert gate_open(0, 0)


@pytest.mark.parametrize("psi_0", [0, -5, 2.5, float("nan"), float("inf"), True])
def test_refuses_a_psi_0_that_is_none(psi_0):
    for call in (lambda: interval(0, psi_0), lambda: round_steps(psi_0, 100)):
        with pytest.raises(ValueError, match="psi_0 must be a whole number of at least 1"):
            call()


def test_refuses_other_nonsense():
    with pytest.raises(ValueError, match="unknown schedule 'quadratic'"):
        interval(0, 5, "quadratic")
    with pytest.raises(ValueError, match="unknown schedule"):
        round_steps(5, 1, "quadratic")
    with pytest.raises(ValueError, match="round must"):
        interval(-1, 5)
    with pytest.raises(ValueError, match="total_steps"):
        round_steps(5, -1)
    with pytest.raises(ValueError, match="tuned_rounds"):
        gate_open(-1, 2)
    with pytest.raises(ValueError, match="cold_start_rounds"):
        gate_open(1, -2)
