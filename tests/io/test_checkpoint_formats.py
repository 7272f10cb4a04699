"""Checkpoints of other formats, parts of one, and what writing and reading cost in time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import __version__, replay
from covr_jax.io import checkpoint, manifest
from covr_jax.io.checkpoint import Checkpointer, CheckpointError
from covr_jax.io.formats import AS_TODAY, FORMAT, History
from covr_jax.runtime import memory
from covr_jax.training.state import HISTORY, ExperienceState, initial_progress
from tests.support.checkpoints import assert_equal, refuse, saved, state


def test_the_format_is_recorded_and_format_1_is_read(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    path = saved(checkpointer, 1, state(1), {"at": 1}) / "host.json"
    assert json.loads(path.read_text()) == {"at": 1, "format": FORMAT, "covr_jax_version": __version__}
    assert checkpointer.restore(lambda: state(0))[1] == {"at": 1}
    path.write_text('{"at": 1}')  # as version 0.1.0 wrote it
    (path.parent / "manifest.json").unlink()
    assert checkpointer.restore(lambda: state(0))[1] == {"at": 1}


def test_arrays_that_a_later_format_added_are_0_in_an_earlier_one(tmp_path):
    added = {FORMAT: ("['count']",), FORMAT - 1: ("['valid']",)}
    earlier = {name: value for name, value in state(7).items() if name != "count"}
    checkpointer = Checkpointer(tmp_path, history=History(added=added))
    path = saved(checkpointer, 1, earlier, {"at": 1})
    with pytest.raises(CheckpointError, match="holds another state"):
        checkpointer.restore(lambda: state(0))
    (path / "host.json").write_text(json.dumps({"format": FORMAT - 1, "covr_jax_version": "0.2.0"}))
    manifest.write_manifest(path)
    restored, _, _ = checkpointer.restore(lambda: state(3))
    assert_equal(restored, state(7) | {"count": jnp.zeros((), jnp.int32)})


def test_an_array_that_has_another_shape_since_a_format_is_read_in_its_order(tmp_path):
    """Twice reshaped: [5,48] today, [5,4,12] since format FORMAT - 1, [5,4,4,3] before that."""
    shapes = {FORMAT: {"['frames']": lambda s: (5, 4, 12)}, FORMAT - 1: {"['frames']": lambda s: (5, 4, 4, 3)}}
    checkpointer = Checkpointer(tmp_path, history=History(reshaped=shapes))
    today = state(7) | {"frames": state(7)["frames"].reshape(5, 48)}
    for version, stored in ((FORMAT - 2, (5, 4, 4, 3)), (FORMAT - 1, (5, 4, 12)), (FORMAT, (5, 48))):
        path = saved(checkpointer, version, state(7) | {"frames": state(7)["frames"].reshape(stored)}, {})
        (path / "host.json").write_text(json.dumps({"format": version, "covr_jax_version": "0.2.0"}))
        manifest.write_manifest(path)
        restored, _, _ = checkpointer.restore(lambda: jax.tree.map(jnp.copy, today), version)
        assert_equal(restored, today)


def test_frames_of_a_run_were_images_before_format_5():
    (name, shape), *others = HISTORY.before(4).shapes.items()
    assert not others and shape((5, 2, 48)) == (5, 2, 4, 4, 3)
    ring = ExperienceState(replay.init(5, 2, 4, 1), initial_progress(2))
    paths = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(ring)}
    assert paths[name] == (5, 2, 48)
    assert HISTORY.before(3).lacking and HISTORY.before(5) == AS_TODAY


def test_a_part_of_a_state_is_read_alone_and_must_be_there(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    saved(checkpointer, 1, state(1), {})
    part = {"params": state(0)["params"], "keys": state(0)["keys"]}
    restored, _, _ = checkpointer.restore(lambda: part, partial=True)
    assert_equal(restored, {name: state(1)[name] for name in part})
    with pytest.raises(CheckpointError, match=r"no \['momentum'\]"):
        checkpointer.restore(lambda: part | {"momentum": jnp.zeros(3)}, partial=True)


def test_training_goes_on_while_a_copy_of_the_state_is_written(tmp_path, monkeypatch):
    from covr_jax.io import arrays

    written, may_write = [], threading.Event()

    def slow(path, tree):
        may_write.wait(20)
        written.append(tree)
        path.mkdir()

    monkeypatch.setattr(arrays, "save", slow)
    checkpointer, weights = Checkpointer(tmp_path), jnp.arange(3.0)
    checkpointer.save(5, {"w": weights}, {})
    weights.delete()  # what a program does with a state that it was given
    assert not written and not (tmp_path / "checkpoints" / "5").exists() and checkpointer.last is None
    may_write.set()
    checkpointer.wait()
    np.testing.assert_array_equal(written[0]["w"], [0, 1, 2])
    assert checkpointer.steps() == [5] and checkpointer.last.env_steps == 5
    assert 0 < checkpointer.last.blocked_seconds < checkpointer.last.seconds


@pytest.mark.parametrize("changed", [(memory, "free_bytes", lambda storage: 10), (checkpoint, "_COPY_BYTES", 11)])
def test_a_state_is_not_copied_where_memory_does_not_hold_it_or_it_is_large(tmp_path, monkeypatch, changed):
    from covr_jax.io import arrays

    written = []
    monkeypatch.setattr(arrays, "save", lambda path, tree: (written.append(tree), path.mkdir()))
    monkeypatch.setattr(*changed)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(6, {"w": jnp.ones(3)}, {})
    assert (tmp_path / "checkpoints" / "6").exists() and isinstance(written[0]["w"], jax.Array)
    assert checkpointer.last.blocked_seconds == checkpointer.last.seconds


@pytest.mark.field
def test_a_later_format_is_refused_in_one_line_that_says_who_wrote_it(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    path = saved(checkpointer, 1, state(1), {}) / "host.json"
    path.write_text(json.dumps({"format": FORMAT + 1, "covr_jax_version": "9.9.9"}))
    manifest.write_manifest(path.parent)
    with pytest.raises(
        CheckpointError, match=rf"written by covr_jax 9\.9\.9 in format {FORMAT + 1}.*install 9\.9\.9 or later"
    ) as caught:
        checkpointer.restore(lambda: pytest.fail("the state was made"))
    assert "\n" not in str(caught.value)


def test_the_state_to_fill_is_gone_before_one_is_read(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    checkpointer, load, alive = Checkpointer(tmp_path), ocp.load, []
    saved(checkpointer, 1, state(1), {})

    def like():
        filled = state(0)
        alive.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(filled))
        return filled

    def watched(*arguments):
        assert alive and not any(leaf() is not None for leaf in alive)
        return load(*arguments)

    monkeypatch.setattr(ocp, "load", watched)
    assert_equal(checkpointer.restore(like)[0], state(1))


RESTORING = """
import sys
import jax.numpy as jnp
from covr_jax import runtime
from covr_jax.io.checkpoint import Checkpointer
runtime.configure()

def resident(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

like = lambda: {"frames": jnp.zeros((256, 2**20), jnp.uint8)}  # 256 MiB
checkpointer, before = Checkpointer(sys.argv[1]), resident("VmRSS:")
state, _, _ = checkpointer.restore(like)
print(resident("VmHWM:") - before, resident("VmRSS:") - before, int(state["frames"][7, 0]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_that_restores_a_state_keeps_one_copy_of_it(tmp_path):
    saved(Checkpointer(tmp_path), 1, {"frames": jnp.full((256, 2**20), 9, jnp.uint8)}, {})
    command = [sys.executable, "-c", RESTORING, str(tmp_path)]
    peak, kept, value = map(int, subprocess.run(command, capture_output=True, timeout=300, check=True).stdout.split())
    assert value == 9 and kept < 1.5 * 2**28 and peak < 3.6 * 2**28


@pytest.mark.field
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: out of memory")])
def test_memory_that_does_not_suffice_costs_no_checkpoint(tmp_path, monkeypatch, error):
    from orbax.checkpoint import v1 as ocp

    def full(*_):
        raise error

    checkpointer = Checkpointer(tmp_path)
    saved(checkpointer, 1, state(1), {})
    monkeypatch.setattr(ocp, "load", full)
    message = refuse(checkpointer, state(0))
    assert message.endswith("; free memory and run again") and "delete" not in message
