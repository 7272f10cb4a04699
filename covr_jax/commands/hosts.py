"""Options of a process that trains one run together with others; they are no part of the run's config."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from covr_jax.commands.cli import fail, split_option


class HostOptions(NamedTuple):
    """Where the processes of a run meet, as ``runtime.hosts.joined`` takes it."""

    address: str | None  # host:port of the first process; "auto"; None for a run of one process
    number: int | None  # of processes; None where the environment says it
    index: int | None  # of this process, from 0; None where the environment says it


def split_hosts(arguments: Sequence[str]) -> tuple[HostOptions, list[str]]:
    """Returns the values of ``--hosts``, ``--num-hosts`` and ``--host-index`` and the other arguments.

    Options that do not go together end the process with one line and ``USAGE_ERROR``.
    """
    address, rest = split_option(arguments, "hosts")
    values = []
    for name in ("num-hosts", "host-index"):
        value, rest = split_option(rest, name)
        if value is not None and not value.isdecimal():
            fail(f"--{name} must be a whole number, got {value}")
        values.append(None if value is None else int(value))
    number, index = values
    if address in (None, "auto"):
        if values != [None, None]:
            fail("--num-hosts and --host-index go with --hosts HOST:PORT, the address of the first process")
    elif not re.fullmatch(r".+:\d+", address):
        fail(f"--hosts must be auto or HOST:PORT, the address of the first process, got {address}")
    elif number is None or index is None or not index < number:
        fail(f"--hosts {address} needs --num-hosts N and --host-index I, from 0 to N - 1")
    return HostOptions(address, number, index), rest
