"""Command lines of the scripts: parsing to a ``Config``, and errors as one line with an exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, NoReturn

import tyro

from covr_jax import presets
from covr_jax.commands.config_file import read_config_file
from covr_jax.commands.exit_codes import DIVERGED, PREEMPTED, UNAVAILABLE, USAGE_ERROR
from covr_jax.config import CarlaConfig, Config, ConfigError, from_dict, is_whole, value_or, with_options
from covr_jax.config.validate import validate
from covr_jax.io.checkpoint import BEST
from covr_jax.runtime.ahead import compiling
from covr_jax.runtime.errors import one_line
from covr_jax.types import Diverged, EnvironmentLost, HostLost, Preempted

_SHORT = {  # names without a group
    "vlm": "vlm.name",
    "endpoint": "carla.endpoint",
    "devices": "run.devices",
    "num-seeds": "run.num-seeds",
    "demonstrations": "replay.demonstrations",
}
_CHOICES = {"preset": "paper", "method": "covr", "base": "rad", "task": Config.task}  # of the defaults, as presets.make


def fail(message: object, code: int = USAGE_ERROR) -> NoReturn:
    """Prints one line to standard error and exits with a code."""
    say(f"error: {' '.join(str(message).split())}")
    raise SystemExit(code)


def say(line: str) -> None:
    """Prints a line to standard error; a full disk, on which logs may be too, does not change the exit code."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, line + "\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # the interpreter tries again when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def leave(code: int) -> NoReturn:
    """Exits with a code, even where the compiler is still at work, for which Python would wait."""
    if compiling():
        os._exit(code)
    raise SystemExit(code) from None


def safe_output() -> None:
    """Lets a terminal or file that lacks a character show its code instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_device() -> None:
    """Wakes JAX's device; exits with one line where there is none."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        fail(
            f"JAX finds no device{f' for JAX_PLATFORMS={wanted}' if wanted else ''}: {one_line(error)}; unset"
            " JAX_PLATFORMS, or install JAX's build for the device"
        )


def split_option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Returns the value of ``--name value`` or ``--name=value`` (None without it) and the other arguments.

    An option without a value, or that is given twice, ends the process with one line and ``USAGE_ERROR``.
    """
    rest, values, left = [], [], iter(arguments)
    for argument in left:
        if argument == f"--{name}":
            values.append(next(left, ""))
        elif argument.startswith(f"--{name}="):
            values.append(argument.split("=", 1)[1])
        else:
            rest.append(argument)
    if any(not value.strip() or value.startswith("--") for value in values):
        fail(f"--{name} needs a value")
    if len(values) > 1:
        fail(f"--{name} is given {len(values)} times: {', '.join(values)}")
    return (values[0] if values else None), rest


def option_name(argument: str) -> str:
    """Returns the option that an argument names: ``--run.video`` for ``--run.no_video`` and for ``--run.video=1``."""
    return argument.split("=", 1)[0].replace("_", "-").replace(".no-", ".")


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--checkpoint``, which of a run's checkpoints is meant: its env steps, or ``best``."""

    def checkpoint(text: str) -> int | str:
        return text if text == BEST else int(text)

    shown = "env steps of a checkpoint, or best: that of the best evaluation; default: the newest"
    parser.add_argument("--checkpoint", type=checkpoint, default=None, help=shown)


def without(arguments: Sequence[str], names: Iterable[str]) -> list[str]:
    """Returns the arguments but for some options and their values.

    Args:
      arguments: options, each followed by its values.
      names: as ``option_name`` returns them.
    """
    dropped, kept, dropping = set(names), [], False
    for argument in arguments:
        if argument.startswith("--"):
            dropping = option_name(argument) in dropped
        if not dropping:
            kept.append(argument)
    return kept


def refuse_repeated(arguments: Sequence[str]) -> None:
    """Ends the process with one line where an option is given twice; the parser would take the last one."""
    counts = Counter(option_name(argument) for argument in arguments if argument.startswith("--"))
    for name, count in counts.items():
        if count > 1:
            fail(f"{name} is given {count} times")


def parse_config(arguments: Sequence[str], prog: str, description: str) -> Config:
    """Returns the preset of ``--preset P --method M --base B --task T`` with every ``--group.option value`` applied.

    The preset reads ``--carla.profile`` too. ``--vlm X`` is short for ``--vlm.name X``, ``--endpoint X`` for
    ``--carla.endpoint X``, ``--devices N`` for ``--run.devices N``, ``--num-seeds N`` for ``--run.num-seeds N``,
    ``--demonstrations X`` for ``--replay.demonstrations X``, ``--log X Y`` for ``--run.log X Y``. ``--config FILE``
    stands for the options of a file, which others on the command line change. Arguments that cannot be parsed, and
    values out of range, end the process with one line and ``USAGE_ERROR``.

    Args:
      arguments: without the program's name.
      prog: name of the program in messages.
      description: text of ``--help``.
    """
    file, rest = split_option(arguments, "config")
    rest = ["--run.log" if argument == "--log" else argument for argument in rest]  # of several values
    for short, full in _SHORT.items():
        value, rest = split_option(rest, short)
        rest += [f"--{full}={value}"] if value is not None else []
    chosen = {}
    for name in _CHOICES:
        chosen[name], rest = split_option(rest, name)
    profile, _ = split_option(rest, "carla.profile")
    refuse_repeated(rest)
    try:
        default = _defaults(chosen, profile, file)
    except ConfigError as error:
        fail(error)
    if {"-h", "--help"} & set(rest):
        names = ",".join(presets.PRESETS)
        print(f"--preset {{{names}}}, --method, --base and --task choose the defaults below, and --config FILE (YAML")
        print("or JSON) changes them; --vlm X is --vlm.name X, --endpoint X is --carla.endpoint X,")
        print("--devices N is --run.devices N, --num-seeds N is --run.num-seeds N,")
        print("--demonstrations X is --replay.demonstrations X, --log X is --run.log X\n")
        return tyro.cli(Config, prog=prog, description=description, default=default, args=["--help"])
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            config = tyro.cli(Config, prog=prog, description=description, default=default, args=rest)
        validate(config)
    except SystemExit:
        fail(_message(output.getvalue()) + f"; see {prog} --help")
    except ConfigError as error:
        fail(error)
    return config


def _defaults(chosen: dict[str, str | None], profile: str | None, file: str | None) -> Config:
    """The values of the options that the command line does not name.

    Args:
      chosen: what it says of ``_CHOICES``.
      profile: what it says of ``--carla.profile``.
      file: options on top of the preset; or a whole config, as a run's config.json, in place of one.

    Raises:
      ConfigError: a choice that does not exist, or a file that cannot be used.
    """
    values = read_config_file(file) if file else {}
    if is_whole(values):
        if beside := next((name for name, value in chosen.items() if value is not None), None):
            raise ConfigError(f"{file} is a whole config, whose options --{beside} would not change; change it there")
        return from_dict(values, str(file))
    preset, method, base, task = (
        value_or(chosen[name], str(values.get(name, default))) for name, default in _CHOICES.items()
    )
    told = values.get("carla", {}) if isinstance(values.get("carla"), dict) else {}
    config = presets.make(preset, method, base, task, value_or(profile, str(told.get("profile", CarlaConfig.profile))))
    return with_options(config, {name: value for name, value in values.items() if name not in _CHOICES}, str(file))


def _message(box: str) -> str:
    """Returns tyro's error message as one line: the text in its box up to the first rule, and its suggested option.

    tyro 1.0 prints a box or, with ``console_outputs=False``, nothing at all. Its hook for errors
    (``tyro._errors.on_parse_error``) is private, may change in any release, and does not carry the suggestion.
    """
    rows = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = [list(group) for rule, group in groupby(rows, key=lambda row: not row.strip("─-")) if not rule]
    if "│" not in box:  # where the terminal has no such characters, there is no box and the title is the first part
        parts = parts[1:]
    if not parts:
        return "unusable options"
    guess = f"; perhaps {parts[1][1].split()[0]}" if parts[1:] and parts[1][0].startswith("Perhaps you meant") else ""
    return " ".join(parts[0]).rstrip(".") + guess


def uses_warp(recorded: dict[str, Any], *named: str | None) -> bool:
    """Whether a run needs Warp.

    Args:
      recorded: options of its run directory, empty if there is none.
      named: renderers and physics that the command names.
    """
    env = recorded.get("env")
    return "warp" in (*named, recorded.get("renderer"), env.get("physics") if isinstance(env, dict) else None)


def import_quietly(*, warp: bool = True) -> None:
    """Imports MJX without its notes that optional backends are missing, and XLA, which is to keep its own.

    XLA warns of each buffer of an update that it cannot cut up (``runtime.jit``, ``often``), which changes nothing.

    Args:
      warp: False where Warp is not used: importing it takes longer than all else that training imports.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # what JAX itself leaves to child processes
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors alone; read when jaxlib is loaded
    found = sys.modules.get("warp")
    if not (warp or found):
        sys.modules["warp"] = None  # pyright: ignore[reportArgumentType]  # an import of it fails
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import mujoco.mjx  # noqa: F401
    finally:
        if not (warp or found):
            del sys.modules["warp"]


def guarded(main: Callable[[], int | None], *expected: type[BaseException]) -> NoReturn:
    """Runs ``main`` and exits with its code.

    Args:
      main: returns an exit code; None is 0.
      *expected: errors that a user can act on; one line and ``USAGE_ERROR``. ``EnvironmentLost`` gives one line and
        ``UNAVAILABLE``, ``Diverged`` gives one and ``DIVERGED``, ``Preempted`` one and ``PREEMPTED``. What the
        operating system refuses, such as space on a disk, is one line too.
    """
    safe_output()
    try:
        raise SystemExit(main() or 0)
    except expected as error:
        fail(error)
    except EnvironmentLost as error:
        fail(f"{error}; the same command goes on from the last checkpoint", UNAVAILABLE)
    except HostLost as error:
        fail(f"{error}; the same command, on fewer hosts too, goes on from the last checkpoint", UNAVAILABLE)
    except Preempted as error:
        say(f"{error}; the same command goes on from there")
        leave(PREEMPTED)
    except Diverged as error:
        fail(f"{error}; a lower --sac.learning-rate may help, in another --run-dir", DIVERGED)
    except OSError as error:
        if error.errno is None:
            raise
        where = f" {error.filename}" if error.filename else ""
        fail(f"cannot read or write{where}: {os.strerror(error.errno)}; mend that and run the same command again")
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the last checkpoint")
        raise SystemExit(130) from None
