"""Which code made a run: the checkout's commit, and only that of the package's own checkout."""

from __future__ import annotations

import subprocess

import pytest

from covr_jax.io.provenance import commit


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag is not a commit")
    return package


def test_the_commit_and_whether_files_differ_from_it(checkout):
    head = git(checkout, "rev-parse", "--short", "HEAD")
    assert commit.__wrapped__(checkout) == head
    (checkout / "new.txt").write_text("of no commit\n")
    assert commit.__wrapped__(checkout) == head
    (checkout / "module.py").write_text("x = 2\n")
    assert commit.__wrapped__(checkout) == f"{head}-dirty"


def test_a_package_that_is_installed_in_another_project_has_none(checkout, tmp_path_factory):
    installed = checkout / "site-packages" / "covr_jax"
    installed.mkdir(parents=True)
    assert commit.__wrapped__(installed) == ""
    assert commit.__wrapped__(tmp_path_factory.mktemp("nowhere")) == ""


def test_without_git_there_is_none(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit.__wrapped__(checkout) == ""
