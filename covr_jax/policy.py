"""A trained policy as one file: all that acting needs, without Torch, VLM, MuJoCo or the run that made it.

The file is in the safetensors format. Its arrays are the parameters of convolutions and actor, named by their place,
such as ``torso/conv_0/kernel``; its metadata holds one JSON object under ``covr_jax``, see ``save_policy``, and the
SHA-256 of that and of all arrays.
Letters: B batch, H W image, C channels, A action.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from covr_jax import __version__, runtime
from covr_jax import config as configuration
from covr_jax.agents import make_learner, make_method
from covr_jax.checks import check_shape
from covr_jax.config import Config, ConfigError, required
from covr_jax.runtime import cpu_kernels
from covr_jax.runtime.errors import one_line

FILE = "policy.safetensors"  # its name in a directory
_FORMAT = 1
_PARTS = ("torso", "actor")  # of the learner's parameters
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class PolicyError(ValueError):
    """A policy file that cannot be read; the message is one line that says which and what to do."""


class SavedPolicy:
    """A policy that acts by its mode, as evaluations of its run do.

    Attributes:
      config: of its run.
      params: of its networks.
      action_dim: A.
      frames: of an observation; C = 3 x frames, the oldest first.
      about: what ``save_policy`` was told beside these.
    """

    def __init__(self, config: Config, params: dict[str, Any], action_dim: int, about: Mapping[str, Any]):
        """Creates a policy; it is compiled on the first call.

        Raises:
          ConfigError: no such method, or sizes that do not fit together.
          PolicyError: parameters of other networks.
        """
        size, sac = config.env.image_size, config.sac
        # The kind of augmentation is written out in the config of a run, so the task's has no say.
        method = make_method(configuration.agent(config), config.augment, size, "translate")
        learner = make_learner(action_dim, required(sac.learning_rate), method, sac)
        self.config, self.params, self.action_dim, self.about = config, params, action_dim, dict(about)
        self.frames, self._residual, self._size = config.env.frame_stack + method.history, method.residual, size
        self._learner, self._compiled = learner, runtime.jit(learner.mode)
        self._check_params()

    def _check_params(self) -> None:
        """Raises PolicyError where the parameters are not those of the networks that the config makes."""
        key, image, action = jax.eval_shape(jax.random.key, 0), self._images(1), self._actions(1)
        made = jax.eval_shape(self._learner.init, key, image, action).params
        wanted, found = ({name: leaf.shape for name, leaf in _by_place(tree).items()} for tree in (made, self.params))
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise PolicyError(
                    f"parameter {name} has shape {found.get(name)}, the config makes it {wanted.get(name)}"
                )

    def _images(self, batch: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, self._size, self._size, 3 * self.frames), jnp.uint8)

    def _actions(self, batch: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, self.action_dim), jnp.float32)

    def act(
        self,
        observation: UInt8[Array | np.ndarray, "*batch H W C"],
        previous_action: Float[Array | np.ndarray, "*batch A"] | None = None,
    ) -> Float[Array, "*batch A"]:
        """Returns actions in [-1, 1].

        Args:
          observation: one stack of frames or a batch of them.
          previous_action: what residual policies (``resact``) build on, 0 at the start of an episode; others ignore it.

        Raises:
          ValueError: another shape or dtype, or no previous action where one is read.
        """
        wanted = self._images(1).shape[1:]
        if observation.dtype != np.uint8 or observation.ndim not in (3, 4) or observation.shape[-3:] != wanted:
            raise ValueError(
                f"observation must be uint8 {list(wanted)} or a batch of such stacks, got {observation.dtype}"
                f" {list(observation.shape)}"
            )
        if self._residual and previous_action is None:
            raise ValueError("previous_action is needed: this policy changes it; give zeros at the start of an episode")
        if previous_action is not None:
            check_shape("previous_action", previous_action, (*observation.shape[:-3], self.action_dim))
        alone = observation.ndim == 3
        given = (observation, previous_action if self._residual else None)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[None] if alone else jnp.asarray(x), given)
        action = self._compiled(self.params, *batch)
        return action[0] if alone else action

    def export(self, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")) -> bytearray:
        """Returns the policy as StableHLO with its parameters inside, for any batch size.

        ``jax.export.deserialize(data).call(observation)`` acts; residual policies take the previous action too.

        Args:
          platforms: that it runs on.

        Raises:
          ImportError: the package flatbuffers is missing, which JAX writes programs with.
        """
        (batch,) = jax.export.symbolic_shape("b")
        shapes = (self._images(batch), *((self._actions(batch),) if self._residual else ()))
        with cpu_kernels.left_out():
            acts = jax.jit(lambda observation, previous=None: self._learner.mode(self.params, observation, previous))
            return jax.export.export(acts, platforms=platforms)(*shapes).serialize()


def save_policy(
    path: Path, config: Config, params: Mapping[str, Any], action_dim: int, about: Mapping[str, Any] | None = None
) -> None:
    """Writes a policy file.

    Args:
      path: of the file.
      config: of the run, resolved.
      params: of the learner's state; only those of acting are written.
      action_dim: A.
      about: JSON-able entries beside ``config``, ``action_dim``, ``format`` and the version of this package.

    Raises:
      OSError: the disk refused.
    """
    arrays = {name: np.array(value) for name, value in _by_place(params).items()}
    entries = {"about": dict(about or {}), "config": configuration.to_dict(config), "action_dim": action_dim}
    told = json.dumps(entries | {"format": _FORMAT, "covr_jax_version": __version__})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file(arrays, temporary, {"covr_jax": told, "sha256": _digest(told, arrays)})
    os.replace(temporary, path)


def _digest(told: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a text and of arrays by their names."""
    found = hashlib.sha256(told.encode())
    for name in sorted(arrays):
        found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def load_policy(path: str | Path) -> SavedPolicy:
    """Reads a policy file.

    Args:
      path: of the file, or of a directory that holds ``policy.safetensors``; or ``owner/name`` of a repository on the
        Hugging Face Hub that does, where there is no such file here.

    Raises:
      PolicyError: there is none, or it cannot be used.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.exists() and _HUB_ID.fullmatch(str(path)):
        file = _downloaded(str(path))
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata, names = opened.metadata() or {}, opened.keys()
            arrays = {name: opened.get_tensor(name) for name in names}
        told = json.loads(metadata["covr_jax"])
        if metadata["sha256"] != _digest(metadata["covr_jax"], arrays):
            raise ValueError("its content is not what was written")
        version, writer = int(told["format"]), told["covr_jax_version"]
    except FileNotFoundError:
        raise PolicyError(f"no policy {file}; covr-export (experiments/export.py) writes one from a run") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise PolicyError(f"{file} is no policy of covr_jax or is damaged: {one_line(error)}") from error
    if version > _FORMAT:
        raise PolicyError(f"{file} was written by covr_jax {writer}; install that version or a later one")
    try:
        config = configuration.from_dict(told["config"])
        params = jax.tree.map(jnp.asarray, flax.traverse_util.unflatten_dict(arrays, sep="/"))
        return SavedPolicy(config, params, told["action_dim"], told["about"])
    except (ConfigError, PolicyError, KeyError) as error:
        raise PolicyError(f"{file} cannot be used: {one_line(error)}") from error


def _downloaded(name: str) -> Path:
    """The policy file of a repository, kept in the Hub's own cache."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise PolicyError(
            f"no policy {name} here, and huggingface_hub, which would look on the Hub, is missing"
        ) from None
    try:
        return Path(hf_hub_download(name, FILE))
    except (OSError, ValueError) as error:  # what the Hub's client raises
        raise PolicyError(f"no policy {name}, neither a file nor on the Hub: {one_line(error)}") from error


def _by_place(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of acting by their place in the tree."""
    return flax.traverse_util.flatten_dict({name: params[name] for name in _PARTS}, sep="/")
