"""Checks this machine: versions against the pinned set, devices, memory, renderer, DLPack, VLM, known-bad pairs.

``python experiments/doctor.py`` prints a table; the exit code is 1 when something would give wrong results or fail.
``python experiments/doctor.py RUN`` says too what made a run, and what is different here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

PINNED = Path(__file__).resolve().parents[2] / "requirements.txt"  # of a checkout
_CARDS = (24, 40, 80)  # GB of common GPUs


class Finding(NamedTuple):
    """One line of the table."""

    level: str  # ok, note or bad
    subject: str
    text: str


def pinned() -> dict[str, str]:
    """Returns package -> version of requirements.txt; empty where an installed package has none beside it."""
    text = PINNED.read_text() if PINNED.exists() else ""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE))


def installed(package: str) -> str | None:
    """Returns an installed version without a local part such as ``+cpu``; None when missing."""
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions() -> list[Finding]:
    """Compares installed packages with requirements.txt."""
    findings = []
    if not pinned():
        text = "not compared: the tested set, requirements.txt, is part of the sources"
        return [Finding("note", "versions", text)]
    for package, wanted in pinned().items():
        found = installed(package)
        if found is None:
            findings.append(Finding("bad", package, f"missing; pip install {package}=={wanted}"))
        elif found != wanted:
            findings.append(Finding("note", package, f"{found}, tested with {wanted}"))
    if not findings:
        findings.append(Finding("ok", "versions", f"all {len(pinned())} packages as pinned"))
    return findings


def check_known_bad(versions: Callable[[str], str | None] = installed) -> list[Finding]:
    """Looks for pairs of packages that import but then fail or give other numbers."""
    mujoco, suite, mjx = versions("mujoco"), versions("dm_control"), versions("mujoco-mjx")
    findings = []
    if mujoco and int(mujoco.split(".")[0]) >= 4 and suite == "1.0.50":
        text = f"mujoco {mujoco} breaks dm_control 1.0.50 (removed fields); pip install mujoco==3.17.0"
        findings.append(Finding("bad", "mujoco + dm_control", text))
    if mujoco and mjx and mujoco.split(".")[:2] != mjx.split(".")[:2]:
        text = f"mujoco {mujoco} with mujoco-mjx {mjx}: install equal versions"
        findings.append(Finding("bad", "mujoco + mujoco-mjx", text))
    return findings or [Finding("ok", "known-bad pairs", "none")]


def check_devices() -> list[Finding]:
    """Lists the devices of JAX and Torch."""
    import jax

    devices = ", ".join(f"{device.platform}:{device.device_kind}" for device in jax.devices())
    findings = [
        Finding("ok", "python", f"{platform.python_version()} on {platform.machine()}"),
        Finding("ok", "jax devices", devices),
    ]
    if (torch := _torch()) is None:
        return findings
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return [*findings, Finding("ok", "torch device", f"{cuda}, {torch.get_num_threads()} threads")]


def _torch() -> Any:
    """Torch, or None where it is not installed."""
    return importlib.import_module("torch") if importlib.util.find_spec("torch") else None


def check_kernels() -> list[Finding]:
    """Checks whether updates on CPU have their C++ kernel."""
    import warnings

    from covr_jax import runtime
    from covr_jax.agents.networks import convolution

    if not runtime.on_cpu():
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if convolution.has_kernel():
            return [Finding("ok", "CPU kernels", "compiled")]
    return [Finding("note", "CPU kernels", str(caught[-1].message) if caught else "switched off by COVR_JAX_NATIVE=0")]


def check_renderer() -> list[Finding]:
    """Renders one frame and checks that it is not blank."""
    import mujoco
    import numpy as np

    from covr_jax.envs import get_task
    from covr_jax.render import Renderer

    model = get_task("cartpole_swingup").load_model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    frame = np.asarray(Renderer(model, 48, 48)(data))
    spread = float(frame.std())
    if frame.shape != (48, 48, 3) or spread < 10:
        return [Finding("bad", "renderer", f"rendered a blank image (spread {spread:.1f})")]
    return [Finding("ok", "renderer", f"jax, cartpole at 48x48, spread {spread:.1f}")]


def check_bridge() -> list[Finding]:
    """Sends a frame to Torch and an action back, which must arrive unchanged and without shared memory."""
    import jax.numpy as jnp
    import numpy as np
    import torch

    from covr_jax.runtime import dlpack

    lent = dlpack.to_torch(jnp.arange(12, dtype=jnp.uint8).reshape(3, 4))
    owner = torch.linspace(-1, 1, 4)
    taken = dlpack.to_jax(owner)
    owner.zero_()
    good = lent.sum().item() == 66 and np.allclose(taken, np.linspace(-1, 1, 4), atol=1e-6)
    if not good:
        return [Finding("bad", "DLPack bridge", "values changed between JAX and Torch")]
    return [Finding("ok", "DLPack bridge", "values kept, memory owned")]


def check_memory(vlm: str | None) -> list[Finding]:
    """Reports the memory of the learner and of the VLM, and how they share a GPU.

    Args:
      vlm: as ``--vlm``; None: the default model.
    """
    import jax

    from covr_jax import runtime
    from covr_jax.config import Config, VLMConfig
    from covr_jax.runtime import memory

    free = memory.free_bytes("host")
    host = "unknown" if free is None else f"{free / 1e9:.1f} GB free"
    findings = [Finding("ok", "host memory", host)]
    if (torch := _torch()) is None:
        return findings
    from covr_jax.vlm.gpu_share import torch_share

    if jax.default_backend() == "cpu" and not torch.cuda.is_available():
        return [*findings, Finding("ok", "JAX and Torch", "both on the CPU, in the host's memory, with no limit set")]
    if not torch.cuda.is_available():
        return [*findings, Finding("note", "JAX and Torch", "JAX on its device, Torch on the CPU: a CPU-only Torch?")]
    total = torch.cuda.get_device_properties(0).total_memory
    share = torch_share(Config(vlm=VLMConfig(name=vlm) if vlm else VLMConfig())) or 0.0
    if jax.default_backend() == "cpu":
        text = f"JAX on the CPU, Torch up to {share:.0%} of the GPU's {total / 1e9:.0f} GB (--vlm.gpu-share)"
        return [*findings, Finding("note", "JAX and Torch", f"{text}: a CPU-only jaxlib?")]
    taken = runtime.share_gpu(share)
    text = f"of the GPU's {total / 1e9:.0f} GB: JAX {taken:.0%} (XLA_PYTHON_CLIENT_MEM_FRACTION), Torch {share:.0%}"
    level = "ok" if taken + share <= 1 else "bad"
    return [*findings, Finding(level, "JAX and Torch", f"{text} (--vlm.gpu-share)")]


def check_vlm() -> list[Finding]:
    """Queries the tiny VLM."""
    import numpy as np
    import torch

    from covr_jax.vlm.engine import VLMEngine

    service = VLMEngine("tiny", device="auto")
    frames = np.zeros((64, 84, 84, 3), np.uint8)
    seconds = {}
    for count in (1, 64):
        service.query(frames[:count])  # the first of its size
        service.query(frames[:count])
        seconds[count] = service.counters["latency_s"]
    where = "GPU" if torch.cuda.is_available() else "CPU"
    text = f"{service.memory_bytes / 1e6:.1f} MB on the {where}, {1e3 * seconds[1]:.0f} ms for 1 frame"
    failed = service.counters["parse_failures"]
    answered = Finding("ok", "VLM tiny", f"{text}, {1e3 * seconds[64]:.0f} ms for 64")
    return [
        answered if not failed else Finding("bad", "VLM tiny", f"{failed:.0f} answers could not be parsed"),
    ]


def check_budget(name: str | None) -> list[Finding]:
    """Says what a model takes to answer and to be fine-tuned, from its config.json, and what fits which GPU.

    Args:
      name: as ``--vlm``: a directory, or the hub id of a supported checkpoint, which is not downloaded. None: the
        default model.
    """
    from covr_jax.vlm import budget
    from covr_jax.vlm.defaults import RELEASED, is_tiny
    from covr_jax.vlm.gpu_share import LARGEST, model_config
    from covr_jax.vlm.models.backbones import BACKBONES, DEFAULT_MODEL

    name = name or DEFAULT_MODEL
    if is_tiny(name):
        return [Finding("ok", f"VLM {name}", "needs some megabytes")]
    config = model_config(name)
    if config is None:
        known = ", ".join(backbone.hub_id for backbone in BACKBONES.values())
        return [Finding("bad", "VLM", f"{name} is neither a directory nor one of {known}")]
    if config.model_type not in BACKBONES:
        return [Finding("bad", "VLM", f"{name} is a {config.model_type}; supported: {', '.join(BACKBONES)}")]
    needs = budget.needs(*budget.without_weights(config, None, **RELEASED.lora), budget.ANSWER_TOKENS)
    shown = name.rstrip("/").split("/")[-1]
    answering, tuning = needs.to_answer() / 1e9, (needs.to_answer() + needs.training) / 1e9
    plain, recomputed = (size / 1e9 for size in needs.saved)
    text = f"{answering:.1f} GB to answer; {tuning:.1f} GB to fine-tune, and {plain:.2f} GB per sample of a pass"
    text += f" ({recomputed:.2f} GB with --vlm.checkpointing); {needs.kept / 1e9:.1f} GB of RAM to merge the adapter"
    findings = [Finding("ok", shown, text)]
    for size in _CARDS:
        left = int(size * 1e9 * LARGEST) - needs.to_answer() - needs.training
        findings.append(Finding("ok", f"  {LARGEST:.0%} of {size} GB", _fits(needs, left, RELEASED.batch_size)))
    return findings


def _fits(needs: Any, left: int, batch_size: int) -> str:
    """Says what a round does with ``left`` bytes beside what it always needs."""
    from covr_jax.vlm import budget

    if left < needs.saved.recomputed:
        return "answers only" if left + needs.training > 0 else "does not fit"
    size, recompute = budget.plan(needs.saved, left, batch_size)
    return f"fine-tunes {size} of {batch_size} samples per pass" + (", activations recomputed" if recompute else "")


def check_run(run_dir: Path) -> list[Finding]:
    """Compares what made a run with what is here."""
    from covr_jax.config import from_dict
    from covr_jax.config.convert import PROVENANCE
    from covr_jax.io.run_dir import read_options
    from covr_jax.training.surroundings import changes, provenance

    options = read_options(run_dir)
    made_by = options.get(PROVENANCE)
    if not isinstance(made_by, dict):
        return [Finding("note", "run", f"{run_dir} has no record of what made it; an earlier version did")]
    known = [Finding("ok", f"run: {name}", str(value)) for name, value in made_by.items() if value not in (None, "")]
    return known + [Finding("note", "run, here", change) for change in changes(made_by, provenance(from_dict(options)))]


def main() -> int:
    """Prints the table; returns 1 where something is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", nargs="?", type=Path, help="directory that train.py wrote")
    parser.add_argument("--vlm", help="model whose memory is estimated: a directory or a hub id ")
    options = parser.parse_args()
    vlm = options.vlm
    findings = check_versions() + check_known_bad()
    if not any(finding.level == "bad" for finding in findings):
        from covr_jax import runtime
        from covr_jax.commands import cli

        cli.import_quietly()
        runtime.configure()
        checks = [partial(check_memory, vlm), check_devices, check_kernels, check_renderer]
        if options.run_dir is not None:
            checks.append(partial(check_run, options.run_dir))
        if _torch() is None:
            findings.append(Finding("note", "Torch", "not installed, so no VLM: pip install 'covr_jax[vlm]'"))
        else:
            checks += [check_bridge, check_vlm, partial(check_budget, vlm)]
        for check in checks:
            try:
                findings += check()
            except Exception as error:  # a broken installation fails in any way; the table says where
                name = str(getattr(getattr(check, "func", check), "__name__", check)).removeprefix("check_")
                findings.append(Finding("bad", name, str(error).splitlines()[0]))
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.level:4}  {finding.subject:{width}}  {finding.text}")
    return int(any(finding.level == "bad" for finding in findings))


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    raise SystemExit(main())
