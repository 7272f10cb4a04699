"""Checkpoints: whole or absent, exact, and one line for what cannot be read."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.io import arrays
from covr_jax.io.checkpoint import KEEP, Checkpointer
from tests.support.checkpoints import assert_equal, refuse, saved, state


def test_there_and_back_bit_for_bit(tmp_path):
    checkpointer, host = Checkpointer(tmp_path), {"rounds": 2, "start": [3, 4], "random_return": float("nan")}
    path = saved(checkpointer, 800, state(1), host, lambda folder: (folder.mkdir(), (folder / "a").write_text("x")))
    assert path == tmp_path / "checkpoints" / "800"
    restored, values, directory = checkpointer.restore(lambda: state(2))
    assert_equal(restored, state(1))
    assert directory == path and (directory / "adapter" / "a").read_text() == "x"
    assert values["start"] == [3, 4] and values["random_return"] is None  # JSON has no NaN
    # A restored key is as good as the one that was saved.
    np.testing.assert_array_equal(jax.random.normal(restored["keys"][1]), jax.random.normal(state(1)["keys"][1]))


def test_the_newest_is_restored_the_oldest_are_dropped_and_unfinished_ones_ignored(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for step in (5, 40, 300):
        saved(checkpointer, step, state(step), {"at": step})
    assert checkpointer.steps() == [40, 300][-KEEP:]  # by number, not by name
    (tmp_path / "checkpoints" / "999.tmp").mkdir()
    (tmp_path / "checkpoints" / "notes").mkdir()
    restored, host, _ = checkpointer.restore(lambda: state(0))
    assert host == {"at": 300} and int(restored["count"]) == 300
    older, _, _ = checkpointer.restore(lambda: state(0), 40)
    assert int(older["count"]) == 40
    saved(checkpointer, 300, state(301), {"at": 301})  # the same step again takes the place of the first
    assert int(checkpointer.restore(lambda: state(0))[0]["count"]) == 301


def test_nothing_there(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.steps() == []
    assert "no checkpoint" in refuse(checkpointer, state(0))
    saved(checkpointer, 5, state(0), {})
    assert "no checkpoint 6" in refuse(checkpointer, state(0), 6)


def damage_truncate(path):
    files = [file for file in (path / "state").rglob("*") if file.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_data(path):
    """The largest file loses its second half: the arrays, where all that describes them is whole."""
    files = (file for file in (path / "state").rglob("*") if file.is_file())
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def damage_state(path):
    for file in sorted((path / "state").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()


def damage_host(path):
    (path / "host.json").write_text('{"rounds": 1')


def damage_no_host(path):
    (path / "host.json").unlink()


def damage_no_manifest(path):
    (path / "manifest.json").unlink()


def damage_manifest(path):
    (path / "manifest.json").write_text('{"sha256": {}}')


DAMAGES = [
    damage_truncate,
    damage_data,
    damage_state,
    damage_host,
    damage_no_host,
    damage_no_manifest,
    damage_manifest,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_in_one_line_and_the_older_one_serves(tmp_path, damage):
    checkpointer, told = Checkpointer(tmp_path), []
    saved(checkpointer, 10, state(10), {"at": 10})
    damage(saved(checkpointer, 20, state(20), {"at": 20}))
    restored, host, directory = checkpointer.restore(lambda: state(0), tell=told.append)
    assert host == {"at": 10} and directory.name == "10"
    assert_equal(restored, state(10))
    (line,) = told
    assert str(tmp_path / "checkpoints" / "20") in line and line.endswith("; going on from 10 env steps")
    assert "\n" not in line
    with pytest.warns(UserWarning, match="going on from 10 env steps"):
        checkpointer.restore(lambda: state(0))
    assert refuse(checkpointer, state(0), 20).endswith("; take another one, [10]")
    damage(tmp_path / "checkpoints" / "10")
    with pytest.warns(UserWarning, match="going on from 10"):
        message = refuse(checkpointer, state(0))
    assert str(tmp_path / "checkpoints" / "10") in message


def test_one_flipped_bit_in_any_file_is_found(tmp_path):
    checkpointer, generator = Checkpointer(tmp_path), np.random.default_rng(0)
    saved(checkpointer, 10, state(10), {"at": 10})
    path = saved(
        checkpointer, 20, state(20), {"at": 20}, lambda folder: (folder.mkdir(), (folder / "a").write_text("x"))
    )
    files = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size]
    assert {"host.json", "manifest.json", "a"} <= {file.name for file in files} and len(files) > 6
    for file in files:
        whole = file.read_bytes()
        for bit in generator.integers(0, 8 * len(whole), 5):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            told = []
            _, host, _ = checkpointer.restore(lambda: state(0), tell=told.append)
            assert host == {"at": 10} and len(told) == 1, (file, bit)
        file.write_bytes(whole)
    assert checkpointer.restore(lambda: state(0))[1] == {"at": 20}


def test_a_run_that_goes_on_from_an_older_checkpoint_drops_the_damaged_one(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for step in (10, 20, 30):
        saved(checkpointer, step, state(step), {})
    damage_host(tmp_path / "checkpoints" / "30")
    saved(checkpointer, 25, state(25), {})
    assert checkpointer.steps() == [20, 25]


@pytest.mark.field
@pytest.mark.parametrize("name", ["a[1]b", "star*", "what?"])
def test_a_path_may_hold_any_character(tmp_path, name):
    checkpointer = Checkpointer(tmp_path / name)
    saved(checkpointer, 10, state(10), {"at": 10})
    assert_equal(checkpointer.restore(lambda: state(0))[0], state(10))


@pytest.mark.field
@pytest.mark.parametrize("moves", [0, 1])
def test_what_killed_processes_left_is_cleaned(tmp_path, moves):
    """Killed while a checkpoint took the place of another one: before its last move, or after it."""
    checkpointer = Checkpointer(tmp_path)
    path = saved(checkpointer, 10, state(10), {"at": 10})
    path.rename(path.with_suffix(".old"))
    if moves:
        shutil.copytree(path.with_suffix(".old"), path)
    shutil.copytree(path if moves else path.with_suffix(".old"), path.with_name("20.tmp"))
    checkpointer.clean()
    assert [folder.name for folder in path.parent.iterdir()] == ["10"]
    assert checkpointer.restore(lambda: state(0))[1] == {"at": 10}


@pytest.mark.field
@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_a_state_of_another_structure_is_refused(tmp_path, monkeypatch, change):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(str(error.object)))
    arrays._pass_over_what_is_raised.cache_clear()
    checkpointer = Checkpointer(tmp_path)
    for step in (0, 1):  # the older one would not help
        saved(checkpointer, step, state(1), {})
    like = state(1)
    if change == "shape":
        like["params"]["w"] = jnp.zeros((64, 34), jnp.float32)
    elif change == "missing":
        like["momentum"] = jnp.zeros(3)
    else:
        del like["frames"]
    message = refuse(checkpointer, like)
    assert "is whole but holds another state" in message and "delete" not in message
    gc.collect()  # orbax's coroutines for the other arrays tell of their errors when they are collected
    assert printed == []
    arrays._pass_over_what_is_raised.cache_clear()


def test_one_that_is_written_again_is_never_found_half_deleted(tmp_path, monkeypatch):
    checkpointer, remove = Checkpointer(tmp_path), shutil.rmtree
    saved(checkpointer, 300, state(1), {"at": 1})

    def killed(path, ignore_errors=False):
        if path.exists():
            (path / "host.json").unlink()  # half way
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        saved(checkpointer, 300, state(2), {"at": 2})
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert checkpointer.restore(lambda: state(0))[1] == {"at": 2}
    saved(checkpointer, 300, state(3), {"at": 3})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["300"]


def test_threads_write_one_after_the_other(tmp_path, monkeypatch):
    """Of 48 saves by four threads at once 2 failed: orbax had taken the files of one for those of another."""
    at_it, most = [], []

    def save(path, tree):
        at_it.append(path)
        most.append(len(at_it))
        time.sleep(0.02)
        at_it.remove(path)

    monkeypatch.setattr(arrays.ocp, "save", save)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: arrays.save(tmp_path / name, {}), "abcd"))
    assert most == [1, 1, 1, 1]
