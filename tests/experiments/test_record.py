"""Copies of finished runs that can be committed: small, and readable as runs."""

from __future__ import annotations

import json

import pytest

from covr_jax.report import ReportError
from covr_jax.report.data import read_run
from covr_jax.report.table import read_final
from experiments.record import copy


def a_run(path, *, finished=True):
    path.mkdir(parents=True)
    config = {
        "task": "cartpole_swingup",
        "method": "covr",
        "base": "rad",
        "seed": 1,
        "vlm": {"adapter": f"{path.parents[2]}/expert"},
    }
    rows = [{"env_steps": step, "losses/critic": 1.0} for step in range(0, 300, 10)]
    rows.insert(5, {"env_steps": 50, "vlm/prior_return": 3.5})
    rows.insert(16, {"env_steps": 145, "eval/episode_return": 70.0})
    rows.append({"env_steps": 300, "eval/episode_return": 80.5})
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "vlm" / "round_2").mkdir(parents=True)
    record = {
        "round": 2,
        "env_steps": 50,
        "vlm_return": 3.5,
        "finetune_loss": [1, 2],
        "weight_histogram": {"counts": []},
    }
    (path / "vlm" / "round_2" / "record.json").write_text(json.dumps(record))
    if finished:
        command = f"python experiments/train.py --seed 1 --run-dir {path}"
        (path / "result.json").write_text(json.dumps({"final_return": 80.5, "command": command}))
    return path


def test_a_copy_reads_as_the_run(tmp_path):
    run_dir = a_run(tmp_path / "runs" / "cartpole_swingup" / "covr" / "seed1")
    target = copy(run_dir, tmp_path / "runs", tmp_path / "results", "two processors")
    assert target == tmp_path / "results" / "cartpole_swingup" / "covr" / "seed1"
    run = read_run(target)
    assert run.curve("eval/episode_return") == ([145, 300], [70.0, 80.5])
    assert run.curve("losses/critic")[0] == [0, 100, 200]  # every tenth
    assert run.curve("vlm/prior_return") == ([50], [3.5])
    assert (
        run.config == read_run(run_dir).config | {"vlm": {"adapter": "runs/expert"}}
        and read_final(target).value == 80.5
    )
    assert run.all_rounds[0].record == {"round": 2, "env_steps": 50, "vlm_return": 3.5}
    assert run.result["command"].endswith("--run-dir runs/cartpole_swingup/covr/seed1")
    assert run.result["hardware"] == "two processors" and str(tmp_path) not in (target / "result.json").read_text()
    assert not run.notes


@pytest.mark.field
def test_what_is_no_finished_run_is_not_recorded(tmp_path):
    run_dir = a_run(tmp_path / "runs" / "rad" / "seed1", finished=False)
    with pytest.raises(ReportError, match="not a finished run"):
        copy(run_dir, tmp_path / "runs", tmp_path / "results", "")
    (run_dir / "result.json").write_text("{}")
    (run_dir / "diverged.json").write_text("{}")
    with pytest.raises(ReportError, match="not a finished run"):
        copy(run_dir, tmp_path / "runs", tmp_path / "results", "")
    (run_dir / "diverged.json").unlink()
    with pytest.raises(ReportError, match="not below"):
        copy(run_dir, tmp_path / "elsewhere", tmp_path / "results", "")
    assert not (tmp_path / "results").exists()
