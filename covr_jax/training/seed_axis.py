"""Records of several seeds as one: every array has a leading axis of seeds, split over the devices. S seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from covr_jax import runtime
from covr_jax.runtime.rng import stream

AXIS = "seed"


def devices_for(seeds: int, devices: int) -> int:
    """Returns how many of the devices seeds are split over: the most that take the same number of seeds each."""
    return max(count for count in range(1, devices + 1) if seeds % count == 0)


class SeedAxis:
    """The leading axis of S seeds.

    No number of one seed depends on another seed, so that devices exchange nothing: ``split`` is ``jax.shard_map``.

    Attributes:
      seeds: S.
      local: seeds of a device.
      mesh: the devices, if the seeds are split over several.
    """

    def __init__(self, seeds: int):
        devices = runtime.devices()
        count = devices_for(seeds, len(devices))
        self.seeds, self.local = seeds, seeds // count
        self.mesh: Mesh | None = None
        if count > 1:
            self.mesh = jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=devices[:count])
        self._put = runtime.jit(self._sharded(self._put_local, PartitionSpec()), donate_argnums=0)
        self._cut = runtime.jit(lambda tree, index: jax.tree.map(lambda x: x[index], tree))

    def _sharded(self, function: Callable[..., Any], rest: PartitionSpec) -> Callable[..., Any]:
        """Runs a function on every device's part of its first argument; the others are split as ``rest`` says."""
        if self.mesh is None:
            return function

        def called(first: Any, *others: Any) -> Any:
            specs = (PartitionSpec(AXIS), *[rest] * len(others))
            split = jax.shard_map(
                function, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
            )
            return split(first, *others)

        return called

    def split(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function of the arrays of ``local`` seeds one of all seeds' arrays."""
        return self._sharded(function, PartitionSpec(AXIS))

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function of one seed's arrays one of all seeds' arrays."""
        return self.split(jax.vmap(function))

    def place(self, tree: Any) -> Any:
        """Puts arrays with a leading axis S where they belong."""
        return tree if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def keys(self, seeds: Sequence[int], purpose: int) -> Key[Array, " S"]:
        """Returns the root key of a purpose (``runtime.rng.stream``) of every seed."""
        return self.place(jnp.stack([stream(seed, purpose) for seed in seeds]))

    def cut(self, tree: Any, index: int) -> Any:
        """Returns a copy of one seed's arrays, on the device that holds them.

        Args:
          tree: arrays with a leading axis S.
          index: of the seed on that axis.
        """
        if self.mesh is None:
            return self._cut(tree, index)
        device, position = divmod(index, self.local)

        def held(leaf: Array) -> Array:
            shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
            return shards[device].data

        return self._cut(jax.tree.map(held, tree), position)

    def cut_anywhere(self, tree: Any, index: int) -> Any:
        """As ``cut``, for programs of one seed, which expect their arguments on the first device; not for keys."""
        one = self.cut(tree, index)
        return one if self.mesh is None else jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), one)

    def put(self, tree: Any, one: Any, index: int) -> Any:
        """Returns the arrays with one seed's replaced; ``tree`` is donated.

        Args:
          tree: arrays with a leading axis S.
          one: the seed's arrays.
          index: of the seed on that axis.
        """
        if self.mesh is not None:
            one = jax.device_put(one, NamedSharding(self.mesh, PartitionSpec()))
        return self._put(tree, one, jnp.int32(index))

    def _put_local(self, tree: Any, one: Any, index: Array) -> Any:
        first = 0 if self.mesh is None else lax.axis_index(AXIS) * self.local
        inside = (index >= first) & (index < first + self.local)
        position = jnp.where(inside, index - first, self.local)  # beyond the end: written nowhere
        return jax.tree.map(lambda stacked, leaf: stacked.at[position].set(leaf, mode="drop"), tree, one)
