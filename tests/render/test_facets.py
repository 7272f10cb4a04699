"""Normals by which balls and capsules are lit, against facets that are walked through one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.render.facets import mean_facet
from covr_jax.render.raycast import hit_capsule, hit_sphere
from covr_jax.render.rays import ParallelRays
from covr_jax.render.scene import SAMPLES, Lens

RADIUS, PIXEL = 0.03, 0.02  # m
LENS = Lens(width=PIXEL, height=PIXEL, x=0.0, y=0.0)
RIGHT, UP, FORWARD = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)
SLICES = 4000


def rays(x, y):
    """Rays along -z through (x, y), m."""
    return ParallelRays((0.0, 0.0, 1.0), FORWARD, RIGHT, UP, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))


def lit(hit, through, samples, radius, axis=(0.0, 0.0, 0.0)):
    """The normals of the first ray: of what its samples see, and continued."""
    return (np.array(normal)[:, 0] for normal in mean_facet(LENS, samples, through, hit.t, hit.normal, radius, axis))


def by_facets(centre, others):
    """The mean normals, (across, towards), of the facets at ``others``, and of them continued; in radii, float64."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, SLICES // 2 + 1)
    across, towards = np.sin(angle), np.cos(angle)
    seen, continued = [], []
    for place in others:
        if abs(place) < 1:
            k = np.searchsorted(across, place) - 1
            slope = (towards[k + 1] - towards[k]) / (across[k + 1] - across[k])
            seen.append([place, towards[k] + slope * (place - across[k])])
            continued.append([centre, towards[k] + slope * (centre - across[k])])
    mean = np.mean(seen, axis=0)
    return mean / np.linalg.norm(mean), np.mean(continued, axis=0)


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("x", [-0.033, -0.028, -0.01, 0.0, 0.013, 0.026, 0.033])
def test_an_upright_capsule_is_lit_by_the_facets_that_its_samples_see(x, samples):
    through = rays([x], [0.1])
    hit = hit_capsule(through, (0.0, 0.0, 0.0), UP, RADIUS, 1.0)
    seen, continued = lit(hit, through, SAMPLES[samples], RADIUS, UP)
    others = [(x + (place - 0.5) * PIXEL) / RADIUS for place, _ in SAMPLES[samples]]
    for found, (across, towards) in zip((seen, continued), by_facets(x / RADIUS, others), strict=True):
        np.testing.assert_allclose(found, [across, 0.0, towards], atol=2e-3)


def test_a_ball_is_lit_by_the_planes_that_touch_it():
    """Its facets in every direction: one sample's plane, worked out by hand."""
    x, y = 0.02, 0.01
    sample = ((0.75, 0.25), (9.0, 9.0))  # the second one misses
    through = rays([x], [y])
    seen, continued = lit(hit_sphere(through, (0.0, 0.0, 0.0), RADIUS), through, sample, RADIUS)
    u, other = np.array([x, y]) / RADIUS, np.array([x + 0.25 * PIXEL, y + 0.25 * PIXEL]) / RADIUS
    height = np.sqrt(1 - other @ other)
    np.testing.assert_allclose(seen, [*other, height], atol=1e-5)
    np.testing.assert_allclose(continued, [*u, (1 - u @ other) / height], atol=1e-5)


def test_the_middle_of_a_thick_item_is_as_round_as_it_is():
    through, radius = rays([0.5], [0.0]), 3.0
    for found in lit(hit_sphere(through, (0.0, 0.0, 0.0), radius), through, SAMPLES[4], radius):
        np.testing.assert_allclose(found, [0.5 / radius, 0.0, np.sqrt(1 - (0.5 / radius) ** 2)], atol=1e-5)
