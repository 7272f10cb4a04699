"""MuJoCo's batch renderer, mjx.render on NVIDIA Warp, behind the contract of ``BatchRenderer``.

Letters: E envs, H W image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, UInt8
from mujoco import mjx

from covr_jax.render.base import RendererError
from covr_jax.render.camera import FREE, Camera, read_camera
from covr_jax.render.poses import light_pose
from covr_jax.runtime.nvidia_warp import WarpError, open_warp

RAYS_PER_EDGE = {1: 1, 4: 2}  # of a pixel, by samples per pixel


class LightMount(NamedTuple):
    """What the pose of a light depends on besides the poses of bodies; fields as in ``scene.Light``."""

    mode: int
    body: int
    target: int
    pose: tuple[Any, Any, Any, Any, Any]


class WarpRenderer:
    """Draws ``num_envs`` envs at once on an NVIDIA GPU, or on a CPU through Warp's CPU backend.

    The images differ from MuJoCo's OpenGL: no reflections, sites or tendons, other lighting, shadows that keep 30% of
    the light, textures without mipmaps. Mean PSNR to OpenGL's 84 x 84 images over ten states of cheetah and of
    cartpole: 27.1 and 27.7 dB with one sample, 32.4 and 32.7 dB with four (the jax renderer: 43.4 and 39.0 dB). On a
    CPU, equal poses give equal images; GPUs are not tested.

    Args:
      mj_model: the model; read once.
      height: image height in pixels.
      width: image width in pixels.
      camera: index or name of a perspective camera of the model.
      samples: 1, or 4 on a regular grid; each of them is shaded.
      num_envs: E. Warp's buffers belong to one batch size; drawing one env costs as much as drawing E.

    Raises:
      RendererError: Warp is missing or has the wrong version, the device is neither an NVIDIA GPU nor a CPU, or the
        samples are not supported.
      ValueError: no such camera.
    """

    def __init__(
        self,
        mj_model: mujoco.MjModel,
        height: int = 84,
        width: int = 84,
        camera: Camera = 0,
        *,
        samples: int = 4,
        num_envs: int = 1,
    ) -> None:
        if samples not in RAYS_PER_EDGE:
            raise RendererError(f"renderer warp: samples must be one of {sorted(RAYS_PER_EDGE)}, got {samples}")
        try:
            device = open_warp()
        except WarpError as error:
            raise RendererError(f"renderer warp: {error}") from error
        setup = read_camera(mj_model, camera, height, width)
        if setup.index == FREE or setup.lens.orthographic:
            raise ValueError("renderer warp: draws the model's own perspective cameras, no free or orthographic one")
        index = setup.index
        self.num_envs = num_envs
        self._model, self._empty_data = mjx.put_model(mj_model, impl="warp"), mjx.make_data(mj_model, impl="warp")
        self._light_mounts = [_light_mount(mj_model, k) for k in range(mj_model.nlight)]
        self._context = mjx.create_render_context(
            mj_model,
            num_envs,
            devices=[device],
            cam_res=(width, height),
            cam_active=[index],
            render_rgb=True,
            render_depth=False,
            render_seg=False,
            use_shadows=True,
            render_skybox=True,
            samples_per_pixel=RAYS_PER_EDGE[samples],
        )
        self._draw_all = jax.custom_batching.custom_vmap(self._render_all)
        self._draw_all.def_vmap(self._refuse_vmap)
        self._draw_one = jax.custom_batching.custom_vmap(self._render_one)
        self._draw_one.def_vmap(self._vmap_of_one)

    def __call__(self, data: Any) -> UInt8[Array, "H W 3"]:
        """Draws one env. Works under jit.

        Args:
          data: mjx.Data of one env, or mujoco.MjData after mj_forward.
        """
        lights = [light_pose(mount, data, jnp) for mount in self._light_mounts]
        fields = {
            "geom_xpos": data.geom_xpos,
            "geom_xmat": data.geom_xmat.reshape(-1, 3, 3),
            "cam_xpos": data.cam_xpos,
            "cam_xmat": data.cam_xmat.reshape(-1, 3, 3),
            "_impl.light_xpos": jnp.stack([position for position, _ in lights]) if lights else jnp.zeros((0, 3)),
            "_impl.light_xdir": jnp.stack([direction for _, direction in lights]) if lights else jnp.zeros((0, 3)),
        }
        return self._draw_one({name: jnp.asarray(field, jnp.float32) for name, field in fields.items()})

    def batch(self, data: Any) -> UInt8[Array, "E H W 3"]:
        """Draws E envs.

        Args:
          data: mjx.Data with leading axis E.

        Raises:
          RendererError: the leading axis is not ``num_envs``.
        """
        return jax.vmap(self)(data)

    def _render_all(self, fields: dict[str, jax.Array]) -> UInt8[Array, "E H W 3"]:
        """Draws fields with leading axis E."""
        handle = self._context.pytree()

        def draw(fields: dict[str, Any]) -> jax.Array:
            # The second call takes the data of the first: only this dependency keeps them in order.
            data = mjx.refit_bvh(self._model, self._empty_data.tree_replace(fields), handle)  # pyright: ignore[reportArgumentType]
            packed, _, _ = mjx.render(self._model, data, handle)
            return mjx.get_rgb(handle, 0, packed)

        return jnp.round(255.0 * jax.vmap(draw)(fields)).astype(jnp.uint8)

    def _render_one(self, fields: dict[str, jax.Array]) -> jax.Array:
        copies = jax.tree.map(lambda field: jnp.broadcast_to(field, (self.num_envs, *field.shape)), fields)
        return self._draw_all(copies)[0]

    def _vmap_of_one(self, size: int, batched: list[Any], fields: dict[str, jax.Array]) -> tuple[jax.Array, bool]:
        """Batching rule of ``_render_one``: one call for all envs."""
        if size != self.num_envs:
            raise RendererError(f"renderer warp: made for {self.num_envs} envs at once, got {size}; set num_envs")
        whole = {
            name: field if batched[0][name] else jnp.broadcast_to(field, (size, *field.shape))
            for name, field in fields.items()
        }
        return self._draw_all(whole), True

    def _refuse_vmap(self, size: int, batched: Any, fields: Any) -> tuple[jax.Array, bool]:
        del batched, fields
        raise RendererError(
            f"renderer warp: {size} batches of {self.num_envs} envs cannot be drawn by one vmap; give num_envs all envs"
        )


def _light_mount(model: mujoco.MjModel, k: int) -> LightMount:
    names = ("pos", "dir", "pos0", "poscom0", "dir0")
    pose = tuple(getattr(model, f"light_{name}")[k].copy() for name in names)
    return LightMount(int(model.light_mode[k]), int(model.light_bodyid[k]), int(model.light_targetbodyid[k]), pose)  # type: ignore
