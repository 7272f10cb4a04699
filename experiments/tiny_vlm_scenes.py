"""Rendered motions of the dm_control scenes with the numbers that describe them, from which the tiny VLM learns to see.

Joints move at constant speeds, without physics. N samples of F frames, oldest first.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.images import resize

PI = np.pi


class Domain(NamedTuple):
    """Which poses of a dm_control scene are rendered, and which numbers in [-1, 1] describe them."""

    low: tuple[float, ...]  # joint positions are uniform in [low, high]
    high: tuple[float, ...]
    linear: tuple[int, ...]  # joints given as position / range
    angles: tuple[int, ...]  # joints given as (sin, cos)
    answered: int  # how many of these numbers the answer has; the regression head predicts all
    share: float  # of the training samples
    moving: tuple[int, ...]  # joints whose motion the answer has, if it is about several frames
    step: tuple[float, ...]  # largest motion of each joint in one agent step, m or rad; the number is motion / step


_LEGS = (-0.35, -2.6, -0.78, -0.35, -2.6, -0.78), (1.7, 0.0, 0.78, 1.7, 0.0, 0.78)
DOMAINS = {
    "cartpole": Domain((-1.8, -PI), (1.8, PI), (0,), (1,), 3, 0.44, (0, 1), (0.25, 0.6)),
    "pendulum": Domain((-PI,), (PI,), (), (0,), 2, 0.08, (0,), (0.6,)),
    "reacher": Domain((-PI, -2.7), (PI, 2.7), (1,), (0,), 3, 0.08, (0, 1), (0.5, 0.5)),
    "finger": Domain((-1.9, -1.9, -PI), (1.9, 1.9, PI), (0, 1), (2,), 4, 0.08, (0, 1, 2), (0.3, 0.3, 0.6)),
    "ball_in_cup": Domain(
        (-0.25, -0.25, -0.25, -0.25),
        (0.25, 0.25, 0.25, 0.25),
        (0, 1, 2, 3),
        (),
        4,
        0.08,
        (0, 1, 2, 3),
        (0.1, 0.1, 0.15, 0.15),
    ),
    "cheetah": Domain(
        (0.0, -0.1, -0.5, -0.5, -0.8, -0.4, -0.9, -1.1, -0.5),
        (0.0, 0.3, 0.5, 1.0, 0.8, 0.8, 0.0, 0.8, 0.5),
        (3, 4, 6, 7),
        (2,),
        4,
        0.08,
        (3, 4, 6, 7),
        (0.4, 0.4, 0.4, 0.4),
    ),
    "walker": Domain(
        (-0.3, 0.0, -1.2, *_LEGS[0]),
        (0.1, 0.0, 1.2, *_LEGS[1]),
        (3, 4, 6, 7),
        (2,),
        4,
        0.08,
        (3, 4, 6, 7),
        (0.3, 0.4, 0.3, 0.4),
    ),
    "hopper": Domain(
        (0.0, -0.2, -0.8, -0.5, -2.9, 0.1, -0.78),
        (0.0, 0.4, 0.8, 0.5, 0.1, 2.6, 0.78),
        (3, 4, 5),
        (2,),
        4,
        0.08,
        (3, 4, 5),
        (0.2, 0.3, 0.3),
    ),
}
# Share of the frames per rendered size, pixels: users render at many sizes. Compiling every scene at all of them would
# take longer than the training.
SIZES = {84: 0.45, 48: 0.3, 36: 0.08, 64: 0.09, 100: 0.08}
OTHER_SIZES = {84: 0.6, 48: 0.4}
HELD_OUT = 256


class Scenes(NamedTuple):
    """Rendered motions of a domain."""

    frames: Any  # u8[N,F,84,84,3], a tensor
    pose: np.ndarray  # f32[N,F,k], numbers in [-1, 1] of each frame
    motion: np.ndarray  # f32[N,m], numbers in [-1, 1]: motion in one step / domain.step


def pose_numbers(domain: Domain, qpos: np.ndarray) -> np.ndarray:
    """Returns the numbers of poses qpos f64[...,nq]: positions / range, then sines, then cosines, f32[...,k]."""
    low, high = np.asarray(domain.low), np.asarray(domain.high)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-6)
    linear = ((qpos - middle) / half)[..., list(domain.linear)]
    angles = qpos[..., list(domain.angles)]
    return np.concatenate([linear, np.sin(angles), np.cos(angles)], -1).astype(np.float32)


def sample_motions(
    domain: Domain, n: int, frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws poses of the last frame, and motions that led there at constant speeds.

    Returns:
      qpos f32[n,frames,nq], oldest first; pose numbers f32[n,frames,k]; motion numbers f32[n,m].
    """
    last = rng.uniform(domain.low, domain.high, (n, len(domain.low)))
    motion = rng.uniform(-1.0, 1.0, (n, len(domain.moving))) if frames > 1 else np.zeros((n, len(domain.moving)))
    step = np.zeros_like(last)
    step[:, list(domain.moving)] = motion * domain.step
    before = np.arange(frames - 1, -1, -1)[:, None]  # steps
    qpos = last[:, None] - before * step[:, None]
    return qpos.astype(np.float32), pose_numbers(domain, qpos), motion.astype(np.float32)


def scene_drawer(name: str):
    """Returns (qpos f32[n,nq], size) -> u8[n,84,84,3], which renders at ``size`` and resizes as the model does."""
    import importlib

    import jax
    from mujoco import mjx

    from covr_jax.render import Renderer

    mujoco: Any = importlib.import_module("mujoco")  # its extension module has no type information
    xml, assets = importlib.import_module(f"dm_control.suite.{name}").get_model_and_assets()
    mj_model = mujoco.MjModel.from_xml_string(xml.decode() if isinstance(xml, bytes) else xml, assets)
    mj_model.opt.enableflags &= ~int(
        mujoco.mjtEnableBit.mjENBL_ENERGY
    )  # MJX rejects the flag; it does not affect images
    model = mjx.put_model(mj_model)

    @jax.jit
    @jax.vmap
    def pose(q):
        data = mjx.kinematics(model, mjx.make_data(model).replace(qpos=q))
        return mjx.tendon(model, mjx.camlight(model, mjx.com_pos(model, data)))

    def draw(qpos: np.ndarray, size: int, chunk: int = 64) -> np.ndarray:
        batch = jax.jit(Renderer(mj_model, size, size, camera=0).batch)
        out = []
        for start in range(0, len(qpos), chunk):
            part = np.resize(qpos[start : start + chunk], (chunk, qpos.shape[1]))
            frames = np.array(batch(pose(part)))[: len(qpos) - start]
            x = resize(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), tiny.IMAGE_SIZE)
            out.append(x.byte().permute(0, 2, 3, 1).contiguous().numpy())
        return np.concatenate(out)

    return draw


def make_data(name: str, n: int, frames: int, seed: int, log, cache: Path | None = None) -> Scenes:
    """Returns n samples at the mix of sizes, shuffled; kept in ``cache`` if given."""
    file_name = cache / f"{name}_{n}_{frames}_{seed}.npz" if cache else None
    if file_name and file_name.exists():
        with np.load(file_name, allow_pickle=False) as file:
            return Scenes(torch.from_numpy(file["frames"]), file["pose"], file["motion"])
    rng = np.random.default_rng([seed, list(DOMAINS).index(name)])
    drawn, started, draw = [], time.perf_counter(), scene_drawer(name)
    for size, share in (SIZES if name == "cartpole" else OTHER_SIZES).items():
        qpos, *numbers = sample_motions(DOMAINS[name], int(share * n), frames, rng)
        pictures = draw(qpos.reshape(-1, qpos.shape[-1]), size)
        drawn.append((pictures.reshape(*qpos.shape[:2], *pictures.shape[1:]), *numbers))
    order = rng.permutation(sum(len(pictures) for pictures, *_ in drawn))
    log(f"{name}: {len(order)} samples in {time.perf_counter() - started:.0f} s")
    pictures, pose, motion = (np.concatenate(parts)[order] for parts in zip(*drawn, strict=True))
    if file_name and cache:
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file_name, frames=pictures, pose=pose, motion=motion)
    return Scenes(torch.from_numpy(pictures), pose, motion)
