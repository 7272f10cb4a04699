"""The house's floors: imports run strictly downward, foreign worlds stay in their rooms, nothing wakes a device."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "covr_jax"

# A module may import rooms of a lower floor, and its own room. Rooms that do not exist yet wait here.
FLOORS = {
    "types": 0,
    "checks": 0,
    "lazy": 0,
    "covr": 0,
    "config": 0,
    "runtime": 1,
    "io": 2,
    "replay": 2,
    "render": 2,
    "carla": 2,
    "report": 3,
    "agents": 3,
    "envs": 3,
    "vlm": 3,
    "presets": 4,
    "policy": 4,
    "training": 5,
    "commands": 6,
}

# Foreign packages and the only places that may import them (prefixes of paths within the package).
FENCES = {
    "torch": ("runtime/dlpack.py", "vlm/", "commands/doctor.py"),
    "transformers": ("runtime/dlpack.py", "vlm/"),
    "peft": ("runtime/dlpack.py", "vlm/"),
    "safetensors": ("runtime/dlpack.py", "vlm/", "policy.py"),
    "httpx2": ("vlm/serving/vllm_client.py",),
    "huggingface_hub": ("vlm/", "policy.py", "commands/push.py"),
    "mujoco": ("envs/", "render/", "training/video.py", "commands/cli.py", "commands/doctor.py"),
    "dm_control": ("envs/", "render/"),
    "brax": ("envs/",),
    "gymnasium": ("envs/", "io/datasets.py"),
    "minari": ("io/datasets.py",),
    "carla": ("carla/worker/",),
    "flax.linen": ("agents/networks/",),
    "orbax": ("io/arrays.py",),
    "tensorboardX": ("io/sinks.py",),
    "wandb": ("io/sinks.py",),
    "matplotlib": ("report/",),
    "tyro": ("commands/",),
    "ray": ("commands/launch/ray_runs.py", "vlm/serving/ray_worker.py"),
    "submitit": ("commands/launch/slurm_runs.py",),
    "rich": ("commands/",),
}

FRONT = ("lazy", "policy")  # what the package itself offers, imported on first use
MODULES = sorted(PACKAGE.rglob("*.py"))
SLOWEST_IMPORT_S = 1.5
HEAVY = ("torch", "jax", "mujoco", "flax", "numpy", "matplotlib")


def place(path, package=PACKAGE):
    return path.relative_to(package).as_posix()


def imports(source, where):
    """Every absolute name that a module imports, anywhere in it: ``from a import b`` counts as a.b."""
    folder = ["covr_jax", *where.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(where):
    """``covr/eddf.py`` -> covr, ``metrics.py`` -> metrics; the package's own ``__init__`` has none."""
    first = where.split("/")[0].removesuffix(".py")
    return None if first == "__init__" else first


def within(name, package):
    return name == package or name.startswith(package + ".")


def breaches(source, where):
    """What one module imports against the rules, in words."""
    home = room(where)
    for name in imports(source, where):
        for foreign, places in FENCES.items():
            if within(name, foreign) and not any(where.startswith(p) for p in places):
                yield f"{where} imports {name}, which belongs to {', '.join(places) or 'experiments/'}"
        parts = name.split(".")
        if parts[0] != "covr_jax" or len(parts) == 1 or parts[1] == home or parts[1].startswith("__"):
            continue
        if home == "covr" or (home is None and parts[1] not in FRONT):
            yield f"{where} imports {name}, but needs no other room"
        elif home is None:
            continue
        elif parts[1] not in FLOORS:
            yield f"{where} imports {name}, a room without a floor"
        elif home in FLOORS and FLOORS[parts[1]] >= FLOORS[home]:
            yield f"{where} (floor {FLOORS[home]}) imports {name} (floor {FLOORS[parts[1]]})"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=PACKAGE.parent)


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_floors_and_fences(path):
    where = place(path)
    assert room(where) is None or room(where) in FLOORS, "a new room needs a floor in this file"
    assert list(breaches(path.read_text(encoding="utf-8"), where)) == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("covr/eddf.py", "from covr_jax.types import Batch"),
        ("covr/eddf.py", "from ..types import Batch"),
        ("covr/eddf.py", "from .. import types"),
        ("replay/buffer.py", "from covr_jax.training import loop"),
        ("replay/buffer.py", "def f():\n    import covr_jax.agents.learner"),
        ("io/metrics.py", "from covr_jax.replay import add"),
        ("agents/learner.py", "import torch"),
        ("agents/learner.py", "from flax import linen as nn"),
        ("agents/learner.py", "from covr_jax.vlm import codec"),
        ("training/loop.py", "import mujoco.mjx"),
        ("training/loop.py", "import orbax.checkpoint as ocp"),
        ("training/loop.py", "import tyro"),
        ("commands/sweep.py", "import ray"),
        ("training/loop.py", "from covr_jax.attic import anything"),
        ("__init__.py", "from covr_jax import covr"),
    ],
)
def test_a_breach_is_seen(where, source):
    assert len(list(breaches(source, where))) == 1


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("covr/__init__.py", "from . import eddf"),
        ("covr/eddf.py", "import jax.numpy as jnp\nimport numpy as np"),
        ("agents/networks/sac.py", "from flax import linen as nn"),
        ("agents/learner.py", "from flax import struct\nfrom covr_jax.agents.networks import Networks"),
        ("agents/methods/rad.py", "from ..networks import Networks\nfrom covr_jax.covr import guidance"),
        ("vlm/trainer.py", "def f():\n    import torch"),
        ("training/loop.py", "from covr_jax import runtime\nimport covr_jax\nfrom covr_jax import __version__"),
        ("io/metrics.py", "import torchlike"),
    ],
)
def test_what_is_allowed_is_let_through(where, source):
    assert list(breaches(source, where)) == []


def test_importing_the_package_is_light():
    code = f"""
import sys, time
start = time.perf_counter()
import covr_jax
print(time.perf_counter() - start, *[name for name in {HEAVY} if name in sys.modules])
"""
    seconds, *loaded = min((run(code).stdout.split() for _ in range(2)), key=lambda words: float(words[0]))
    assert loaded == []
    assert float(seconds) < SLOWEST_IMPORT_S


@pytest.mark.parametrize(
    "module", ["covr_jax.config.validate", "covr_jax.presets", "covr_jax.runtime", "covr_jax.commands.cli"]
)
def test_options_are_parsed_without_jax(module):
    done = run(f"import sys, {module}; print([name for name in {HEAVY[:-2]} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-2000:]


def test_importing_any_module_wakes_no_device():
    """One process imports them all; a module whose optional packages are not installed is passed over."""
    names = [".".join(["covr_jax", *Path(place(p)).with_suffix("").parts]).removesuffix(".__init__") for p in MODULES]
    names = [name for name in names if not name.endswith("__main__")]
    code = f"""
import importlib
from jax._src import xla_bridge
for name in {names}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.startswith("covr_jax"):
            raise
    assert not xla_bridge.backends_are_initialized(), name
"""
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]
