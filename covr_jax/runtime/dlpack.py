"""JAX <-> Torch in one process: the only place where a buffer crosses, and the rules of who owns it.

Going to Torch the buffer is lent: the tensor is a view for reading, and while it lives JAX cannot donate the buffer (it
silently copies instead), so drop the view before the next donating call. Going to JAX the data are copied: the array
owns its memory whatever happens to the tensor. Torch is imported only when something crosses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core

if TYPE_CHECKING:
    import torch

# With 64-bit types off, JAX would narrow these without a word.
_NARROWED = ("int64", "float64", "complex128", "uint64")


def to_torch(array: jax.Array | np.ndarray, device: Any = None) -> torch.Tensor:
    """Lends an array to Torch; the caller must not write into the tensor (it would change the immutable array).

    Args:
      array: a concrete jax.Array on a CPU or CUDA device that Torch has too (lent without a copy), on another or spread
        over devices (copied through the host), or a numpy array (copied).
      device: torch device the tensor is wanted on; None leaves it where the data are.

    Raises:
      TypeError: for tracers, typed PRNG keys and anything that is no array.
    """
    import torch

    if isinstance(array, np.ndarray):
        # A copy: numpy memory may be read-only or reused by its owner.
        tensor = torch.from_numpy(np.array(array, copy=True, order="C"))
    elif isinstance(array, core.Tracer) or not isinstance(array, jax.Array):
        raise TypeError(f"only concrete arrays can be handed to Torch, got {type(array).__name__}")
    elif jnp.issubdtype(array.dtype, jax.dtypes.extended):
        raise TypeError("typed PRNG keys cannot be handed to Torch; use jax.random.key_data")
    else:
        # Torch does not wait for JAX's asynchronous dispatch on its own.
        jax.block_until_ready(array)
        lent = ("cpu", "gpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        if len(array.devices()) == 1 and next(iter(array.devices())).platform in lent:
            tensor = torch.from_dlpack(array)
        else:
            tensor = torch.from_numpy(np.array(array, copy=True))
    return tensor if device is None else tensor.to(device)


def to_jax(tensor: torch.Tensor) -> jax.Array:
    """Copies a tensor into an array that owns its memory: later writes to the tensor are not seen.

    Gradients are cut, strides are made regular, and CUDA tensors come to the host where JAX has no CUDA device.

    Raises:
      TypeError: for 64-bit types while JAX runs without them (cast first), and for anything that is no tensor.
    """
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"expected a torch.Tensor, got {type(tensor).__name__}")
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _NARROWED and not jax.config.read("jax_enable_x64"):
        raise TypeError(f"{name} would be narrowed silently: cast the tensor before handing it to JAX")
    tensor = tensor.detach()
    if tensor.is_cuda:
        if any(d.platform in ("gpu", "cuda") for d in jax.devices()):
            torch.cuda.current_stream(tensor.device).synchronize()
        else:
            tensor = tensor.cpu()
    alias = jnp.from_dlpack(tensor.contiguous())
    # from_dlpack(copy=True) still aliases on CPU, so the copy is made by a second array; wait before the source may go.
    return jax.block_until_ready(jnp.array(alias, copy=True))
