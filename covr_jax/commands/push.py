"""Shares a run's policy on the Hugging Face Hub: the policy's file, the VLM's adapter and a card.

    python experiments/push.py runs/cartpole_swingup/covr/seed1 owner/name
    python experiments/push.py runs/cartpole_swingup/covr/seed1 owner/name --checkpoint best --private

`covr_jax.load_policy("owner/name")` acts with it. Only safetensors, JSON and the card are uploaded. The token is the
one of `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal, NoReturn

from covr_jax import __version__
from covr_jax.commands import cli
from covr_jax.config import ConfigError
from covr_jax.report.data import read_config
from covr_jax.runtime.errors import one_line

SHARED = (".safetensors", ".json")  # suffixes of an adapter's files; nothing that runs code when it is loaded


def parse() -> argparse.Namespace:
    """Parses the command line; what cannot be parsed ends the process, before JAX is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="directory that train.py wrote")
    parser.add_argument("repository", help="owner/name on the Hub; made if missing")
    cli.add_checkpoint_option(parser)
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    return parser.parse_args()


def gather(run_dir: Path, checkpoint: int | Literal["best"] | None, repository: str, folder: Path) -> None:
    """Writes into ``folder`` what is shared of a run.

    Args:
      run_dir: of the run.
      checkpoint: env steps of a checkpoint, ``best``, or None for the newest, whose result the card shows.
      repository: ``owner/name``, for the card.
      folder: empty.

    Raises:
      ConfigError, CheckpointError: no run there, or one that cannot be read.
    """
    from covr_jax.commands.export import write_policy
    from covr_jax.policy import FILE
    from covr_jax.report.card import card

    config, about = write_policy(run_dir, checkpoint, folder / FILE)
    result, file = None, run_dir / "result.json"
    if checkpoint is None and file.exists():
        result = json.loads(file.read_text())
    for source in (run_dir / "checkpoints" / str(about["env_steps"]) / "adapter").glob("*"):
        if source.suffix in SHARED:
            (folder / "adapter").mkdir(exist_ok=True)
            shutil.copy(source, folder / "adapter" / source.name)
    (folder / "README.md").write_text(card(repository, config, about, result))


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads a directory as one commit, into a new repository where there is none; returns the commit's address.

    Raises:
      ConfigError: the Hub does not take it.
    """
    from huggingface_hub import HfApi

    api, message = HfApi(), f"Policy of covr_jax {__version__}"
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message).commit_url)
    except (OSError, ValueError) as error:  # what the Hub's client raises
        reason = one_line(error)
        raise ConfigError(f"the Hub does not take {repository}: {reason}; hf auth login, or set HF_TOKEN") from error


def main() -> int:
    """Uploads, and prints where to."""
    options = parse()
    if not importlib.util.find_spec("huggingface_hub"):
        cli.fail("sharing needs the package huggingface_hub: pip install huggingface_hub, or 'covr_jax[hub]'")

    from covr_jax import runtime

    cli.import_quietly(warp=cli.uses_warp(read_config(options.run_dir)))
    runtime.configure()
    cli.check_device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gather(options.run_dir, options.checkpoint, options.repository, folder)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        where = upload(folder, options.repository, private=options.private)
    print(f"{', '.join(files)}: {where}")
    return 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    from covr_jax.io.checkpoint import CheckpointError

    cli.guarded(main, ConfigError, CheckpointError)
