"""Networks as (init, apply) pairs; no other package imports flax.linen."""

from covr_jax.agents.networks.layers import Network, Params, Precision, delta_orthogonal
from covr_jax.agents.networks.sac import Networks, init_networks, make_networks

__all__ = ["Network", "Networks", "Params", "Precision", "delta_orthogonal", "init_networks", "make_networks"]
