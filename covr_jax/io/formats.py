"""Formats of checkpoints: which one is written, and how those before it are read.

Format 1 has no ``format`` entry (covr_jax 0.1.0); format 2 calls two entries of the host loop's state by other names;
format 3 adds the manifest; format 4 counts skipped updates; format 5 stores a frame of the replay as a row of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

FORMAT = 5  # of the checkpoints that this version writes; it reads all formats up to this one
FIRST_VERSION = "0.1.0"  # it did not name itself
FIRST_WITH_MANIFEST = 3

Shape = tuple[int, ...]


class Before(NamedTuple):
    """How the arrays of a checkpoint differ from those of today.

    Attributes:
      lacking: names of arrays that it does not hold.
      shapes: the shapes in which it holds arrays, by name, from those of today; the elements are in the same order.
    """

    lacking: frozenset[str] = frozenset()
    shapes: Mapping[str, Callable[[Shape], Shape]] = MappingProxyType({})


AS_TODAY = Before()


class History(NamedTuple):
    """What formats changed about the arrays of a state, by format. Names are as ``jax.tree_util.keystr`` gives them.

    Attributes:
      added: arrays that a format added; a checkpoint of an earlier one leaves them at 0.
      reshaped: arrays that have another shape since a format, with the shape before from that of today.
    """

    added: Mapping[int, Sequence[str]] = MappingProxyType({})
    reshaped: Mapping[int, Mapping[str, Callable[[Shape], Shape]]] = MappingProxyType({})

    def before(self, version: int) -> Before:
        """How the arrays of a checkpoint of a format differ from those of today."""
        lacking = {name for later, names in self.added.items() if later > version for name in names}
        shapes: dict[str, Callable[[Shape], Shape]] = {}
        for later in sorted(self.reshaped, reverse=True):  # the first change after a format knows what was before it
            if later > version:
                shapes |= self.reshaped[later]
        return Before(frozenset(lacking), shapes)


UNCHANGED = History()
