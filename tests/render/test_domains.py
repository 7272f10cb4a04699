"""Domains of the suite that are none of ours, at any camera and size, with nothing made for them."""

import mujoco
import numpy as np
import pytest

from covr_jax.render import Renderer

suite = pytest.importorskip("dm_control.suite")

CASES = [  # domain, task, camera, height, width
    ("swimmer", "swimmer6", 2, 60, 100),  # an eye inside the head
    ("fish", "swim", 3, 84, 84),  # thin fins from far away
    ("stacker", "stack_2", 1, 100, 84),  # starry walls, some of them in the mirror
    ("humanoid", "stand", 0, 84, 120),
    ("quadruped", "walk", 1, 84, 84),
]


@pytest.mark.slow
@pytest.mark.parametrize("domain, task, camera, height, width", CASES)
def test_domain(domain, task, camera, height, width, opengl, decibel):
    environment = suite.load(domain, task, task_kwargs={"random": 3})
    random, spec = np.random.default_rng(0), environment.action_spec()
    environment.reset()  # some tasks move lights and hide items here
    model, data = environment.physics.model.ptr, environment.physics.data.ptr
    model.vis.quality.offsamples = 4
    reference, renderer = opengl(model, height, width, camera), Renderer(model, height, width, camera)
    found = []
    for _ in range(3):
        for _ in range(10):
            environment.step(random.uniform(spec.minimum, spec.maximum))
        mujoco.mj_forward(model, data)
        found.append(decibel(renderer(data), reference(data)))
    assert np.mean(found) >= 36.0, found


def test_skins_are_refused():
    with pytest.raises(ValueError, match="skins are not supported"):
        Renderer(suite.load("dog", "stand").physics.model.ptr)
