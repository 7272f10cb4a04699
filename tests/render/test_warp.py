"""mjx.render on Warp: how far from OpenGL, which versions, and what it cannot do in one line."""

import importlib.metadata
from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from covr_jax import envs
from covr_jax.config import ConfigError
from covr_jax.programs import Programs
from covr_jax.render import RendererError, make_renderer

STATES = 10
PINNED = {"mujoco-mjx": "3.17.0", "warp-lang": "1.18.0"}
MODEL = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/><camera pos="0 0 4"/></worldbody></mujoco>')


@pytest.fixture
def warp():
    """``covr_jax.render.warp``; skips where Warp is missing."""
    try:
        importlib.metadata.version("warp-lang")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("warp-lang is not installed")
    from covr_jax.render import warp

    return warp


# Measured means: 27.1 and 32.7 dB, each state within 1 dB of them
@pytest.mark.parametrize(("task", "samples", "floor"), [("cheetah_run", 1, 26.5), ("cartpole_swingup", 4, 32.0)])
def test_environments_look_about_as_in_opengl(task, samples, floor, warp, opengl, observe, decibel):
    env = envs.make(task, STATES, renderer="warp", samples=samples)
    model = env.mj_model
    qpos = (model.qpos0 + np.random.default_rng(0).normal(0, 0.3, (STATES, model.nq))).astype(np.float32)
    frames, reference, data = observe(env, qpos), opengl(model), mujoco.MjData(model)
    found = []
    for frame, state in zip(frames, qpos, strict=True):
        data.qpos[:] = state
        mujoco.mj_forward(model, data)
        found.append(decibel(frame, reference(data)))
    assert np.mean(found) >= floor and min(found) >= floor - 1, found


def data_of(worlds):
    return jax.vmap(lambda _: mjx.make_data(MODEL))(jnp.arange(worlds))


def test_a_batch_of_another_size_is_refused(warp):
    renderer = make_renderer("warp", MODEL, 8, 8, samples=1, num_envs=2)
    with pytest.raises(RendererError, match="made for 2 worlds at once, got 3; set num_envs"):
        renderer.batch(data_of(3))


def test_a_vmap_of_batches_is_refused(warp):
    renderer = make_renderer("warp", MODEL, 8, 8, samples=1, num_envs=2)
    with pytest.raises(RendererError, match="3 batches of 2 worlds cannot be drawn by one vmap"):
        jax.vmap(renderer.batch)(jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), data_of(2)))


def test_another_device_is_refused(warp, monkeypatch):
    class Device:
        platform, device_kind, client = "tpu", "TPU v5 lite", type("Client", (), {"platform_version": "libtpu"})

    monkeypatch.setattr(warp.jax, "devices", lambda: [Device()])
    with pytest.raises(RendererError, match="draws on CPU and on NVIDIA GPUs, not on TPU v5 lite"):
        make_renderer("warp", MODEL)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"mujoco-mjx": "3.11.2"}, "mujoco-mjx 3.11.2 may draw poses of the step before; pip install mujoco-mjx=="),
        ({"warp-lang": "1.19.0"}, "goes with warp-lang 1.18.0, not 1.19.0; pip install warp-lang==1.18.0"),
        ({"warp-lang": None}, "warp-lang is not installed; pip install warp-lang==1.18.0"),
    ],
)
def test_versions_that_do_not_fit_are_refused(warp, changed, line):
    def version(package):
        found = (PINNED | changed)[package]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return found

    with pytest.raises(RendererError, match=line):
        warp.check_versions(version, lambda package: ["jax", 'warp-lang==1.18.0; extra == "warp"'])
    warp.check_versions()  # what is installed here fits


def test_an_option_that_does_not_fit_is_an_option_error(warp, tiny_config):
    config = replace(tiny_config, renderer="warp", env=replace(tiny_config.env, samples=2))
    with pytest.raises(ConfigError, match=r"^renderer warp: samples must be one of \[1, 4\], got 2$"):
        Programs(config)
