"""Run directories that cannot be used, and config.json that cannot be read: one line each."""

import errno
import fcntl

import pytest

from covr_jax.config import Config, ConfigError
from covr_jax.io.files import write_json
from covr_jax.io.run_dir import Result, check_config, claim, read_result
from covr_jax.training.resolve import comparable
from covr_jax.training.restore import load_run


def message_of(directory):
    with pytest.raises(ConfigError) as refusal, claim(directory):
        pytest.fail("claimed")
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_result_is_read_whole_or_not_at_all(tmp_path):
    result = Result(1.5, 0.5, -2.0, 4000, 3.25)
    assert read_result(tmp_path) is None
    write_json(tmp_path / "result.json", result._asdict() | {"command": "x"})
    assert read_result(tmp_path) == result
    text = (tmp_path / "result.json").read_text()
    for damaged in (text[:40], "[]", "{}", text.replace("4000", "null")):
        (tmp_path / "result.json").write_text(damaged)
        assert read_result(tmp_path) is None


@pytest.mark.field
def test_places_where_no_run_can_be(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place, reason in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "below", "Not a directory"),
        (tmp_path / "dangling", "File exists"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        assert message_of(place) == f"{place} cannot be used: {reason}; choose another --run-dir"


@pytest.mark.field
def test_one_process_at_a_time(tmp_path):
    with claim(tmp_path):
        assert "is in use by another process" in message_of(tmp_path)


@pytest.mark.field
def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\)"), claim(tmp_path):
        pass


@pytest.mark.field
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read: Expecting value"),
        ("{", "cannot be read: Expecting property name"),
        ("[1]", "cannot be read: it is no JSON object"),
        ('{"task": "a"}', "missing option method in config.json"),
        ('{"task": "cartpole_swingup", "method": "rad", "seed": 1, "total_steps": "many"}', 'field "total_steps"'),
        ('{"task": "cartpole_swingup", "method": "rad", "seed": 1, "sac": 3}', "sac"),
    ],
)
def test_a_broken_config_is_one_line(tmp_path, text, reason):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        check_config(Config(), tmp_path, comparable)
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(ConfigError) as refusal:
        load_run(tmp_path)  # as evaluate.py does
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)
    assert "--run-dir" not in str(refusal.value)
