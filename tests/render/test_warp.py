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
from covr_jax.render import RendererError, make_renderer
from covr_jax.runtime.nvidia_warp import WarpError, check_warp
from covr_jax.training.programs import Programs

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


def distances(frames, qpos, reference, model, decibel):
    """dB of each image from OpenGL's of the state."""
    data, found = mujoco.MjData(model), []
    for frame, state in zip(frames, qpos, strict=True):
        data.qpos[:] = state
        mujoco.mj_forward(model, data)
        found.append(decibel(frame, reference(data)))
    return found


def around_rest(model):
    return (model.qpos0 + np.random.default_rng(0).normal(0, 0.3, (STATES, model.nq))).astype(np.float32)


def test_an_environment_looks_about_as_in_opengl(warp, opengl, observe, decibel):
    """Four samples; measured: mean 32.7, worst 32.6 dB."""
    env = envs.make("cartpole_swingup", STATES, renderer="warp")
    qpos = around_rest(env.mj_model)
    found = distances(observe(env, qpos), qpos, opengl(env.mj_model), env.mj_model, decibel)
    assert np.mean(found) >= 32.2 and min(found) >= 31.5, found


def test_one_sample_looks_about_as_in_opengl(warp, opengl, decibel):
    """Measured: mean 27.1, worst 26.8 dB."""
    model = envs.get_task("cheetah_run").load_model()
    qpos = around_rest(model)
    datas = []
    for state in qpos:
        data = mujoco.MjData(model)
        data.qpos[:] = state
        mujoco.mj_forward(model, data)
        datas.append(mjx.put_data(model, data))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *datas)
    frames = jax.jit(make_renderer("warp", model, samples=1, num_envs=STATES).batch)(batch)
    found = distances(np.asarray(frames), qpos, opengl(model), model, decibel)
    assert np.mean(found) >= 26.6 and min(found) >= 25.8, found


def data_of(num_envs):
    return jax.vmap(lambda _: mjx.make_data(MODEL))(jnp.arange(num_envs))


def test_a_batch_of_another_size_is_refused(warp):
    renderer = make_renderer("warp", MODEL, 8, 8, samples=1, num_envs=2)
    with pytest.raises(RendererError, match="made for 2 envs at once, got 3; set num_envs"):
        renderer.batch(data_of(3))


def test_a_vmap_of_batches_is_refused(warp):
    renderer = make_renderer("warp", MODEL, 8, 8, samples=1, num_envs=2)
    with pytest.raises(RendererError, match="3 batches of 2 envs cannot be drawn by one vmap"):
        jax.vmap(renderer.batch)(jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), data_of(2)))


def test_another_device_is_refused(warp, monkeypatch):
    class Device:
        platform, device_kind, client = "tpu", "TPU v5 lite", type("Client", (), {"platform_version": "libtpu"})

    monkeypatch.setattr(warp.jax, "devices", lambda: [Device()])
    with pytest.raises(RendererError, match="renderer warp: it runs on CPUs and on NVIDIA GPUs, not on TPU v5 lite"):
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

    with pytest.raises(WarpError, match=line):
        check_warp(version, lambda package: ["jax", 'warp-lang==1.18.0; extra == "warp"'])
    check_warp()  # what is installed here fits


def test_an_option_that_does_not_fit_is_an_option_error(warp, tiny_config):
    config = replace(tiny_config, renderer="warp", env=replace(tiny_config.env, samples=2))
    with pytest.raises(ConfigError, match=r"^renderer warp: samples must be one of \[1, 4\], got 2$"):
        Programs(config)
