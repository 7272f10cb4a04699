"""How much memory is free, asked before the replay takes its share, and a refusal while there is still time."""

from __future__ import annotations

from pathlib import Path

import jax

from covr_jax.config import ConfigError, Storage

_SHARE = 0.8  # of what is free: networks, gradients and compiled programs need the rest
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
