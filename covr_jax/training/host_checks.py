"""What processes that train one run together must agree on: each of these functions is called by all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from covr_jax import config as configuration
from covr_jax import runtime
from covr_jax.config import WITH_VLM, Config, ConfigError
from covr_jax.io.checkpoint import Checkpointer
from covr_jax.runtime import hosts


def check_hosts(config: Config) -> None:
    """Refuses what several processes cannot train together.

    Args:
      config: resolved.

    Raises:
      ConfigError: ``run.devices`` are not those of all processes, or a method or an option that one process decides on.
    """
    if not hosts.several():
        return
    together, instead = len(runtime.devices()), "leave --hosts out"
    if config.run.devices != together:
        raise ConfigError(f"--hosts: {hosts.count()} processes have {together} devices; give --devices {together}")
    if config.method in WITH_VLM:
        raise ConfigError(f"--hosts trains methods without a VLM, and {config.method} has one; {instead}")
    if config.replay.sampling == "elite":
        raise ConfigError(f"--replay.sampling elite chooses samples on one host; {instead}")
    if config.replay.demonstrations is not None:
        raise ConfigError(f"--hosts takes no --demonstrations; {instead}")


def check_alike(config: Config) -> None:
    """Raises ConfigError where processes that train one run were started with different options."""
    digests = hosts.every(hashlib.sha256(json.dumps(configuration.to_dict(config)).encode()).hexdigest())
    if other := [index for index, digest in enumerate(digests) if digest != digests[0]]:
        raise ConfigError(f"process {other[0]} of --hosts has other options than the first; give all of them the same")


def clean_together(checkpointers: Sequence[Checkpointer]) -> None:
    """Has the first process clean the directories of checkpoints before any other looks into them.

    Raises:
      ConfigError: processes find different checkpoints.
    """
    for checkpointer in checkpointers if hosts.is_first() else ():
        checkpointer.clean()
    hosts.every()
    if len(set(hosts.every(str([checkpointer.steps()[-1:] for checkpointer in checkpointers])))) > 1:
        raise ConfigError("the processes of --hosts find different checkpoints; put --run-dir where all hosts see it")
