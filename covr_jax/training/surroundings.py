"""What a run's numbers depend on beside its options, recorded with every checkpoint and compared on resuming."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import jax

from covr_jax import __version__
from covr_jax.agents.networks.convolution import has_kernel
from covr_jax.config import WITH_VLM, Config
from covr_jax.io.provenance import commit

_VLM_PACKAGES = ("torch", "transformers", "peft")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "mujoco", "mujoco-mjx", "numpy")


def surroundings() -> dict[str, Any]:
    """Processors, devices, settings, versions and code that decide how sums are rounded; JSON-able."""
    settings: Any = jax.config
    return {
        "processors": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "native_kernel": has_kernel(),
        "x64": bool(settings.jax_enable_x64),
        "matmul_precision": settings.jax_default_matmul_precision,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "covr_jax": __version__,
        "commit": commit(),
    } | {name: importlib.metadata.version(name) for name in _PACKAGES}


def provenance(config: Config) -> dict[str, Any]:
    """What made a run beside its options: ``surroundings``, Python, and the packages of the VLM if there is one."""
    asked = _VLM_PACKAGES if config.method in WITH_VLM else ()
    return surroundings() | {"python": platform.python_version()} | {name: _version(name) for name in asked}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, as ``name before -> now``, by name; what only one of the two has recorded is left out."""
    both = sorted(set(before) & set(now))
    return [f"{name} {before[name]} -> {now[name]}" for name in both if before[name] != now[name]]
