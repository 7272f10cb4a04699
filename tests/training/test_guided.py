"""Whole small runs of the guided methods beside COVR, and of the replay's samplings, through the training loop."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from covr_jax import config as configuration
from covr_jax.config import ConfigError
from covr_jax.config.validate import validate
from covr_jax.replay import reward_scale, sampling
from covr_jax.training import chunk, loop
from covr_jax.training.parts import build_parts
from covr_jax.training.resolve import resolve
from tests.support.reporters import Quiet


def train(config, directory):
    """The finished trainer and its rows of training metrics."""
    trainer = loop.AgentTrainer(resolve(config), directory, Quiet())
    trainer.run()
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return trainer, [row for row in rows if "train/env_steps_per_second" in row], rows


@pytest.fixture(scope="module")
def short(tiny_config):
    return dataclasses.replace(
        tiny_config,
        total_steps=6_400,
        eval=dataclasses.replace(tiny_config.eval, every=100_000),
        covr=dataclasses.replace(tiny_config.covr, guidance_weight=0.5, anneal_steps=4_000),
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpl", "apl"])
def test_priors_guide_from_the_start_and_the_vlm_stays_as_it_is(short, tmp_path, method):
    trainer, rows, every_row = train(dataclasses.replace(short, method=method), tmp_path)
    assert trainer.rounds == [] and not any("covr/round" in row for row in every_row)
    assert rows[0]["vlm/queries"] > 0
    learning = [row for row in rows if "losses/guidance" in row]
    assert learning and any(row["losses/guidance"] > 0 for row in learning)
    before = [0, *[row["env_steps"] for row in rows[:-1]]]  # the weight of a chunk is that of its start
    weights = [row["covr/guidance_weight"] for row in rows]
    asked = [row["vlm/queries"] for row in rows if row["env_steps"] >= 4_000]
    assert len(asked) > 1 and (asked[-1] > asked[0]) == (method == "dpl")  # nothing is asked in vain
    if method == "dpl":
        assert set(weights) == {0.5}
    else:
        np.testing.assert_allclose(weights, [0.5 * max(1 - steps / 4_000, 0.0) for steps in before], rtol=1e-6)
        assert weights[-1] == 0.0


@pytest.mark.slow
def test_an_annealed_weight_of_0_is_the_base_method(short, tmp_path):
    """With lambda 0 throughout, DPL asks its VLM and learns exactly as RAD does."""
    quiet = dataclasses.replace(short, covr=dataclasses.replace(short.covr, guidance_weight=0.0))
    guided, *_ = train(dataclasses.replace(quiet, method="dpl"), tmp_path / "dpl")
    base, *_ = train(dataclasses.replace(quiet, method="rad"), tmp_path / "rad")
    assert int(guided.state.replay.prior.valid.sum()) > 0
    for name in ("torso", "critic", "actor"):
        one, two = (trainer.state.learner.params[name] for trainer in (guided, base))
        for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_elite_transitions_are_marked_in_rounds_without_a_vlm(short, tmp_path):
    replay = dataclasses.replace(short.replay, sampling="elite")
    trainer, _, rows = train(dataclasses.replace(short, method="rad", replay=replay), tmp_path)
    rounds = [row for row in rows if "covr/round" in row]
    assert [row["covr/round"] for row in rounds] == [1, 2]  # at 2000 and 6000 env steps
    priority = np.asarray(trainer.state.replay.priority)
    marked = priority >= sampling.ELITE
    assert 0 < marked.sum() < priority.size and set(np.unique(priority)) == {1.0, sampling.ELITE}
    assert not (tmp_path / "vlm").exists()


@pytest.mark.slow
def test_prioritised_replay_learns_the_errors_and_compiles_once(short, tmp_path):
    replay = dataclasses.replace(short.replay, sampling="prioritised")
    trainer, *_ = train(dataclasses.replace(short, method="rad", replay=replay), tmp_path)
    priority = np.asarray(trainer.state.replay.priority)
    assert len(np.unique(priority)) > 10 and float(trainer.state.replay.top_priority) >= priority.max()
    assert trainer.programs.pieces.set_priorities._cache_size() == 1
    pieces = trainer.programs.pieces
    assert [piece._jitted._cache_size() for piece in (pieces.learn_critic, pieces.learn_actor)] == [1, 1]


@pytest.mark.slow
def test_deterministic_policies_explore_less_and_less(short, tmp_path):
    sac = dataclasses.replace(short.sac, noise_start=0.8, noise_end=0.2, noise_steps=100, actor_update_every=1)
    trainer, rows, _ = train(dataclasses.replace(short, method="drqv2", sac=sac), tmp_path)
    before = [0, *[row["agent_steps"] for row in rows[:-1]]]  # the noise of a chunk is that of its start
    for row, steps in zip(rows, before, strict=True):
        if "sac/exploration_noise" in row:
            assert row["sac/exploration_noise"] == pytest.approx(0.8 - 0.6 * min(steps / 100, 1.0), rel=1e-6)
            assert not {"sac/alpha", "losses/alpha"} & row.keys()
    assert rows[-1]["sac/exploration_noise"] == pytest.approx(0.2)
    pieces = trainer.programs.pieces
    assert [piece._jitted._cache_size() for piece in (pieces.learn_critic, pieces.learn_actor)] == [1, 1]


@pytest.mark.slow
def test_mrq_guided_by_dpl_learns_from_lap_in_units_of_the_mean_reward(short, tmp_path):
    sac = dataclasses.replace(short.sac, n_step=3, actor_update_every=1, weight_decay=1e-4, target_period=1)
    lap = {"priority_alpha": 0.4, "priority_beta": 0.0, "priority_floor": 1.0, "anneal_updates": 0}
    options = dataclasses.replace(short.replay, sampling="prioritised", **lap)
    trainer, rows, _ = train(dataclasses.replace(short, method="dpl", base="mrq", sac=sac, replay=options), tmp_path)
    learning = [row for row in rows if "losses/guidance" in row]
    assert learning and any(row["losses/guidance"] > 0 for row in learning)
    assert all(np.isfinite(row[f"losses/{name}"]) for row in learning for name in ("reward", "transition", "terminal"))
    learner, ring = trainer.state.learner, trainer.state.replay
    scale = float(learner.target["reward_scale"]["online"])  # of the last update; rewards sum eight steps
    assert scale == pytest.approx(float(reward_scale(ring)), rel=0.05) and 0 < scale < 8
    assert len(np.unique(np.asarray(ring.priority))) > 10
    pieces = trainer.programs.pieces
    assert [piece._jitted._cache_size() for piece in (pieces.learn_critic, pieces.learn_actor)] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "covr", "replay": configuration.ReplayConfig(sampling="elite")}, "is for runs without a VLM"),
        ({"method": "dpl", "vlm": configuration.VLMConfig(name="none")}, "dpl needs a VLM"),
        ({"base": "resact", "sac": configuration.SACConfig(n_step=3)}, "resact takes --sac.n-step 1 only, got 3"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny_config, changes, said):
    with pytest.raises(ConfigError, match=said):
        validate(dataclasses.replace(tiny_config, **changes))


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize(("updates", "every"), [(1, 1), (3, 1), (1, 2), (4, 2)])
def test_updates_per_step_and_environments_are_independent(tiny_config, monkeypatch, envs, updates, every):
    """The plan of one cycle: how many updates each agent step makes, every second one with the actor's."""
    config = dataclasses.replace(
        tiny_config,
        method="rad",
        env=dataclasses.replace(tiny_config.env, num_envs=envs),
        sac=dataclasses.replace(tiny_config.sac, updates_per_step=updates, steps_per_update=every),
    )
    parts, plan = build_parts(config), []

    def agent_step(parts, pieces, stepper, state, *, random, actor_pattern, scan):
        assert not random and not scan
        plan.append(actor_pattern)
        return chunk.ChunkResult(state, {})

    monkeypatch.setattr(chunk, "agent_step", agent_step)
    chunk.cycle(parts, None, None, None, learn=True)
    assert [len(pattern) for pattern in plan] == [updates if step % every == 0 else 0 for step in range(len(plan))]
    with_actor = [flag for pattern in plan for flag in pattern]
    assert with_actor == [index % 2 == 0 for index in range(len(with_actor))] and len(with_actor) % 2 == 0
    assert parts.env.num_envs == envs and parts.chunk_steps % parts.cycle == 0
