"""Light, clamps and chain against numbers worked out by hand."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.render import scene
from covr_jax.render.facets import Normals
from covr_jax.render.shade import LEVELS, Material, light_eval, light_passes, pack_colour, unpack_colour
from covr_jax.render.tendon import hanging_chain
from covr_jax.render.view import Light

GREY = Material((0.8, 0.8, 0.8), 0.0, 0.5, 0.5)
UP = (0.0, 0.0, 1.0)
ORIGIN = (0.0, 0.0, 0.0)
FLAT = Normals.flat(UP)
LAMP = scene.Light(
    index=0,
    directional=False,
    ambient=(0.1,) * 3,
    diffuse=(0.5,) * 3,
    specular=(0.3,) * 3,
    attenuation=(1.0, 0.0, 0.0),
    cutoff=50.0,
    exponent=2.0,
    shadow=False,
    mode=0,
    body=0,
    target=0,
    pose=(ORIGIN,) * 5,
)


def lamp(position=(0.0, 0.0, 2.0), direction=(0.0, 0.0, -1.0), **changes):
    return Light(dataclasses.replace(LAMP, **changes), position, direction)


def shine(light, eye=(0.0, 0.0, 3.0), point=ORIGIN, material=GREY, normals=FLAT):
    return float(light_eval(light, point, normals, eye, material)[0])


def test_light_from_straight_above():
    assert shine(lamp()) == pytest.approx((0.1 + 0.5) * 0.8 + 0.5 * 0.3, rel=1e-5)


def test_mirror_direction_has_the_full_highlight():
    sine, cosine = math.sin(math.radians(60)), math.cos(math.radians(60))
    light = lamp(directional=True, direction=(-sine, 0.0, -cosine))
    assert shine(light, eye=(-sine, 0.0, cosine)) == pytest.approx((0.1 + 0.5 * 0.5) * 0.8 + 0.5 * 0.3, rel=1e-5)


def test_highlight_falls_with_the_64th_power():
    light = lamp(directional=True)
    angle = math.radians(10)  # the half vector is 5 degrees off the normal
    eye = (math.sin(angle), 0.0, math.cos(angle))
    expected = 0.6 * 0.8 + 0.5 * 0.3 * math.cos(math.radians(5)) ** 64
    assert shine(light, eye=eye) == pytest.approx(expected, rel=1e-4)


def test_light_from_below_is_ambient_only():
    assert shine(lamp(directional=True, direction=UP)) == pytest.approx(0.1 * 0.8, rel=1e-5)


def test_a_facet_is_continued_in_its_plane():
    """Its diffuse light may fall below zero there, and its highlight stays."""
    brighter, darker = (shine(lamp(), normals=Normals(UP, (0.0, 0.0, z))) for z in (1.3, -0.5))
    assert brighter == pytest.approx((0.1 + 1.3 * 0.5) * 0.8 + 0.5 * 0.3, rel=1e-5)
    assert darker == pytest.approx((0.1 - 0.5 * 0.5) * 0.8 + 0.5 * 0.3, rel=1e-5)
    assert shine(lamp(), normals=Normals((0.0, 0.0, -1.0), UP)) == pytest.approx(0.1 * 0.8, rel=1e-5)


def test_spot_fades_and_ends():
    aside = (2.0 * math.tan(math.radians(40)), 0.0, 0.0)
    beyond = (2.0 * math.tan(math.radians(51)), 0.0, 0.0)
    fade = math.cos(math.radians(40)) ** 2
    dull = GREY._replace(specular=0.0)
    expected = fade * (0.1 + 0.5 * math.cos(math.radians(40))) * 0.8
    assert shine(lamp(), point=aside, material=dull) == pytest.approx(expected, rel=1e-4)
    assert shine(lamp(), point=beyond) == 0.0


def test_attenuation():
    assert shine(lamp(attenuation=(1.0, 0.5, 0.25))) == pytest.approx(shine(lamp()) / 3, rel=1e-5)


def test_each_pass_is_clamped_by_itself():
    bright = (2.0, 2.0, 2.0)
    lights = (lamp(diffuse=bright), lamp(diffuse=bright, shadow=True))
    passes = light_passes(lights, ORIGIN, FLAT, (0.0, 0.0, 3.0), GREY)
    assert [float(colour[0]) for colour in passes] == [1.0, 1.0]
    (together,) = light_passes(lights, ORIGIN, FLAT, (0.0, 0.0, 3.0), GREY, shadows=False)
    assert float(together[0]) == 1.0


def test_emission_belongs_to_the_first_pass():
    glowing = GREY._replace(emission=0.25)
    first, second = light_passes((lamp(), lamp(shadow=True)), ORIGIN, FLAT, (0.0, 0.0, 3.0), glowing)
    assert float(first[0] - second[0]) == pytest.approx(0.25 * 0.8, rel=1e-5)


def test_colours_survive_packing():
    levels = jnp.arange(256) / 255.0
    packed = unpack_colour(pack_colour((levels, levels[::-1], 0.5 * levels)))
    np.testing.assert_allclose(packed[0], levels, atol=1e-6)
    np.testing.assert_allclose(packed[1], levels[::-1], atol=1e-6)
    np.testing.assert_allclose(packed[2], 0.5 * levels, atol=0.51 / LEVELS)


def test_chain_of_a_known_catenary():
    # y = cosh x on [-1, 1]: span 2, length 2 sinh 1, sag cosh 1 - 1
    length = 2 * math.sinh(1)
    points = np.asarray(hanging_chain(jnp.array([-1.0, 0.0, 0.0]), jnp.array([1.0, 0.0, 0.0]), length, UP))
    np.testing.assert_allclose(points[[0, -1]], [[-1, 0, 0], [1, 0, 0]], atol=1e-4)
    assert points[:, 2].min() == pytest.approx(-(math.cosh(1) - 1), abs=1e-3)
    np.testing.assert_allclose(points[:, 2], np.cosh(points[:, 0]) - math.cosh(1), atol=1e-3)


@pytest.mark.parametrize("stop", [(0.1, 0.0, -0.2), (0.0, 0.001, -0.1), (0.25, 0.0, 0.1)])
def test_chain_keeps_its_length_and_ends(stop):
    points = np.asarray(hanging_chain(jnp.zeros(3), jnp.array(stop), 0.3, UP), float)
    np.testing.assert_allclose(points[-1], stop, atol=2e-3)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).sum() == pytest.approx(0.3, rel=0.03)
