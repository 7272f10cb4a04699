"""The folder of compiled programs, with and without a home."""

import os
from pathlib import Path

import pytest

from covr_jax.runtime.cache import cache_folder


def test_it_is_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("xla") == tmp_path / ".cache" / "covr_jax" / "xla"
    assert cache_folder("xla").is_dir()


@pytest.mark.field
@pytest.mark.parametrize("fault", ["no home", "a file in its place"])
def test_without_a_usable_home_it_is_temporary(tmp_path, monkeypatch, fault):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".cache").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    if fault == "no home":
        monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder("native") == tmp_path / f"covr_jax-{os.getuid()}" / "native"
    assert cache_folder("native").is_dir()


@pytest.mark.field
def test_a_temporary_folder_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    (tmp_path / ".cache").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    theirs = tmp_path / f"covr_jax-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    ours = cache_folder("xla")
    assert theirs not in ours.parents and ours.parent.stat().st_mode & 0o077 == 0
