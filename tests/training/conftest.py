"""Runs that the tests of the training loop share; each is trained once per session."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest

from tests.support.watched_runs import watched_run


@pytest.fixture(scope="session")
def run(make_programs):
    """run(config, directory, stop_at) -> Log."""
    return partial(watched_run, make_programs)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def covr(run, tiny_config, folder):
    return run(tiny_config, folder / "covr")


@pytest.fixture(scope="session")
def rad(run, tiny_config, folder):
    return run(dataclasses.replace(tiny_config, method="rad"), folder / "rad")


@pytest.fixture(scope="session")
def resumed(run, tiny_config, folder):
    """The run ``covr`` again, killed once while unguided and once while guided."""
    return [run(tiny_config, folder / "resumed", stop_at) for stop_at in (5300, 9500, math.inf)]
