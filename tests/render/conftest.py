"""Shared scenes, states and the OpenGL reference of the renderer's tests."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

ZOO = """<mujoco><visual><headlight ambient=".4 .4 .4" diffuse=".8 .8 .8" specular=".1 .1 .1"/></visual><asset>
  <texture name="sky" type="skybox" builtin="gradient" rgb1=".4 .6 .8" rgb2="0 0 0" width="128" height="128"/>
  <texture name="grid" type="2d" builtin="checker" rgb1=".1 .2 .3" rgb2=".2 .3 .4" width="300" height="300"
    mark="edge" markrgb=".2 .3 .4"/>
  <material name="grid" texture="grid" texrepeat="1 1" texuniform="true" reflectance=".2"/>
  <material name="shiny" rgba=".2 .6 .3 1" specular="1" shininess=".8" emission=".2"/></asset>
<worldbody>{light}<geom name="floor" type="plane" {floor}/>
  <body pos="-.8 .2 .4" euler="20 30 10"><geom type="box" size=".2 .3 .15" rgba=".8 .3 .2 1"/></body>
  <body pos="0 .3 .5" euler="70 30 10"><geom type="cylinder" size=".15 .3" material="shiny"/></body>
  <body pos=".8 .1 .4" euler="20 30 10"><geom type="ellipsoid" size=".3 .2 .1" rgba=".2 .3 .8 1"/></body>
  <body pos="-.3 -.5 .3" euler="50 30 10"><geom type="capsule" size=".1 .2" rgba=".8 .8 .2 1"/>
    <site type="box" size=".05 .05 .05" pos=".2 0 0" rgba="1 0 1 1"/></body>
  <body pos=".4 -.6 .2"><freejoint/><geom type="sphere" size=".2" rgba=".7 .5 .3 1"/>
    <camera name="rider" pos="0 -2 1.6" euler="60 20 0"/></body>
  <camera name="main" pos="0 -3 1.6" xyaxes="1 0 0 0 .45 1" fovy="45"/></worldbody></mujoco>"""


def zoo(
    floor: str = 'size="2 2 .2" material="grid"', light: str = '<light pos="0 0 4" dir="0 0 -1" diffuse=".7 .7 .7"/>'
) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """One item of every type over a floor, with the floating sphere turned a little."""
    model = mujoco.MjModel.from_xml_string(ZOO.format(floor=floor, light=light))
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    data.qpos[3:7] = [0.9, 0.1, 0.2, 0.1]
    mujoco.mj_forward(model, data)
    return model, data


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images."""
    error = np.asarray(image, float) - np.asarray(reference, float)
    return float(10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)))


@pytest.fixture
def opengl():
    """Makes HostRenderers and closes them; skips the test where no OpenGL context can be made."""
    from covr_jax.render import HostRenderer

    made = []

    def make(*args, **kwargs):
        try:
            made.append(HostRenderer(*args, **kwargs))
        except RuntimeError as error:
            pytest.skip(f"no OpenGL reference on this machine: {error}")
        return made[-1]

    yield make
    for renderer in made:
        renderer.close()


def newest_frames(env, qpos: np.ndarray, goal=None) -> np.ndarray:
    """uint8[E,H,W,3] images of an environment in states at rest, qpos[E,nq]."""
    import jax
    import jax.numpy as jnp

    from covr_jax.envs import EnvState
    from covr_jax.types import StepType

    count, velocity = jnp.zeros((env.num_envs,), jnp.int32), jnp.zeros((env.num_envs, env.mj_model.nv))
    state = EnvState(
        qpos=jnp.asarray(qpos),
        qvel=velocity,
        qacc_warmstart=velocity,
        ctrl=jnp.zeros((env.num_envs, env.action_dim)),
        goal=goal,
        touch=None,
        look=None,
        step_count=count,
        step_type=count + StepType.FIRST,
        key=jax.random.split(jax.random.key(0), env.num_envs),
        stack=jnp.zeros((env.num_envs, env.image_size, env.image_size, 3 * env.frame_stack), jnp.uint8),
    )
    _, timestep = jax.jit(env.observe)(state, jnp.zeros((env.num_envs,)))
    return np.asarray(timestep.observation[..., -3:])


@pytest.fixture
def observe():
    return newest_frames


@pytest.fixture
def make_zoo():
    return zoo


@pytest.fixture
def decibel():
    return psnr


@pytest.fixture
def ball_world():
    """A model small enough for MJX and quick to compile: a ball on a lit floor, and three states of it."""
    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody>
      <light pos="0 0 3" dir="0 0 -1" mode="trackcom"/><geom type="plane" size="1 1 .5" rgba=".5 .6 .7 1"/>
      <body name="ball" pos="0 0 .3"><freejoint/><light pos="0 1 2" dir="0 -.4 -1" mode="track" castshadow="false"/>
        <geom type="sphere" size=".15" rgba=".9 .4 .2 1"/></body>
      <camera name="eye" pos="0 -2 1" xyaxes="1 0 0 0 .45 1"/></worldbody></mujoco>""")
    states = []
    for k in range(3):
        data = mujoco.MjData(model)
        data.qpos[:3] = [0.2 * k - 0.2, 0.1 * k, 0.3 + 0.1 * k]
        mujoco.mj_forward(model, data)
        states.append(data)
    return model, states
