"""The static part of a scene as frozen, hashable records; `model_reader` makes them. Letters: H W image."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco

from covr_jax.render.tendon import Tendon
from covr_jax.render.texture import Texture
from covr_jax.render.vector import Floats

PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)
SPHERE = int(mujoco.mjtGeom.mjGEOM_SPHERE)
CAPSULE = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
ELLIPSOID = int(mujoco.mjtGeom.mjGEOM_ELLIPSOID)
CYLINDER = int(mujoco.mjtGeom.mjGEOM_CYLINDER)
BOX = int(mujoco.mjtGeom.mjGEOM_BOX)
DRAWABLE = (PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX)
ENDLESS = 1e4  # metres: half size that stands for MuJoCo's 0, which is infinite
OUTPUTS = ("rgb", "depth", "segmentation")
OPAQUE = 0.995  # MuJoCo draws items with less alpha as transparent
TOGETHER = 1e-6  # metres, and entries of a rotation: items that differ by less coincide
# (column, row) offsets inside the pixel, rows downwards; 4 is the rotated grid of GL's 4x multisampling
SAMPLES: dict[int, tuple[Floats, ...]] = {
    1: ((0.5, 0.5),),
    2: ((0.25, 0.25), (0.75, 0.75)),
    4: ((0.375, 0.875), (0.875, 0.625), (0.125, 0.375), (0.625, 0.125)),
}


@dataclass(frozen=True)
class Item:
    """A geom, a site, or a capsule of a tendon. Sizes are MuJoCo's half sizes in metres; colours are rgb in 0..1."""

    kind: str  # "geom", "site" or "tendon", whose capsules get their half lengths from `Poses`
    index: int  # index of the geom, site or tendon in the model
    type: int  # a value of mujoco.mjtGeom
    size: Floats
    bound: float  # radius of the bounding ball, metres; 0 for a plane
    colour: Floats
    alpha: float
    emission: float
    specular: float
    shininess: float  # 0..1; the GL exponent is 128 times this
    reflectance: float
    texture: Texture | None

    def half(self, axis: int) -> float:
        """Half size of a plane along `axis` in metres; ENDLESS where the model has 0."""
        return self.size[axis] if self.size[axis] > 0 else ENDLESS


@dataclass(frozen=True)
class Light:
    """Constants of a light. Its position and direction come with `Poses`."""

    index: int  # index in the model; -1 is the headlight
    directional: bool
    ambient: Floats
    diffuse: Floats
    specular: Floats
    attenuation: Floats
    cutoff: float  # degrees; 180 is no spotlight
    exponent: float
    shadow: bool
    mode: int  # a value of mujoco.mjtCamLight
    body: int  # the body that carries it
    target: int  # the body that it points at, where the mode says so
    pose: tuple[Floats, Floats, Floats, Floats, Floats]  # pos, dir, pos0, poscom0, dir0


@dataclass(frozen=True)
class Lens:
    """The pixels on the image plane, x to the right and y upwards from the camera's axis.

    The plane of a perspective camera is at distance 1; that of an orthographic one is through its position, in metres.
    """

    width: float  # of a pixel
    height: float  # of a pixel
    x: float  # of the image's centre
    y: float  # of the image's centre
    orthographic: bool = False


@dataclass(frozen=True)
class Haze:
    """The haze over an infinite plane, in front of a skybox, see `haze`."""

    item: int  # index into `items` of the plane
    colour: Floats
    ring: float  # width of the ring over its outer radius
    reach: float  # metres: outer radius, where the sky is
    pieces: int  # flat pieces of the ring and of the sky

    @property
    def full(self) -> float:
        """Where the haze is opaque, as a share of the camera's height: it hides the line where plane and sky meet."""
        return self.ring / (1.0 + self.ring)


@dataclass(frozen=True)
class Scene:
    """Everything static about an image. Hashable and picklable, so it may be a static argument of `jax.jit`."""

    height: int
    width: int
    camera: int  # index in the model; -1 for a free camera
    free: tuple[Floats, Floats] | None  # position and rotation (columns right, up, back), row by row, of a free camera
    lens: Lens
    samples: tuple[Floats, ...]
    items: tuple[Item, ...]
    tendons: tuple[Tendon, ...]  # their items are the last of `items`, in this order
    lights: tuple[Light, ...]  # the headlight first
    mirror: int | None  # index into `items` of the one plane that reflects, or None
    shadow_clip: float  # metres: half width of a directional light's shadow map
    shadow_scale: float  # share of a spotlight's cutoff that its shadow map covers
    near: float  # metres: the near clipping plane
    far: float  # metres: depth where nothing is
    output: str  # "rgb", "depth" or "segmentation"
    distractors: str  # a name of `distract.DISTRACTORS`
    backfaces: tuple[int, ...]  # planes that the camera may see from behind
    haze: Haze | None
    sky: bytes  # u8[H,W,3], or u8[6,n,n,3] where the camera turns
    turning: bool  # whether the camera's orientation can change
    coincident: tuple[tuple[int, int], ...] = ()  # pairs of `items` whose light OpenGL may add up, in drawing order

    @property
    def floors(self) -> tuple[int, ...]:
        """Opaque planes with a texture, a reflection or haze, or all if there are none; shaded as planes."""
        planes = tuple(k for k in self.opaque if self.items[k].type == PLANE)
        hazy = self.haze.item if self.haze else None
        return tuple(k for k in planes if self.items[k].texture or self.items[k].reflectance > 0 or k == hazy) or planes

    @property
    def solids(self) -> tuple[int, ...]:
        """All other opaque items, which may include plain planes."""
        return tuple(k for k in self.opaque if k not in self.floors)

    @property
    def opaque(self) -> tuple[int, ...]:
        """Items that hide what is behind them."""
        return tuple(k for k, item in enumerate(self.items) if item.alpha >= OPAQUE)

    @property
    def transparent(self) -> tuple[int, ...]:
        """All other items."""
        return tuple(k for k, item in enumerate(self.items) if item.alpha < OPAQUE)

    @property
    def casters(self) -> tuple[int, ...]:
        """Items that cast shadows: all but planes."""
        return tuple(k for k, item in enumerate(self.items) if item.type != PLANE)

    @property
    def transparent_casters(self) -> tuple[int, ...]:
        """Transparent items that cast shadows."""
        return tuple(k for k in self.casters if k in self.transparent)
