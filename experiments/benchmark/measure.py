"""What every benchmark shares: timing by medians, and what a number needs beside it to mean anything later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covr_jax.io.files import to_json
from covr_jax.io.provenance import commit

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "mujoco",
    "mujoco-mjx",
    "warp-lang",
    "dm_control",
    "torch",
    "transformers",
    "carla",
    "ray",
)

_COMMIT = commit() or "unknown"  # before this process writes results, which are tracked files too


def median_rate(work: Callable[[], Any], amount: float, *, seconds: float = 1.0, repeats: int = 5) -> float:
    """Median of ``amount`` per second over ``repeats`` blocks of about ``seconds`` each.

    ``work`` must wait for its result and has run before.
    """
    started = time.perf_counter()
    work()
    calls = max(1, round(seconds / max(time.perf_counter() - started, 1e-9)))
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        rates.append(calls * amount / (time.perf_counter() - started))
    return statistics.median(rates)


def identity() -> dict[str, Any]:
    """Command, commit, versions and hardware of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(["python", *sys.argv]),
        "commit": _COMMIT,
        "python": platform.python_version(),
        "versions": versions,
        "hardware": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]} | _accelerator(),
    }


def _accelerator() -> dict[str, str]:
    """The device that JAX computes on in this process, where it is not the processor."""
    jax = sys.modules.get("jax")
    if jax is None or jax.default_backend() == "cpu":
        return {}
    return {"accelerator": jax.devices()[0].device_kind}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def write(path: Path, rows: list[dict[str, Any]], **more: Any) -> None:
    """One JSON file: identity and rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(identity() | more | {"rows": rows}, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text."""
    names = list(rows[0])
    cells = [names] + [[_shown(row[name]) for name in names] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and value < 100
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )
