"""From a command line to a Config; one line and exit code 2 for anything that cannot be used."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NoReturn

import tyro

from covr_jax import presets
from covr_jax.config import Config, ConfigError
from covr_jax.types import EnvironmentLost

USAGE_ERROR = 2
UNAVAILABLE = 69  # sysexits.h: a service that the run needs is gone


def fail(message: object, code: int = USAGE_ERROR) -> NoReturn:
    """Print one line to standard error and leave with the exit code."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


def split_option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of ``--name value`` or ``--name=value`` and the arguments without it."""
    rest, value, waiting = [], None, False
    for argument in arguments:
        if waiting:
            value, waiting = argument, False
        elif argument == f"--{name}":
            waiting = True
        elif argument.startswith(f"--{name}="):
            value = argument.split("=", 1)[1]
        else:
            rest.append(argument)
    if waiting:
        fail(f"--{name} needs a value")
    return value, rest


def parse_config(arguments: Sequence[str], prog: str, description: str) -> Config:
    """Config from ``--preset P --method M --base B``, overridden by any ``--group.leaf value``.

    ``--vlm X`` means ``--vlm.name X``, ``--endpoint X`` ``--carla.endpoint X``.
    """
    preset, rest = split_option(arguments, "preset")
    for short, full in (("vlm", "vlm.name"), ("endpoint", "carla.endpoint")):
        value, rest = split_option(rest, short)
        rest += [f"--{full}", value] if value is not None else []
    method, rest = split_option(rest, "method")
    base, rest = split_option(rest, "base")
    try:
        default = presets.make(preset or "paper", method or "covr", base or "rad")
    except ConfigError as error:
        fail(error)
    if {"-h", "--help"} & set(rest):
        names = ",".join(presets.PRESETS)
        print(f"--preset {{{names}}}, --method and --base choose the defaults below; --vlm X is --vlm.name X,")
        print("--endpoint X is --carla.endpoint X\n")
        return tyro.cli(Config, prog=prog, description=description, default=default, args=["--help"])
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(Config, prog=prog, description=description, default=default, args=rest)
    except SystemExit:
        fail(_message(complaint.getvalue()) + f"; see {prog} --help")


def _message(box: str) -> str:
    """The words inside tyro's frame up to its first rule, and the option it guesses was meant."""
    rows = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = [list(group) for rule, group in groupby(rows, key=lambda row: not row.strip("─-")) if not rule]
    if "│" not in box:  # a terminal without such characters gets no frame, and the title as a part of its own
        parts = parts[1:]
    if not parts:
        return "unusable options"
    guess = f"; perhaps {parts[1][1].split()[0]}" if parts[1:] and parts[1][0].startswith("Perhaps you meant") else ""
    return " ".join(parts[0]).rstrip(".") + guess


def import_quietly() -> None:
    """Import MJX without its note that an optional backend is missing."""
    with contextlib.redirect_stdout(io.StringIO()):
        import mujoco.mjx  # noqa: F401


def guarded(main: Callable[[], int | None], *expected: type[BaseException]) -> NoReturn:
    """Run ``main``; errors a user can act on become one line and exit code 2, a lost world outside exit code 69."""
    try:
        raise SystemExit(main() or 0)
    except expected as error:
        fail(error)
    except EnvironmentLost as error:
        fail(f"{error}; the same command goes on from the last checkpoint", UNAVAILABLE)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
