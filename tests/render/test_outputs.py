"""Depth and segmentation as mujoco.Renderer gives them."""

import mujoco
import numpy as np
import pytest

from covr_jax.render import HostRenderer, Renderer

GEOM, SITE = int(mujoco.mjtObj.mjOBJ_GEOM), int(mujoco.mjtObj.mjOBJ_SITE)


@pytest.fixture
def reference(make_zoo, opengl):
    """The zoo, and OpenGL's depth and object image of it."""
    model, data = make_zoo()
    renderer = opengl(model, 84, 100, "main")
    return model, data, renderer


def opengl_depth(renderer: HostRenderer, model, data):
    """metres, from the depth buffer of the image just drawn."""
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = False  # it would hide that nothing is there
    renderer(data)
    area, buffer = mujoco.MjrRect(0, 0, 100, 84), np.empty((84, 100), np.float32)
    mujoco.mjr_readPixels(None, buffer, area, renderer.context)
    near, far = (limit * model.stat.extent for limit in (model.vis.map.znear, model.vis.map.zfar))
    stored = buffer[::-1].astype(float)
    if renderer.context.readDepthMap == mujoco.mjtDepthMap.mjDEPTH_ZERONEAR:
        return near / (1 - stored * (1 - near / far))
    return near / (1 - (1 - stored) * (1 - near / far))


def test_depth_matches_opengl(reference):
    model, data, renderer = reference
    found = np.asarray(Renderer(model, 84, 100, "main", output="depth")(data))
    assert found.shape == (84, 100) and found.dtype == np.float32
    error = np.abs(found - opengl_depth(renderer, model, data)) / found
    assert np.median(error) < 1e-5
    assert np.quantile(error, 0.97) < 2e-3  # silhouettes, and OpenGL's solids are polyhedra


def test_segmentation_matches_opengl(reference):
    model, data, renderer = reference
    found = np.asarray(Renderer(model, 84, 100, "main", output="segmentation")(data))
    assert found.shape == (84, 100, 2) and found.dtype == np.int32
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
    codes = renderer(data).astype(int) @ [1, 256, 65536]
    names = {geom.segid + 1: (geom.objid, geom.objtype) for geom in renderer.scene.geoms[: renderer.scene.ngeom]}
    expected = np.array([[names.get(code, (-1, -1)) for code in row] for row in codes.tolist()])
    assert (found == expected).all(-1).mean() > 0.999
    assert {(0, GEOM), (0, SITE), (5, GEOM), (-1, -1)} <= set(map(tuple, found.reshape(-1, 2).tolist()))


def test_depth_ignores_transparent_items():
    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody><camera name="eye" xyaxes="1 0 0 0 0 1"/>
      <geom type="box" size="9 .5 9" pos="0 5 0"/><geom type="box" size="3 .1 3" pos="0 3 0" rgba="0 1 0 .25"/>
      </worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert np.asarray(Renderer(model, 3, 3, output="depth")(data))[1, 1] == pytest.approx(4.5, rel=1e-5)
    assert np.asarray(Renderer(model, 3, 3, output="segmentation")(data))[1, 1].tolist() == [1, GEOM]


def test_unknown_output_is_refused(make_zoo):
    with pytest.raises(ValueError, match="output must be one of rgb, depth, segmentation, got 'normals'"):
        Renderer(make_zoo()[0], output="normals")
