"""Policies in tasks that they were not trained in: what is refused, what is measured, and the table of it."""

import dataclasses
import json

import pytest

from covr_jax.commands import evaluate, sweep
from covr_jax.config import CarlaConfig, Config, ConfigError
from covr_jax.training.restore import in_task
from covr_jax.training.run import train
from experiments.paper import generalisation
from tests.support.reporters import Quiet
from tests.support.synthetic_run import make_run, write_json


@pytest.mark.parametrize(
    ("trained_on", "other", "message"),
    [
        ("walker_walk", "cartpole_swingup", "it has 6 actions, and that task takes 1 action"),
        ("carla_highway", "car_racing", "it has 2 actions, and that task takes 3 actions"),
        ("cartpole_swingup", "cartpole_swingdown", "unknown task 'cartpole_swingdown'; choose from"),
    ],
)
def test_a_task_in_which_the_policy_cannot_act_is_refused_in_one_line(trained_on, other, message):
    with pytest.raises(ConfigError, match=message) as refused:
        in_task(Config(task=trained_on), other)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("trained_on", "other"), [("carla_highway", "carla_ghost_pedestrian"), ("walker_walk", "walker_run")]
)
def test_another_task_changes_nothing_else_of_the_run(trained_on, other):
    config = Config(task=trained_on, carla=CarlaConfig(profile="dbc"))
    assert in_task(config, other) == dataclasses.replace(config, task=other)
    assert in_task(config, trained_on) == config


@pytest.mark.parametrize(
    ("tasks", "methods", "message"),
    [
        (["walker_walk"], ["rad"], "--tasks needs two different tasks or more, got walker_walk"),
        (["walker_walk", "walker_walk"], ["rad"], "--tasks needs two different tasks or more"),
        (["walker_walk", "walker_run"], ["rad", "sac", "rad"], "--methods names one twice: rad sac rad"),
        (["walker_walk", "walker_run"], ["vbe:sac"], "vbe has no policy but the VLM's"),
    ],
)
def test_a_table_that_cannot_be_measured_is_refused_before_anything_is_trained(tasks, methods, message):
    with pytest.raises(ConfigError, match=message):
        generalisation.make_table(tasks, methods)


def evaluated(folder, task, value, renderer="jax"):
    run = folder.parts[-3]
    row = {"task": task, "trained_on": run, "renderer": renderer, "return": value, "env_steps": 8, "episodes": 2}
    write_json(folder / "evaluations" / f"{task}.json", row)


def test_returns_are_shown_by_task_of_training_and_of_evaluation(tmp_path):
    table = generalisation.make_table(["walker_walk", "walker_run"], ["covr:sac"])
    for seed in (1, 2):
        run = make_run(tmp_path / "walker_walk" / "covr_sac" / f"seed{seed}", rounds=0, task="walker_walk", seed=seed)
        write_json(run / "result.json", {"env_steps": 8, "random_return": 20.0 + 10 * seed})
        evaluated(run, "walker_walk", 100.0 * seed)
        evaluated(run, "walker_run", 10.0, renderer="loopback")
    stale = tmp_path / "walker_run" / "covr_sac" / "seed1"
    evaluated(stale, "walker_run", 1.0)
    write_json(stale / "result.json", {"env_steps": 16})
    make_run(stale, rounds=0, task="walker_run")
    text = generalisation.by_task(table, [1, 2], tmp_path, tmp_path / "out" / "table.json")
    assert text.splitlines()[2:] == [
        "|  | trained on | evaluated on walker_walk | evaluated on walker_run |",
        "| --- | --- | --- | --- |",
        "| covr:sac | walker_walk | 150 ± 50 (2) | 10 ± 0 (2) loopback |",
        "| covr:sac | walker_run |  |  |",
        "| random policy | – | 35 ± 5 (2) | 27 ± 0 (1) |",
    ]
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["evaluations"]
    assert [(row["label"], row["task"], row["return"]) for row in rows] == [
        ("covr:sac", "walker_walk", 100.0),
        ("covr:sac", "walker_run", 10.0),
        ("covr:sac", "walker_walk", 200.0),
        ("covr:sac", "walker_run", 10.0),
    ]


@pytest.mark.slow
def test_a_policy_of_one_walker_is_evaluated_in_the_other(tiny_config, tmp_path, capsys):
    """Both walkers have one model, one start and one image, so a policy makes the same motion in both.

    dm_control's reward is stand (5 move + 1) / 6, and at every speed ``move`` is no larger for the faster target. So
    the return of walker_run is between a sixth of that of walker_walk and all of it.
    """
    env = dataclasses.replace(tiny_config.env, physics="mujoco")
    config = dataclasses.replace(tiny_config, task="walker_walk", method="sac", total_steps=4_000, env=env)
    run_dir = tmp_path / "walker_walk" / "sac" / "seed1"
    train(config, run_dir, Quiet())
    own, named, other = (evaluate.measure(run_dir, 2, task=task) for task in (None, "walker_walk", "walker_run"))
    assert own == named and own["task"] == own["trained_on"] == "walker_walk"
    assert own["env_steps"] == json.loads((run_dir / "result.json").read_text())["env_steps"]
    assert (other["task"], other["trained_on"]) == ("walker_run", "walker_walk")
    assert 0 < own["return"] / 6 <= other["return"] < own["return"]
    assert evaluate.line(other).startswith("walker_run (trained on walker_walk) sac seed 1 at ")
    suite = evaluate.measure(run_dir, 2, backend="dm_control")
    assert {name for name in own if own[name] != suite[name]} == {"backend", "renderer", "return", "return_std"}
    assert (suite["backend"], suite["renderer"]) == ("dm_control", "dm_control") and 0 < suite["return"] < 1000

    generalisation.measure([sweep.Job(run_dir, []), sweep.Job(tmp_path / "none", [])], ["walker_walk", "walker_run"], 2)
    assert capsys.readouterr().out.splitlines() == [evaluate.line(own), evaluate.line(other)]
    generalisation.measure([sweep.Job(run_dir, [])], ["walker_walk", "walker_run"], 2)
    assert capsys.readouterr().out == ""
    assert generalisation.read_evaluation(run_dir, "walker_run") == other
