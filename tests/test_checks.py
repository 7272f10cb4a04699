"""What is no action is refused in one line that says what was expected and what came."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.checks import check_actions, check_shape, finite_actions

WRONG = [
    (np.zeros((2, 2)), "action must be real numbers [2,1] in [-1, 1], got float64 [2, 2]"),
    (np.zeros(2, np.float32), "action must be real numbers [2,1] in [-1, 1], got float32 [2]"),
    (0.5, "action must be real numbers [2,1] in [-1, 1], got float64 []"),
    (np.zeros((2, 1), bool), "action must be real numbers [2,1] in [-1, 1], got bool [2, 1]"),
    (np.zeros((2, 1), complex), "action must be real numbers [2,1] in [-1, 1], got complex128 [2, 1]"),
    ([["0.1"], ["0.2"]], "action must be real numbers [2,1] in [-1, 1], got <U3 [2, 1]"),
    ([[None], [0.1]], "action must be real numbers [2,1] in [-1, 1], got object [2, 1]"),
]
NOT_FINITE = [
    ([[0.0], [np.nan]], "action must be finite numbers [2,1], got nan at [1, 0]"),
    (np.full((2, 1), -np.inf), "action must be finite numbers [2,1], got -inf at [0, 0]"),
    (np.full((2, 1), 1e300), "action must be finite numbers [2,1], got inf at [0, 0]"),
]


@pytest.mark.field
@pytest.mark.parametrize(("action", "said"), WRONG + NOT_FINITE)
def test_what_is_no_action_is_refused_on_the_host(action, said):
    with pytest.raises(ValueError) as refusal:
        finite_actions(action, (2, 1))
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    "action", [[[1], [-1]], np.float64([[0.5], [7.0]]), jnp.bfloat16([[0.5], [-1]]), jnp.float32([[0.5], [-1]])]
)
def test_real_numbers_of_any_width_are_actions(action):
    taken = finite_actions(action, (2, 1))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, np.asarray(action, np.float32))


@pytest.mark.parametrize(("shape", "dtype"), [((2, 2), "f4"), ((1,), "f4"), ((2, 1), bool)])
def test_shapes_are_known_while_tracing(shape, dtype):
    def step(action):
        check_actions(action, (2, 1))
        return action

    assert jax.eval_shape(step, jnp.full((2, 1), jnp.nan)).shape == (2, 1)  # numbers are not
    with pytest.raises(ValueError, match=r"^action must be real numbers \[2,1\] in \[-1, 1\], got \w+ \["):
        jax.eval_shape(step, jax.ShapeDtypeStruct(shape, dtype))


def test_a_shape_of_a_list_or_an_array():
    check_shape("reward", [1.0, 2.0], (2,))
    check_shape("reward", np.float32(1.0), ())
    with pytest.raises(ValueError, match=r"^reward must be \[2\], got \[2, 1\]$"):
        check_shape("reward", np.zeros((2, 1)), (2,))
