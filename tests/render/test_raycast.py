"""Distances and normals worked out by hand. Every item sits at z = 5 and is looked at from z = 0 along +z."""

import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.render.raycast import Code, Pose, intersect, may_intersect
from covr_jax.render.rays import FreeRays, PinholeRays
from covr_jax.render.scene import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE
from covr_jax.render.vector import pick

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
UPRIGHT, ALONG_X = (X, Y, Z), (Y, Z, X)  # axes of the item in the world
TURNED = ((0.5**0.5, 0.0, -(0.5**0.5)), Y, (0.5**0.5, 0.0, 0.5**0.5))  # 45 degrees about y
FACING = (X, (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))  # a plane whose front looks at the viewer

CASES = {
    "sphere in the middle": (SPHERE, (1, 0, 0), UPRIGHT, (0, 0), 4.0, (0, 0, -1)),
    "sphere off centre": (SPHERE, (1, 0, 0), UPRIGHT, (0.6, 0), 4.2, (0.6, 0, -0.8)),
    "sphere missed": (SPHERE, (1, 0, 0), UPRIGHT, (1.1, 0), None, None),
    "capsule side": (CAPSULE, (0.5, 1, 0), ALONG_X, (0.7, 0.3), 4.6, (0, 0.6, -0.8)),
    "capsule end": (CAPSULE, (0.5, 1, 0), ALONG_X, (1.3, 0), 4.6, (0.6, 0, -0.8)),
    "capsule other end": (CAPSULE, (0.5, 1, 0), ALONG_X, (-1.3, 0), 4.6, (-0.6, 0, -0.8)),
    "capsule along the ray": (CAPSULE, (0.5, 1, 0), UPRIGHT, (0, 0.3), 3.6, (0, 0.6, -0.8)),
    "capsule missed": (CAPSULE, (0.5, 1, 0), ALONG_X, (1.6, 0), None, None),
    "ellipsoid in the middle": (ELLIPSOID, (1, 2, 0.5), UPRIGHT, (0, 0), 4.5, (0, 0, -1)),
    "ellipsoid off centre": (ELLIPSOID, (1, 2, 0.5), UPRIGHT, (0.6, 0), 4.6, (0.6, 0, -1.6)),
    "cylinder lid": (CYLINDER, (1, 2, 0), UPRIGHT, (0.3, 0.4), 3.0, (0, 0, -1)),
    "cylinder side": (CYLINDER, (1, 2, 0), ALONG_X, (1.5, 0.6), 4.2, (0, 0.6, -0.8)),
    "cylinder missed beside": (CYLINDER, (1, 2, 0), ALONG_X, (2.1, 0), None, None),
    "box face": (BOX, (1, 2, 0.5), UPRIGHT, (0.9, -1.9), 4.5, (0, 0, -1)),
    "box missed": (BOX, (1, 2, 0.5), UPRIGHT, (0.9, 2.1), None, None),
    "box turned, right face": (BOX, (1, 1, 1), TURNED, (0.5, 0), 5 - 2**0.5 + 0.5, (1, 0, -1)),
    "box turned, left face": (BOX, (1, 1, 1), TURNED, (-0.5, 0), 5 - 2**0.5 + 0.5, (-1, 0, -1)),
    "plane": (PLANE, (1, 2, 0.1), FACING, (0.9, 1.9), 5.0, (0, 0, -1)),
    "plane missed": (PLANE, (1, 2, 0.1), FACING, (1.1, 0), None, None),
    "endless plane": (PLANE, (0, 0, 0.1), FACING, (90, 70), 5.0, (0, 0, -1)),
    "plane from behind": (PLANE, (1, 2, 0.1), UPRIGHT, (0, 0), None, None),
}


def free_rays(start):
    return FreeRays((jnp.float32(start[0]), jnp.float32(start[1]), jnp.float32(0)), Z)


def pinhole_rays(start):
    return PinholeRays((float(start[0]), float(start[1]), 0.0), Z, X, Y, jnp.zeros(1), jnp.zeros(1))


@pytest.mark.parametrize("rays_from", [free_rays, pinhole_rays])
@pytest.mark.parametrize("name", CASES)
def test_hit_distance_and_normal(name, rays_from):
    kind, size, axes, start, distance, normal = CASES[name]
    hit = intersect(rays_from(start), kind, tuple(map(float, size)), Pose((0.0, 0.0, 5.0), axes))
    ok = bool(np.ravel(hit.ok & (hit.t > 0))[0])
    assert ok == (distance is not None)
    if distance is not None:
        assert np.ravel(hit.t)[0] == pytest.approx(distance, abs=2e-6)
        found = np.array([np.ravel(component)[0] for component in hit.normal])
        np.testing.assert_allclose(found / np.linalg.norm(found), np.array(normal) / np.linalg.norm(normal), atol=1e-5)


def test_pinhole_directions_are_forward_plus_x_right_plus_y_up():
    rays = PinholeRays((1.0, 2.0, 3.0), Y, X, Z, jnp.array([0.5]), jnp.array([-0.25]))
    np.testing.assert_allclose(np.ravel(rays.at(2.0)), [2.0, 4.0, 2.5])
    assert rays.along(Z)[0] == -0.25
    assert rays.squared()[0] == pytest.approx(1 + 0.25 + 0.0625)


def test_items_behind_the_origin_are_not_hit():
    hit = intersect(free_rays((0, 0)), SPHERE, (1.0, 0.0, 0.0), Pose((0.0, 0.0, -5.0), UPRIGHT))
    assert Code.of(3).pack(hit.t, hit.ok, 1) == Code.of(3).none


def test_surface_goes_on_past_its_silhouette():
    hit = intersect(free_rays((1.1, 0)), SPHERE, (1.0, 0.0, 0.0), Pose((0.0, 0.0, 5.0), UPRIGHT))
    assert hit.t == pytest.approx(5.0)
    np.testing.assert_allclose(np.ravel(hit.normal), [1.1, 0, 0], atol=1e-6)


def test_code_keeps_the_order_of_distances_and_the_index():
    code = Code.of(40)
    assert code.mask >= 40
    hits = [(3.0, True), (2.0, True), (1.0, False)]
    packed = [code.pack(jnp.float32(t), jnp.bool_(ok), k) for k, (t, ok) in enumerate(hits)]
    nearest = min(int(p) for p in packed)
    assert code.index(nearest) == 1
    assert float(code.distance(jnp.int32(nearest))) == pytest.approx(2.0, rel=2.0 ** (code.bits - 23))
    assert code.index(code.none) == code.mask


def test_pick_stays_a_scalar_when_all_agree():
    winner = jnp.array([0, 2, 5])
    assert pick(winner, {0: 0.5, 2: 0.5, 5: 0.5}) == 0.5
    np.testing.assert_allclose(pick(winner, {0: 0.5, 2: 0.25, 5: 0.75}), [0.5, 0.25, 0.75])


def test_culling_keeps_all_visible_items():
    rays = PinholeRays((0.0, 0.0, 0.0), Z, X, Y, 0.0, 0.0)
    window = (np.array([[-0.1]]), np.array([[0.1]]))
    centres = (np.array([0.0, 0.65, 0.75, 0.0]), np.zeros(4), np.array([5.0, 5.0, 5.0, -5.0]))
    near = may_intersect(rays, window, window, centres, np.full(4, 0.2))
    assert near.tolist() == [[True, True, False, False]]  # the edge of the view is at x = 0.5, 0.201 deep


def test_last_of_items_at_the_same_distance_shows():
    """As in OpenGL, which draws items in the order of the model."""
    code = Code.of(3)
    packed = [code.pack(jnp.float32(2.0), jnp.bool_(True), index) for index in (0, 1, 2)]
    assert int(code.index(min(packed))) == 2
    nearer = code.pack(jnp.float32(1.9), jnp.bool_(True), 0)
    assert int(code.index(min([nearer, *packed]))) == 0


@pytest.mark.parametrize("kind", [CYLINDER, CAPSULE])
def test_a_pixel_whose_centre_just_misses_a_side_is_shaded_as_the_side(kind):
    """Not as the lid, which may face away from all light."""
    hit = intersect(pinhole_rays((1.5, 1.1)), kind, (1.0, 2.0, 0.0), Pose((0.0, 0.0, 5.0), ALONG_X))
    assert not hit.ok.any()
    assert hit.t[0] == pytest.approx(5.0, abs=2e-6)
    np.testing.assert_allclose(np.ravel([np.ravel(v)[0] for v in hit.normal]), [0.0, 1.1, 0.0], atol=1e-5)
