"""OpenGL from inside compiled programs: MuJoCo's image of the tasks bit for bit, and the lifetime of its context."""

import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from covr_jax import envs
from covr_jax.render import RendererError, gl, make_renderer, mujoco_renderer

NUM_ENVS = 2
MODEL = mujoco.MjModel.from_xml_string("""<mujoco><worldbody><light pos="0 0 3"/><geom type="plane" size="1 1 .5"/>
  <body pos="0 0 .5"><joint/><geom size=".2" rgba="1 0 0 1"/></body>
  <camera pos="0 -2 1" xyaxes="1 0 0 0 .45 1"/></worldbody></mujoco>""")


@pytest.fixture
def make_gl(opengl):
    """GLRenderers that are closed after the test; skips where there is no OpenGL."""
    opengl(MODEL, 8, 8)
    made = []

    def make(*args, **options):
        made.append(make_renderer("gl", *args, **options))
        return made[-1]

    yield make
    for renderer in made:
        renderer.close()


def data_of(qpos=0.0):
    data = mujoco.MjData(MODEL)
    data.qpos[:] = qpos
    mujoco.mj_forward(MODEL, data)
    return data


def compiled(renderer):
    """The renderer as a program, and mjx.Data for it."""
    return jax.jit(renderer), mjx.put_data(MODEL, data_of())


def gl_threads():
    return [thread for thread in threading.enumerate() if thread.name == "opengl"]


# ball_in_cup: the string hangs in one env and is taut, red at its limit, in the other
@pytest.mark.parametrize("task", ["reacher_easy", "cheetah_run", "ball_in_cup_catch"])
def test_environments_show_mujocos_own_image(task, opengl, observe):
    model = envs.get_task(task).load_model()
    reference = opengl(model)
    env = envs.make(task, NUM_ENVS, renderer="gl")
    qpos = (model.qpos0 + np.random.default_rng(0).uniform(-0.3, 0.3, (NUM_ENVS, model.nq))).astype(np.float32)
    if task == "ball_in_cup_catch":
        qpos[:, :2], qpos[:, 2:] = 0.0, ((0.1, 0.2), (0.0, -0.01))
    goal = jnp.asarray([[0.15, -0.05], [-0.1, 0.1]]) if task == "reacher_easy" else None
    frames = observe(env, qpos, goal)
    for env_id in range(NUM_ENVS):
        if goal is not None:
            model.geom("target").pos[:2] = goal[env_id]
        data = mujoco.MjData(model)
        data.qpos[:] = qpos[env_id]
        mujoco.mj_forward(model, data)
        np.testing.assert_array_equal(frames[env_id], reference(data))
    assert (frames[0] != frames[1]).any(-1).mean() > 0.01


def test_one_thread_draws_whoever_calls(make_gl, monkeypatch):
    renderer, names, render = make_gl(MODEL, 16, 16), [], gl.GLWorker.render

    def watched(worker, fields):
        names.append(threading.current_thread().name)
        return render(worker, fields)

    monkeypatch.setattr(gl.GLWorker, "render", watched)
    draw, data = compiled(renderer)
    with ThreadPoolExecutor(3) as pool:
        images = [np.asarray(image) for image in pool.map(lambda _: draw(data), range(6))]
    assert names == ["opengl"] * 6
    assert all((image == images[0]).all() for image in images)


def test_samples_are_opengls(make_gl, opengl):
    smooth, sharp = (np.asarray(make_gl(MODEL, 40, 40, samples=samples)(data_of())) for samples in (4, 1))
    assert (smooth != sharp).any()
    np.testing.assert_array_equal(smooth, opengl(MODEL, 40, 40)(data_of()))
    assert MODEL.vis.quality.offsamples == 4  # the caller's model is untouched


def test_samples_that_opengl_does_not_grant_are_refused(make_gl, monkeypatch):
    monkeypatch.setattr(gl.GLThread, "samples", property(lambda thread: 8))
    before = gl_threads()
    with pytest.raises(RendererError, match="draws with 8 samples per pixel when asked for 4; take 8"):
        make_gl(MODEL)
    assert gl_threads() == before


def test_the_context_ends_with_close(make_gl):
    renderer, before = make_gl(MODEL, 16, 16), len(gl_threads())
    draw, data = compiled(renderer)
    draw(data).block_until_ready()
    renderer.close()
    renderer.close()
    assert len(gl_threads()) == before - 1
    with pytest.raises(ValueError, match="this renderer is closed"):
        draw(data).block_until_ready()


def test_the_context_ends_with_its_renderer(make_gl):
    make_gl(MODEL, 8, 8)
    before = len(gl_threads())
    renderer = make_renderer("gl", MODEL, 16, 16)
    draw, data = compiled(renderer)
    draw(data).block_until_ready()
    assert len(gl_threads()) == before + 1
    del renderer, draw
    gc.collect()
    assert len(gl_threads()) == before


def test_a_program_ends_cleanly(opengl):
    """Also with contexts that nobody closed: they are freed before OpenGL's own exit hooks, and nothing complains."""
    opengl(MODEL, 8, 8)
    code = """import mujoco
from covr_jax.render import mujoco_renderer
from covr_jax.render import HostRenderer, make_renderer
close = HostRenderer.close
HostRenderer.close = lambda self: (close(self), print("freed"))
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/><camera/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderers = [make_renderer("gl", model, 8, 8) for _ in range(2)]
print([renderer(data).shape for renderer in renderers])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[(8, 8, 3), (8, 8, 3)]\nfreed\nfreed\n", "")


def test_without_opengl_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mujoco_renderer, "BACKENDS", ())
    before = gl_threads()
    line = r"^renderer gl: no off-screen OpenGL: install OSMesa \(libosmesa6\) or EGL \(libegl1\)$"
    with pytest.raises(RendererError, match=line):
        make_renderer("gl", MODEL)
    assert gl_threads() == before


def test_images_larger_than_the_models_buffer(make_gl):
    image = np.asarray(make_gl(MODEL, 500, 700)(data_of()))
    small = np.asarray(make_gl(MODEL, 125, 175)(data_of()), float)
    assert image.shape == (500, 700, 3)
    assert np.abs(image.reshape(125, 4, 175, 4, 3).mean((1, 3)) - small).mean() < 2
