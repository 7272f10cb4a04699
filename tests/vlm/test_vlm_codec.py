import random
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from covr_jax.vlm.codec import format_action, parse_action


@pytest.mark.parametrize(
    ("action", "signed", "text"),
    [
        ([0.43, -0.37], False, "Action: [0.43, -0.37]"),
        ([0.43, -0.37], True, "Action: [+0.43, -0.37]"),
        ([-0.001], False, "Action: [0.00]"),
        ([-0.001], True, "Action: [+0.00]"),
        ([1.7, -9.0, 0.994], False, "Action: [1.00, -1.00, 0.99]"),
    ],
)
def test_format(action, signed, text):
    assert format_action(action, signed) == text


@pytest.mark.parametrize("bad", [[np.nan], [np.inf, 0.0], [[0.1]], 0.3])
def test_format_refuses_what_is_no_finite_vector(bad):
    with pytest.raises(ValueError):
        format_action(bad)


ACCEPTED = [
    ("Action: [0.43, -0.37]", [0.43, -0.37]),
    ("action:[.5,-1.0]", [0.5, -1.0]),
    ("ACTION: [ 1 ,\t-1. ]", [1.0, -1.0]),
    ("Action: [1.2, -7]", [1.0, -1.0]),
    ("Action: [1e-1, -5E-1]", [0.1, -0.5]),
    ("Action: ［0.43， -0.37］", [0.43, -0.37]),
    ("Thought: [0.9, 0.9]. Action: [0.1, 0.2].<|im_end|> done", [0.1, 0.2]),
    ("Action: [0.9, 0.9]\nAction: [0.1, 0.2]", [0.1, 0.2]),
    ("**Action:** `[0.1, 0.2]`", [0.1, 0.2]),
    ("I would choose [0.1, 0.2]", [0.1, 0.2]),
    ("[7] then [0.1, 0.2] (see [3, 4, 5])", [0.1, 0.2]),
    ("Action: 0.1, -0.2", [0.1, -0.2]),
    ("steer 0.10 and brake -0.20", [0.1, -0.2]),
]


@pytest.mark.parametrize(("text", "expected"), ACCEPTED)
def test_accepts(text, expected):
    action, ok = parse_action(text, 2)
    assert ok and action.dtype == np.float32 and action.shape == (2,)
    np.testing.assert_allclose(action, expected, atol=1e-7)


REFUSED = [
    "",
    "no numbers at all",
    "Action: []",
    "Action: [0.1]",
    "Action: [0.1, 0.2, 0.3]",
    "Action: [0.1, 0.2",
    "Action: [a1, a2]",
    "Action: [0.1, nan]",
    "Action: [inf, 0.1]",
    "Action: [1e400, 0.1]",
    "Action: [1e99, 0.1]",
    "Action: [1_0, 0.1]",
    "Action: [1000, 0.1]",
    "Action: [" + "9" * 50_000 + ", 0.1]",
    "Action: [٠.١, ٠.٢]",
    "Action: [0x1, 0.1]",
    "Action: [0,1, 0,2]",
    "Action: [0.1 0.2]",
    "Action: [+-0.1, 0.2]",
    "Action: [0.1, 0.2] each in [-1, 1]",
    "Action: [0.1, 0.2] or [0.1, 0.3]",
    "Action: [[0.1, 0.2], 0.3]",
    "[0.1, 0.2] and [0.3, 0.4]",
    "I refuse 5 times out of 7",
    "version 1.2.3",
    "0.1 and 0.2 and 3",
    "\ud800 Action: [0.1, \x00]",
]


@pytest.mark.parametrize("text", REFUSED)
def test_refuses_with_zeros(text):
    action, ok = parse_action(text, 2)
    assert not ok
    np.testing.assert_array_equal(action, np.zeros(2, np.float32))


@pytest.mark.parametrize("text", [None, 3, b"Action: [0.1, 0.2]", ["Action: [0.1, 0.2]"]])
def test_other_types_are_failures(text):
    assert parse_action(text, 2)[1] is False


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 21), elements=st.floats(-1, 1, width=32)), st.booleans())
def test_canonical_text_comes_back(action, signed):
    text = format_action(action, signed)
    back, ok = parse_action(text, len(action))
    assert ok
    assert np.abs(back.astype(np.float64) - action).max() <= 0.005 + 1e-7
    assert format_action(back, signed) == text


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("Action: []0123456789.,+-eE nf\n［］①²"), max_size=80), st.integers(1, 4))
def test_total_and_bounded(text, action_dim):
    action, ok = parse_action(text, action_dim)
    assert action.shape == (action_dim,) and np.isfinite(action).all() and (np.abs(action) <= 1).all()
    assert ok or not action.any()
    again, ok_again = parse_action(text, action_dim)
    assert ok == ok_again and np.array_equal(action, again)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60).filter(lambda t: not any(c.isdigit() for c in t)))
def test_never_invents_a_number(text):
    assert not parse_action(text, 1)[1]


def test_fuzz_of_mutated_answers():
    rng = random.Random(0)
    alphabet = [*"Action: []0123456789.,+-eE_xX\n\t\0", "nan", "inf", "［", "】", "٣", "🙂", "‮", "\ud800", "[-1, 1]"]
    accepted = 0
    for _ in range(20_000):
        text = list(format_action([rng.uniform(-1, 1) for _ in range(3)], rng.random() < 0.5))
        for _ in range(rng.randrange(5)):
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.randrange(3)] = [rng.choice(alphabet)]
        action, ok = parse_action("".join(text), 3)
        assert action.shape == (3,) and np.isfinite(action).all() and (np.abs(action) <= 1).all()
        assert ok or not action.any()
        accepted += ok
    # Untouched answers alone are a fifth; accepting everything or nothing would be a broken parser.
    assert 5_000 < accepted < 16_000


@pytest.mark.parametrize("unit", ["[", "{", "Action: [", "[0.1,", "1", "0.1 ", "[0.1, 0.2]", "action", "-+.", "]["])
def test_time_is_linear(unit):
    def best(n):
        text = unit * (n // len(unit))
        times = []
        for _ in range(5):
            started = time.process_time()
            parse_action(text, 2)
            times.append(time.process_time() - started)
        return min(times)

    # Eight times the input: quadratic behaviour would cost 64 times.
    assert best(256_000) < 24 * best(32_000) + 2e-3


def test_needs_no_torch():
    import subprocess

    code = "import sys, covr_jax.vlm.codec, covr_jax.vlm.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
