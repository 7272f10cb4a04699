"""What MuJoCo's parts on NVIDIA Warp need: the renderer and the physics."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable

import jax

MIN_MJX_VERSION = (3, 12)  # before, images could be drawn before the poses arrived: google-deepmind/mujoco issue 3435


class WarpError(RuntimeError):
    """Warp cannot be used here. The message is one line with a remedy."""


def open_warp() -> str:
    """Makes Warp ready to be called from JAX's programs, without a log line per kernel.

    Returns:
      Warp's name of JAX's first device.

    Raises:
      WarpError: Warp is missing or has the wrong version, or the device is neither an NVIDIA GPU nor a CPU.
    """
    check_warp()
    name = _device_name()
    warp = importlib.import_module("warp")  # pyright resolves `import warp` to the renderer's file
    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)
    return name


def check_warp(
    version: Callable[[str], str] = importlib.metadata.version,
    requires: Callable[[str], list[str] | None] = importlib.metadata.requires,
) -> None:
    """Raises WarpError unless mujoco-mjx is free of the race and warp-lang is the version it was made for."""
    mjx_version = version("mujoco-mjx")
    if tuple(int(part) for part in mjx_version.split(".")[:2]) < MIN_MJX_VERSION:
        raise WarpError(f"mujoco-mjx {mjx_version} may draw poses of the step before; pip install mujoco-mjx==3.17.0")
    pins = re.findall(r"^warp-lang==([\w.]+)", "\n".join(requires("mujoco-mjx") or []), flags=re.MULTILINE)
    remedy = f"pip install warp-lang=={pins[0]}" if pins else "pip install warp-lang"
    try:
        found = version("warp-lang")
    except importlib.metadata.PackageNotFoundError as error:
        raise WarpError(f"warp-lang is not installed; {remedy}") from error
    if pins and found != pins[0]:
        raise WarpError(f"mujoco-mjx {mjx_version} goes with warp-lang {pins[0]}, not {found}; {remedy}")


def _device_name() -> str:
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "cpu"
    if "cuda" in device.client.platform_version.lower():
        return f"cuda:{device.local_hardware_id}"
    raise WarpError(f"it runs on CPUs and on NVIDIA GPUs, not on {device.device_kind}")
