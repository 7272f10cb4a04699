"""Shapes and numbers at the doors of public functions: what does not fit is refused in one line.

Shapes and dtypes are known while JAX traces, so that looking at them costs a compiled program nothing; numbers are
looked at on the host alone. Nothing of JAX is imported: the child processes of simulators read this file too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Checks the shape of an array, a list of numbers or a traced array.

    Args:
      name: begins the message.
      array: to be checked.
      shape: what it must be.

    Raises:
      ValueError: another shape.
    """
    if (found := tuple(np.shape(array))) != tuple(shape):
        raise ValueError(f"{name} must be {_shown(shape)}, got {list(found)}")


def check_actions(action: Any, shape: tuple[int, ...]) -> None:
    """Checks shape and kind of actions, which may be traced. An action of another shape would be broadcast.

    Args:
      action: an array or a list of numbers.
      shape: [E,A] for E environments, [A] for one.

    Raises:
      ValueError: another shape, or no real numbers.
    """
    array = action if isinstance(getattr(action, "dtype", None), np.dtype) else np.asarray(action)
    is_real = np.can_cast(array.dtype, np.float32, "same_kind") and array.dtype.kind != "b"
    if tuple(array.shape) != tuple(shape) or not is_real:
        expected = f"real numbers {_shown(shape)} in [-1, 1]"
        raise ValueError(f"action must be {expected}, got {array.dtype} {list(array.shape)}")


def finite_actions(action: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Returns actions on the host as f32; ``shape`` is as in ``check_actions``.

    Raises:
      ValueError: another shape, or something that is no finite real number.
    """
    array = np.asarray(action)
    check_actions(array, shape)
    with np.errstate(over="ignore"):  # a number beyond float32 becomes inf, which is refused
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        value = array[tuple(where)]
        raise ValueError(f"action must be finite numbers {_shown(shape)}, got {value} at {where.tolist()}")
    return array


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
