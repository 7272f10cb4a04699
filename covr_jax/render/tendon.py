"""Tendons through sites and around geoms: straight when taut, a hanging chain when slack, red at their limit.

Letters: N capsules of a tendon.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from covr_jax.render.vector import Floats

SITE, SPHERE, CYLINDER, PULLEY = (
    int(getattr(mujoco.mjtWrap, f"mjWRAP_{name}")) for name in ("SITE", "SPHERE", "CYLINDER", "PULLEY")
)
PARTS = 12  # capsules of a hanging tendon
GREY = (0.5, 0.5, 0.5, 1.0)  # MuJoCo reddens only tendons of this colour without a material
ARC = 16  # capsules of an arc on a geom, which MuJoCo draws with two per slice of its spheres


class Stop(NamedTuple):
    """What a tendon passes."""

    kind: int  # SITE, SPHERE, CYLINDER or PULLEY
    index: int  # of the site or geom in the model


@dataclass(frozen=True)
class Tendon:
    """Constants of one tendon; lengths in metres."""

    index: int  # index in the model
    sites: tuple[int, ...]  # indices in the model
    path: tuple[Stop, ...]  # empty for a tendon that runs through sites only
    width: float  # radius
    limits: Floats | None  # shortest and longest length, or None
    impedance: Floats  # solimp of the limit
    limit_colour: Floats | None  # what its colour is mixed towards at the limit; None: it keeps its own
    slack: float | None  # length below which it hangs as a chain of this length; None: always straight
    up: Floats  # unit vector against gravity

    @property
    def parts(self) -> int:
        """Number of capsules."""
        if not self.path:
            return PARTS if self.slack is not None else len(self.sites) - 1
        pairs = zip(self.path, self.path[1:], strict=False)
        lines = sum(1 for one, other in pairs if PULLEY not in (one.kind, other.kind))
        return lines + ARC * sum(stop.kind in (SPHERE, CYLINDER) for stop in self.path)


class TendonPose(NamedTuple):
    """Where the capsules of a tendon are."""

    centre: Float[Array | np.ndarray, "N 3"]  # metres
    axis: Float[Array | np.ndarray, "N 3"]  # unit
    size: Float[Array | np.ndarray, "N 2"]  # radius and half length, metres; 0 for a part that is not there
    limit: Float[Array | np.ndarray, ""] | np.floating  # weight of `Tendon.limit_colour` in 0..1


def read_tendons(model: mujoco.MjModel, groups: int) -> list[tuple[Tendon, int, np.ndarray]]:
    """Reads the tendons that are drawn. Tendons made of joints have no shape.

    Args:
      model: the model.
      groups: number of groups that are drawn.

    Returns:
      Constants, material index and rgba of each tendon.
    """
    found = []
    gravity = float(np.linalg.norm(model.opt.gravity))
    for k in range(model.ntendon):
        rows = slice(model.tendon_adr[k], model.tendon_adr[k] + model.tendon_num[k])
        kinds = model.wrap_type[rows].tolist()
        if model.tendon_group[k] >= groups or int(mujoco.mjtWrap.mjWRAP_JOINT) in kinds:
            continue
        material, rgba = int(model.tendon_matid[k]), model.tendon_rgba[k]
        limits = tuple(float(x) for x in model.tendon_range[k]) if model.tendon_limited[k] else None
        reddens = limits is not None and material < 0 and tuple(rgba.tolist()) == GREY
        tendon = Tendon(
            index=k,
            sites=tuple(int(s) for s in model.wrap_objid[rows]),
            path=tuple(Stop(*stop) for stop in zip(kinds, model.wrap_objid[rows].tolist(), strict=True))
            if set(kinds) != {SITE}
            else (),
            width=float(model.tendon_width[k]),
            limits=limits,
            impedance=tuple(float(x) for x in model.tendon_solimp_lim[k]),
            limit_colour=tuple(float(c) for c in model.vis.rgba.constraint[:3]) if reddens else None,
            slack=_slack_length(model, k, limits) if kinds == [SITE, SITE] else None,
            up=tuple(float(-g / gravity) for g in model.opt.gravity) if gravity else (0.0, 0.0, 1.0),
        )
        found.append((tendon, material, rgba))
    return found


def _slack_length(model: mujoco.MjModel, index: int, limits: Floats | None) -> float | None:
    """Length of the chain as which MuJoCo draws a tendon between two sites while it is shorter, or None.

    The length is that of a spring with a dead band, or the limit of a tendon without a spring, if it starts at 0.
    Nothing else may act on the tendon.
    """
    weightless = bool(model.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_GRAVITY)) or not model.opt.gravity.any()
    passive = [np.ravel(getattr(model, f"tendon_{name}")[index]) for name in ("damping", "dampingpoly", "frictionloss")]
    driven = model.actuator_trnid[model.actuator_trntype == int(mujoco.mjtTrn.mjTRN_TENDON), 0]
    if weightless or np.concatenate(passive).any() or index in driven:
        return None
    if model.tendon_stiffness[index] or model.tendon_stiffnesspoly[index].any():
        low, high = model.tendon_lengthspring[index]
    elif limits is not None:
        low, high = limits
    else:
        return None
    return float(high) if low == 0 and high > 0 else None


def wraps_around_geoms(model: mujoco.MjModel) -> bool:
    """Whether any tendon passes a geom or a pulley."""
    return bool(np.isin(model.wrap_type, (SPHERE, CYLINDER, PULLEY)).any())


def tendon_pose(tendon: Tendon, data: Any, xp: Any = jnp) -> TendonPose:
    """Computes the pose of the tendon's N capsules.

    Args:
      tendon: constants of the tendon.
      data: mjx.Data of one env, or mujoco.MjData after mj_forward.
      xp: numpy or jax.numpy, as in `data`.
    """
    length = data.ten_length[tendon.index]
    if tendon.path:
        starts, stops, there = _wrapped_path(tendon, data, xp)
    else:
        points = data.site_xpos[np.array(tendon.sites)]
        if tendon.slack is not None:
            straight = points[0] + np.linspace(0, 1, PARTS + 1)[:, None] * (points[1] - points[0])
            chain = hanging_chain(points[0], points[1], tendon.slack, tendon.up, xp)
            points = xp.where(length < tendon.slack, chain, straight)
        starts, stops, there = points[:-1], points[1:], xp.ones(len(points) - 1, bool)
    step = stops - starts
    size = xp.sqrt(xp.maximum((step**2).sum(-1), 1e-12))
    shape = xp.where(there[:, None], xp.stack([xp.full(len(step), tendon.width), size / 2], -1), 0.0)
    return TendonPose((stops + starts) / 2, step / size[:, None], shape, _limit_weight(tendon, length, xp))


def _wrapped_path(
    tendon: Tendon, data: Any, xp: Any
) -> tuple[Float[Array | np.ndarray, "N 3"], Float[Array | np.ndarray, "N 3"], Bool[Array | np.ndarray, " N"]]:
    """Starts and ends of the parts of a tendon that passes geoms, and whether they are there.

    MuJoCo lists the points of the path; a geom has two where the tendon touches it, and none otherwise. All arcs have
    their capsules here, those of geoms that are not touched as empty ones at the last point.
    """
    source = data if xp is np else data._impl  # MJX keeps the paths of tendons where its engine does
    points, items = source.wrap_xpos.reshape(-1, 3), source.wrap_obj.reshape(-1)
    row, last, parts = source.ten_wrapadr[tendon.index], None, []
    yes = xp.ones(1, bool)
    for stop in tendon.path:
        if stop.kind in (SPHERE, CYLINDER):
            touched = items[row] == stop.index
            first, second = (xp.where(touched, points[row + k], last) for k in range(2))
            arc = _arc(first - last, first, second, data, stop, xp)
            parts.append((last[None], first[None], touched & yes))
            parts.append((arc[:-1], arc[1:], touched & xp.ones(ARC, bool)))
            row, last = row + 2 * touched, second
            continue
        if stop.kind == SITE and last is not None:
            parts.append((last[None], points[row][None], yes))
        row, last = row + 1, points[row] if stop.kind == SITE else None
    return tuple(xp.concatenate(column) for column in zip(*parts, strict=True))


def _arc(arrival: Any, first: Any, second: Any, data: Any, stop: Stop, xp: Any) -> Float[Array | np.ndarray, "n 3"]:
    """ARC + 1 points on a geom from ``first`` to ``second``, in the sense of rotation in which the tendon arrives."""
    centre, axis = data.geom_xpos[stop.index], data.geom_xmat[stop.index].reshape(3, 3)[:, 2]
    start, end = first - centre, second - centre
    if stop.kind == SPHERE:
        axis = axis * 0.0
    climb, rise = (start * axis).sum(), ((end - start) * axis).sum()  # along a cylinder
    start, end = start - climb * axis, end - (climb + rise) * axis
    normal = xp.cross(start, arrival - (arrival * axis).sum() * axis)
    normal = normal / xp.sqrt(xp.maximum((normal**2).sum(), 1e-20))
    angle = xp.arctan2((xp.cross(start, end) * normal).sum(), (start * end).sum()) % (2 * np.pi)
    angle = xp.where(angle > 2 * np.pi - 1e-3, 0.0, angle)  # a tendon inside a geom touches it in one point
    share = np.linspace(0.0, 1.0, ARC + 1)[:, None]
    turned = xp.cos(share * angle) * start + xp.sin(share * angle) * xp.cross(normal, start)
    return centre + turned + (climb + share * rise) * axis


def hanging_chain(
    start: Float[Array | np.ndarray, " 3"],
    stop: Float[Array | np.ndarray, " 3"],
    length: float,
    up: Floats,
    xp: Any = jnp,
) -> Float[Array | np.ndarray, "points 3"]:
    """Computes points of a hanging chain, at equal distances along the chain.

    The chain is y = a cosh(x / a). With span h, rise v and z = h / 2a: sinh(z) / z = sqrt(length^2 - v^2) / h, and the
    middle of the span lies at x = a artanh(v / length).

    Args:
      start: first end, metres.
      stop: other end, metres.
      length: of the chain, metres.
      up: unit vector against gravity.
      xp: numpy or jax.numpy.

    Returns:
      PARTS + 1 points in metres.
    """
    up = np.asarray(up, np.float32)
    rise = ((stop - start) * up).sum()
    across = (stop - start) - rise * up
    span = xp.sqrt((across**2).sum())
    wide = xp.maximum(span, 0.01 * length)  # a narrower loop looks the same at any image size
    ratio = xp.maximum(xp.sqrt(xp.maximum(length**2 - rise**2, 1e-9)) / wide, 1.0001)
    z = xp.where(ratio < 3, xp.sqrt(6 * (ratio - 1)), xp.log(2 * ratio) + xp.log(xp.log(2 * ratio)))
    for _ in range(5):  # Newton on the convex log(sinh(z) / z), from the right
        value = z + xp.log1p(-xp.exp(-2 * z)) - np.log(2.0) - xp.log(z)
        z = xp.maximum(z - (value - xp.log(ratio)) / (1 / xp.tanh(z) - 1 / z), 1e-2)
    a = wide / (2 * z)
    x0 = a * xp.arctanh(xp.clip(rise / length, -0.9999, 0.9999)) - wide / 2
    s0 = a * xp.sinh(x0 / a)
    s = s0 + length * np.linspace(0, 1, PARTS + 1)
    x = (a * xp.arcsinh(s / a) - x0) / wide
    y = xp.sqrt(a**2 + s**2) - xp.sqrt(a**2 + s0**2)
    return start + x[:, None] * across + y[:, None] * up


def _limit_weight(tendon: Tendon, length: Any, xp: Any) -> Any:
    """Impedance of the limit constraint by MuJoCo's solimp curve; 0 where the constraint is inactive."""
    if tendon.limits is None or tendon.limit_colour is None:
        return xp.zeros(())
    low, high, width, middle, power = tendon.impedance
    violation = xp.maximum(length - tendon.limits[1], tendon.limits[0] - length)
    x = xp.clip(violation / max(width, 1e-9), 0.0, 1.0)
    rise = xp.where(
        x <= middle,
        x**power / max(middle, 1e-9) ** (power - 1),
        1 - (1 - x) ** power / max(1 - middle, 1e-9) ** (power - 1),
    )
    return xp.where(violation > 0, low + rise * (high - low), 0.0)
