"""How much memory is free, asked before a run takes its share, and a refusal while there is still time."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from covr_jax.config import ConfigError, Storage

_SHARE = 0.8  # of what is free: networks, gradients and compiled programs need the rest
# What the options of ``Need`` are in the paper's runs: the one that is the most times larger is to be lowered.
_USUAL = {
    "--sac.hidden-dim": 1024,
    "--sac.feature-dim": 50,
    "--sac.num-filters": 32,
    "--sac.conv-filters": 32,
    "--sac.batch-size": 128,
    "--env.image-size": 100,
    "--env.frame-stack": 3,
    "--env.num-envs": 16,
    "--eval.episodes": 10,
}
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_bytes(storage: Storage) -> int | None:
    """Bytes that can still be allocated where ``storage`` keeps frames; None where nobody says.

    On an accelerator that is the allocator's limit less what it holds. The host's, which is also the CPU backend's, is
    what Linux calls available, within the control group's limit.
    """
    if storage == "device" and jax.default_backend() != "cpu":
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    return min((n for n in (_available(), _left_in_group()) if n is not None), default=None)


def give_back() -> None:
    """Gives what is free within the process back to the system, which `backend.configure` keeps glibc from doing.

    For moments after which less is needed than before: a large array finds no room where a larger one was if a small
    one has come in between.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _available() -> int | None:
    lines = _MEMINFO.read_text().splitlines() if _MEMINFO.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_group() -> int | None:
    """What the control group (a container, a batch job) may still take, its page cache counted as free."""
    files = [_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat")]
    if not all(file.exists() for file in files):
        return None
    limit, current, stat = (file.read_text() for file in files)
    if limit.strip() == "max":
        return None
    counts = dict(line.split() for line in stat.splitlines())
    return int(limit) - int(current) + int(counts["inactive_file"]) + int(counts["active_file"])


def check_replay(needed: int, capacity: int, storage: Storage) -> None:
    """Refuse a replay that does not fit.

    Args:
      needed: its predicted bytes.
      capacity: the transitions asked for.
      storage: where it keeps frames.

    Raises:
      ConfigError: more than 80 % of the free memory, or a storage that this backend has not.
    """
    device = jax.local_devices()[0]
    if storage == "host" and "pinned_host" not in {memory.kind for memory in device.addressable_memories()}:
        raise ConfigError(f"--replay.storage host: {device.platform} offers no pinned_host memory; use device")
    free = free_bytes(storage)
    if free is None or needed <= _SHARE * free:
        return
    elsewhere = " or use --replay.storage host" if storage == "device" and jax.default_backend() != "cpu" else ""
    raise ConfigError(
        f"the replay needs {needed / 1e9:.2f} GB of {storage} memory and may take {_SHARE:.0%} of the"
        f" {free / 1e9:.2f} GB that are free; lower --replay.capacity to {int(capacity * _SHARE * free / needed):,}"
        f" or less{elsewhere}"
    )


class Need(NamedTuple):
    """Memory that a part of a run will take.

    Attributes:
      what: the part, to begin a message; a plural.
      nbytes: predicted bytes.
      options: name and value of the options that it grows with.
    """

    what: str
    nbytes: int
    options: dict[str, int]


def check_needs(needs: Sequence[Need], replay_bytes: int = 0, storage: Storage = "device") -> None:
    """Refuses networks, batches and environments that do not fit on the device beside the replay.

    Args:
      needs: all parts but the replay.
      replay_bytes: predicted bytes of the replay; 0 where it is there already, or checked by itself.
      storage: where the replay keeps its frames.

    Raises:
      ConfigError: they need more than 80 % of the free memory, or more than the replay leaves of it. The message names
        an option of the largest part.
    """
    free = free_bytes("device")
    shared = storage == "device" or jax.default_backend() == "cpu"
    needed, left = sum(need.nbytes for need in needs), (free or 0) - (replay_bytes if shared else 0)
    if free is None or needed <= min(_SHARE * free, left):
        return
    largest = max(needs, key=lambda need: need.nbytes)
    option, value = max(largest.options.items(), key=lambda item: item[1] / _USUAL[item[0]])
    beside = f" beside the replay's {replay_bytes / 1e9:.2f} GB" if shared and replay_bytes else ""
    raise ConfigError(
        f"{largest.what} need {largest.nbytes / 1e9:,.2f} GB of memory{beside}, and {free / 1e9:.2f} GB are free;"
        f" lower {option}, now {value:,}"
    )
