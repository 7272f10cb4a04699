"""The report of a whole run."""

import pytest

from covr_jax.report import write_report
from tests.support.synthetic_run import finish, make_run


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("run"))
    finish(folder)
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text()
