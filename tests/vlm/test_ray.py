"""The VLM in a Ray actor: the contract of the other modes, a killed actor, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from covr_jax import config
from covr_jax.config import ConfigError
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from covr_jax.vlm.serving.protocol import PriorError
from tests.support.faults import expected, some_frames
from tests.support.services import make, story


def descendants():
    """Command lines of the processes that this one started, directly or not, by their ids."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if stat[0] != "Z":
            parents[int(folder.name)] = int(stat[1])
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: lines[pid] for pid in found - {os.getpid()}}


def query_when_back(service, frames):
    end = time.monotonic() + 60
    while True:
        try:
            return service.query(frames)
        except PriorError:
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.mark.slow
def test_an_actor_gives_the_same_results_and_loses_nothing_when_it_is_killed(tmp_path):
    """In a process of its own: Linux refuses to fork one that maps more than the machine's memory, as one that has run
    hundreds of tests does, and Ray's processes are forked."""
    command = [sys.executable, "-m", "tests.vlm.test_ray", str(tmp_path)]
    run = {"capture_output": True, "text": True, "timeout": 300, "cwd": Path(__file__).parents[2]}
    done = subprocess.run(command, check=False, **run)
    assert done.returncode == 0, done.stderr[-2000:]


def kill_an_actor(tmp_path):
    """What the test above does."""
    before = descendants()
    service = make("ray", tmp_path)
    try:
        reference = story(factory.SyncService(FakeVLM()), tmp_path / "reference")
        assert story(service, tmp_path / "saved") == reference
        assert (tmp_path / "saved/bias.json").read_bytes() == (tmp_path / "reference/bias.json").read_bytes()

        actors = [pid for pid, line in descendants().items() if "EngineActor" in line]
        assert len(actors) == 1
        queries = service.counters["queries"]
        os.kill(actors[0], signal.SIGKILL)
        prior = query_when_back(service, some_frames(7))
        assert prior.action.tolist() == expected(some_frames(7), 3.0).action.tolist()  # two rounds of 1.5
        assert service.counters["queries"] == queries + 1 and service.counters["rounds"] == 2
        assert (service.counters["failures"], service.counters["restarts"]) == (1, 1)
        assert actors[0] not in descendants()

        (tmp_path / "old").mkdir()
        (tmp_path / "old/bias.json").write_text("0.25")
        service.restore(tmp_path / "old", {"rounds": 1}, 0)
        assert service.query(some_frames(8)).action.tolist() == expected(some_frames(8), 0.25).action.tolist()
    finally:
        service.close()
    end = time.monotonic() + 20
    while set(descendants()) - set(before) and time.monotonic() < end:
        time.sleep(0.1)
    assert set(descendants()) <= set(before)


def test_without_ray_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "covr_jax.vlm.serving.ray_worker", raising=False)
    options = config.Config(method="covr", vlm=config.VLMConfig(name="fake", mode="ray"))
    with pytest.raises(ConfigError, match=r"^--vlm.mode ray needs the package ray; pip install 'covr_jax\[scale\]'$"):
        factory.make_vlm(options, 1, tmp_path)


if __name__ == "__main__":
    kill_an_actor(Path(sys.argv[1]))
