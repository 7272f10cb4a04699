# %% [markdown]
# # Drawing a MuJoCo model in JAX
#
# `Renderer` draws models of planes, spheres, capsules, cylinders, boxes and ellipsoids close to MuJoCo's OpenGL, as a
# pure function: it can be jitted, vmapped over environments, and compiled into a training program.

# %%
import jax
import matplotlib.pyplot as plt
import mujoco
import numpy as np
from mujoco import mjx

from covr_jax.render import Renderer

XML = """
<mujoco>
  <asset>
    <texture name="checks" type="2d" builtin="checker" rgb1=".2 .3 .4" rgb2=".1 .2 .3" width="64" height="64"/>
    <material name="floor" texture="checks" texrepeat="6 6" reflectance=".2"/>
  </asset>
  <worldbody>
    <light pos="1 -1 3" dir="-.3 .3 -1"/>
    <camera name="side" pos="0 -2.2 1" xyaxes="1 0 0 0 .4 1"/>
    <geom type="plane" size="2 2 .1" material="floor"/>
    <body pos="0 0 .5">
      <joint name="turn" type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="-.5 0 0 .5 0 0" size=".1" rgba=".9 .5 .2 1"/>
      <geom type="box" pos=".5 0 .2" size=".1 .1 .1" rgba=".2 .7 .4 1"/>
    </body>
  </worldbody>
</mujoco>
"""
model = mujoco.MjModel.from_xml_string(XML)

# %% [markdown]
# One picture, from MuJoCo's own data.

# %%
draw = Renderer(model, 96, 96, camera="side")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
picture = np.asarray(draw(data))
print(picture.shape, picture.dtype, "mean brightness", picture.mean().round(1))

# %% [markdown]
# Four poses at once, on the device: MJX computes them, and the same program draws them.

# %%
device_model = mjx.put_model(model)


@jax.jit
def poses(angles):
    def one(angle):
        state = mjx.make_data(device_model).replace(qpos=angle[None])
        return mjx.kinematics(device_model, state)

    data = jax.vmap(one)(angles)
    return draw.batch(jax.vmap(lambda d: mjx.camlight(device_model, d))(data))


pictures = np.asarray(poses(np.linspace(-0.6, 0.6, 4, dtype=np.float32)))
plt.imsave("poses.png", np.concatenate(list(pictures), axis=1))
print(pictures.shape, "in poses.png")
