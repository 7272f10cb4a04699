"""The run's record: rows, torn lines, resuming."""

import json

import numpy as np
import pytest

from covr_jax.io.metrics import MetricsLogger, read_metrics


def write_rows(run_dir, steps, resume=None):
    with MetricsLogger(run_dir, resume_env_steps=resume) as logger:
        for step in steps:
            logger.write({"losses/critic": step / 10}, env_steps=step, agent_steps=step // 2, updates=step // 4)


def steps_of(run_dir):
    return [row["env_steps"] for row in read_metrics(run_dir / "metrics.jsonl")]


def test_rows_after_the_checkpoint_go_even_at_its_own_step(tmp_path):
    """The final evaluation has the env steps of the last checkpoint; a process that was killed after it repeats it."""
    counters = {"env_steps": 100, "agent_steps": 50, "updates": 10}
    with MetricsLogger(tmp_path) as logger:
        logger.write({"a": 1.0}, **counters)
        logger.flush()
        size = logger.size
        logger.write({"a": 2.0}, **counters)
    with MetricsLogger(tmp_path, 100, size) as logger:
        logger.write({"a": 3.0}, **counters)
    assert [row["a"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 3.0]
    with pytest.warns(UserWarning, match="has lost 900 of"):
        MetricsLogger(tmp_path, 100, (tmp_path / "metrics.jsonl").stat().st_size + 900).close()
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match="is gone: the run goes on without its history"):
        MetricsLogger(tmp_path, 100, size).close()


def test_a_row_by_hand(tmp_path):
    with MetricsLogger(tmp_path / "run") as logger:
        metrics = {"eval/episode_return": np.float32(1.5), "covr/round": 2}
        logger.write(metrics, env_steps=800, agent_steps=100, updates=7)
    (row,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert 0 <= row.pop("wall_s") < 60
    assert row == {"env_steps": 800, "agent_steps": 100, "updates": 7, "eval/episode_return": 1.5, "covr/round": 2.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.float32("inf")])
def test_what_is_not_finite_becomes_null_in_strict_json(tmp_path, value):
    with MetricsLogger(tmp_path) as logger:
        logger.write({"losses/actor": value, "losses/critic": 1.0}, env_steps=1, agent_steps=1, updates=1)
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["losses/actor"] is None
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["losses/critic"] == 1.0


def test_a_row_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.write({"a/b": 1.0}, env_steps=1, agent_steps=1, updates=1)
    assert steps_of(tmp_path) == [1]
    logger.close()
    logger.close()


def test_resume_cuts_what_will_be_written_again(tmp_path):
    write_rows(tmp_path, [10, 20, 30, 40])
    write_rows(tmp_path, [30, 40, 50], resume=20)
    assert steps_of(tmp_path) == [10, 20, 30, 40, 50]


def test_resume_from_the_last_row_keeps_all_and_from_zero_keeps_none(tmp_path):
    write_rows(tmp_path, [10, 20])
    write_rows(tmp_path, [30], resume=20)
    assert steps_of(tmp_path) == [10, 20, 30]
    write_rows(tmp_path, [5], resume=0)
    assert steps_of(tmp_path) == [5]


TORN = ['{"env_steps": 30, "agent_st', '{"env_steps"', "{", '"text"', "7", "null", "\x00\x00\x00", "{}"]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_last_line_is_skipped_and_then_repaired(tmp_path, torn):
    write_rows(tmp_path, [10, 20])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert steps_of(tmp_path) == [10, 20]
    write_rows(tmp_path, [30], resume=20)
    assert steps_of(tmp_path) == [10, 20, 30]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


def test_a_whole_last_line_without_its_newline_survives_the_resume(tmp_path):
    write_rows(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    write_rows(tmp_path, [30], resume=20)
    assert steps_of(tmp_path) == [10, 20, 30]


def test_a_bad_line_in_the_middle_is_an_error_to_read_and_dropped_with_a_warning_to_resume(tmp_path):
    write_rows(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\nnonsense\n{second}\n")
    with pytest.raises(ValueError, match="line 2: not a row"):
        read_metrics(path)
    with pytest.warns(UserWarning, match="dropped 1 lines"):
        write_rows(tmp_path, [30], resume=20)
    assert steps_of(tmp_path) == [10, 20, 30]


def test_wall_time_goes_on_after_a_resume(tmp_path):
    row = {"env_steps": 10, "agent_steps": 5, "updates": 1, "wall_s": 1000.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    write_rows(tmp_path, [20], resume=10)
    assert 1000.0 <= read_metrics(tmp_path / "metrics.jsonl")[-1]["wall_s"] < 1060.0


def test_a_new_run_sets_the_old_rows_aside(tmp_path):
    write_rows(tmp_path, [10, 20])
    write_rows(tmp_path, [7])
    assert steps_of(tmp_path) == [7]
    assert [row["env_steps"] for row in read_metrics(tmp_path / "metrics.jsonl.old")] == [10, 20]


def test_resume_without_a_file_starts_one(tmp_path):
    write_rows(tmp_path, [30], resume=20)
    assert steps_of(tmp_path) == [30]


def test_refuses_what_is_no_scalar_and_names_of_counters(tmp_path):
    with MetricsLogger(tmp_path) as logger:
        with pytest.raises(ValueError, match="'losses/critic' is not a scalar"):
            logger.write({"losses/critic": np.ones(3)}, env_steps=1, agent_steps=1, updates=1)
        with pytest.raises(ValueError, match="'updates' has the name of a counter"):
            logger.write({"updates": 1.0}, env_steps=1, agent_steps=1, updates=1)
    assert steps_of(tmp_path) == [], "a refused row leaves nothing behind"


def test_reading_no_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "metrics.jsonl")
