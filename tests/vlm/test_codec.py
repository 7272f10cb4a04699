import contextlib
import random
import re
import sys
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
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
    ("Action: 0.1, -0.2.", [0.1, -0.2]),
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
    "Action: 1, 0",
    "Action: 1.5, 0.2",
    "Action: 0.5%, 0.2 %",
    "Action: 0.1/0.2",
    # A sign that is not read as one would turn the action round.
    "Action: 0.1, – 0.2",
    "Action: 0.1, –0.2",
    "Action: 0.1, −0.2",
    "Action: [0.1, −0.2]",
    "Action: [0.1, 0．2]",
    "Action: 0.1, - 0.2",
    "Action:\n- 0.1\n- 0.2",
    "[[0.1, 0.2] is the action",
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


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["latin-1", "utf-16-le", "utf-8"]), st.integers(1, 3))
def test_any_bytes_are_survived(content, encoding, action_dim):
    errors = "surrogatepass" if encoding == "utf-16-le" else "surrogateescape"
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError:  # an odd byte at the end of UTF-16
        text = content[:-1].decode(encoding, "replace")
    check_answer(text, action_dim)


WORDS = st.text(st.characters(blacklist_characters="[]［］【】", blacklist_categories=("Nd", "No", "Nl")), max_size=30)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, 2, elements=st.floats(-1, 1, width=32)), WORDS, WORDS)
def test_words_around_an_answer_do_not_change_it(action, before, after):
    text = format_action(action)
    got, ok = parse_action(f"{before} {text} {after}", 2)
    assert ok and np.array_equal(got, parse_action(text, 2)[0])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.floats(-1, 1), st.floats(-1, 1))
def test_one_foreign_item_spoils_the_list(item, a, b):
    number = re.compile(r"\s*[+-]?([0-9]{1,3}(\.[0-9]{0,6})?|\.[0-9]{1,6})([eE][+-]?[0-9]{1,2})?\s*", re.ASCII)
    assume(not number.fullmatch(item) and not set(item) & set("[],［］【】，") and "action" not in item.lower())
    assert not parse_action(f"Action: [{a:.2f}, {item}, {b:.2f}]", 3)[1]


def check_answer(text, action_dim):
    """The contract, and an oracle of its own: each component is a number that stands in the text as it is."""
    action, ok = parse_action(text, action_dim)
    assert action.shape == (action_dim,) and action.dtype == np.float32
    assert all(-1.0 <= a <= 1.0 for a in action.tolist())
    if not ok:
        assert not action.any()
        return False
    written = {float(np.float32(min(max(v, -1.0), 1.0))) for v in written_numbers(text)}
    assert written.issuperset(action.tolist()), text
    return True


def written_numbers(text):
    """Signs belong to their numbers: 0.2 read out of -0.2 is not among these. A full stop may end a number."""
    for run in re.findall(r"[0-9.eE+-]+", text):
        for form in (run, run.removesuffix(".")):
            with contextlib.suppress(ValueError):
                yield float(form)


def test_fuzz_of_mutated_answers():
    """100,000 answers with up to seven edits; seconds, because parsing is cheap (measured 5 s in all)."""
    rng = random.Random(0)
    pieces = [*"Action: []0123456789.,+-eE_xX\n\t\0", "nan", "inf", "［", "】", "٣", "🙂", "‮", "\ud800", "−", "[-1, 1]"]
    starts = [format_action([rng.uniform(-1, 1) for _ in range(3)], signed) for signed in (True, False) * 50]
    accepted = 0
    for i in range(100_000):
        text = starts[i % 100]
        for _ in range(int(8 * rng.random() ** 2)):
            at = int((len(text) + 1) * rng.random())
            text = text[:at] + pieces[int(len(pieces) * rng.random())] + text[at + int(3 * rng.random()) :]
        accepted += check_answer(text, 3)
    # A third is untouched; accepting everything or nothing would be a broken parser.
    assert 40_000 < accepted < 80_000


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
