"""Whole runs of the methods in which the VLM acts: vbe with the stand-in, vpf with the tiny model.

E envs; episodes of the tiny config have 25 agent steps.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from covr_jax import config
from covr_jax.config import ConfigError
from covr_jax.envs.stepper import JitStepper
from covr_jax.io.checkpoint import CheckpointError
from covr_jax.io.metrics import read_metrics
from covr_jax.report import write_report
from covr_jax.runtime.rng import stream
from covr_jax.training import vlm_agent
from covr_jax.training.evaluation import FINAL_EVALUATION, Evaluator
from covr_jax.training.restore import load_run
from covr_jax.training.run import train
from covr_jax.types import StepType, TimeStep
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.reporters import Quiet


class Shown(Quiet):
    def update(self, env_steps, shown):
        assert {"train/env_steps_per_second", "train/updates_per_second", "covr/round"} <= set(shown)


@pytest.fixture
def shared(monkeypatch, make_programs):
    monkeypatch.setattr(vlm_agent, "Programs", make_programs)
    return make_programs


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 2])
def test_vbe_is_the_untuned_vlm_alone(tiny_config, shared, tmp_path, monkeypatch, frames):
    """Its return is that of the answers, asked every fifth step and held, computed here from the environment."""
    run = dataclasses.replace(tiny_config, method="vbe", vlm=dataclasses.replace(tiny_config.vlm, frames=frames))
    monkeypatch.setattr(Evaluator, "episode_metrics", lambda self: {"DD": 7.0})
    result = train(run, tmp_path / "vbe", Shown())
    assert result.env_steps == 0 and (tmp_path / "vbe" / "result.json").exists()

    programs, oracle, asked = shared(run), FakeVLM(), []

    def policy(timestep, step):
        if step % 5 == 0:
            asked.append(oracle.query(np.asarray(timestep.observation)[..., -3 * frames :]).action)
        return asked[-1]

    expected = programs.evaluator.evaluate(policy, 2, FINAL_EVALUATION)
    assert result.final_return == pytest.approx(float(expected.mean()))
    assert result.random_return != result.final_return
    (first, last) = read_metrics(tmp_path / "vbe" / "metrics.jsonl")
    assert first["eval/random_return"] == pytest.approx(result.random_return)
    assert last["vlm/queries"] == len(asked) == 5 and last["eval/DD"] == 7.0
    assert last["vlm/parse_fail_rate"] == oracle.counters["parse_failures"] / oracle.counters["frames"]
    assert "vbe" in write_report(tmp_path / "vbe").read_text()


class Scripted:
    """Acts by the clock; its value is the number of times it was asked."""

    def __init__(self, envs):
        self.envs, self.count = envs, 0

    def sample(self, frames):
        import torch

        from covr_jax.vlm.ppo.policy import SampledActions

        self.count += 1
        numbers = np.full(self.envs, self.count, np.float32)
        action = np.full((self.envs, 1), np.sin(self.count), np.float32)
        return SampledActions(torch.full((self.envs, 3), self.count), action, numbers > 0, -numbers, numbers)

    def values(self, frames, tokens):
        return np.full(self.envs, self.count + 1, np.float32)


@pytest.mark.slow
def test_a_rollout_is_what_the_environments_did(tiny_config, shared):
    """Rewards belong to the action before them, ends to the step that followed; ignored actions are not learnt from."""
    programs = shared(tiny_config)
    env, key = JitStepper(programs.parts.env), stream(1, 1)
    running, last = np.zeros(2), np.full(2, np.nan)
    state, timestep = env.reset(key)
    rollout, _, after = vlm_agent.collect(Scripted(2), env, state, timestep, 30, running, last)

    state, timestep = env.reset(key)
    total = np.zeros(2)
    for t in range(30):
        np.testing.assert_array_equal(rollout.frames[t], timestep.observation[..., -3:])
        assert (rollout.acts[t] == (np.asarray(timestep.step_type) != StepType.LAST)).all()
        state, timestep = env.step(state, np.full((2, 1), np.sin(t + 1), np.float32))
        np.testing.assert_array_equal(rollout.reward[t], timestep.reward)
        np.testing.assert_array_equal(rollout.ends[t], np.asarray(timestep.step_type) == StepType.LAST)
        total += np.asarray(timestep.reward) * (t < 25)
    np.testing.assert_array_equal(timestep.observation, after.observation)
    np.testing.assert_allclose(last, total, rtol=1e-6)
    np.testing.assert_allclose(running, rollout.reward[26:].sum(0), rtol=1e-6)
    assert rollout.ends.any(1).nonzero()[0].tolist() == [24]
    np.testing.assert_array_equal(rollout.value[:, 0], np.arange(1, 32))

    batch = vlm_agent.ppo_batch(rollout, 0.9, 0.95)
    kept = [t for t in range(30) for _ in range(2) if t != 25]
    np.testing.assert_array_equal(batch.tokens[:, 0], np.asarray(kept) + 1)
    np.testing.assert_array_equal(batch.log_prob, -batch.value)
    np.testing.assert_array_equal(
        batch.frames,
        np.asarray(rollout.frames)[[t for t in range(30) if t != 25]].reshape(58, *rollout.frames.shape[2:]),
    )
    # The last step before the end: r + 0.9 V(last observation) - V, and nothing from behind it.
    row = kept.index(24)
    assert batch.advantage[row] == pytest.approx(rollout.reward[24, 0] + 0.9 * 26 - 25, abs=1e-5)
    np.testing.assert_allclose(batch.target, batch.advantage + batch.value, rtol=1e-6)


def test_vpf_trains_the_adapter_and_leaves_a_whole_run(tiny_config, shared, tmp_path):
    pytest.importorskip("torch")
    from safetensors.numpy import load_file

    run = dataclasses.replace(
        tiny_config,
        method="vpf",
        total_steps=2_000,
        vlm=config.VLMConfig(name="tiny", lora_rank=2, frames=2),
        vpf=config.VPFConfig(steps=52, epochs=1, minibatch=20, learning_rate=1e-3, value_hidden=(8,)),
    )
    result = train(run, tmp_path / "vpf", Shown())
    assert result.env_steps == 52 * 40
    rows = read_metrics(tmp_path / "vpf" / "metrics.jsonl")
    training = [row for row in rows if "ppo/policy" in row]
    assert [row["env_steps"] for row in training] == [2_080] and training[0]["updates"] == 2  # of 50, the rest ignored
    assert training[0]["ppo/skipped"] == 0 and np.isfinite(training[0]["train/episode_return"])
    adapter = load_file(tmp_path / "vpf" / "vlm" / "adapter" / "adapter_model.safetensors")
    assert all(np.abs(b).max() > 0 for name, b in adapter.items() if "lora_B" in name)
    stored = json.loads((tmp_path / "vpf" / "result.json").read_text())
    assert stored["final_return"] == result.final_return
    write_report(tmp_path / "vpf")


@pytest.fixture
def small_vpf(tiny_config):
    """Three iterations of 26 agent steps, checkpoints after each, an evaluation after the first."""
    return dataclasses.replace(
        tiny_config,
        method="vpf",
        total_steps=3_000,
        vlm=config.VLMConfig(name="tiny", lora_rank=2),
        vpf=config.VPFConfig(steps=26, epochs=1, minibatch=20, learning_rate=1e-3, value_hidden=(8,)),
        eval=dataclasses.replace(tiny_config.eval, every=1_000, episodes=1),
        run=dataclasses.replace(tiny_config.run, checkpoint_every=1_000),
    )


@pytest.mark.slow
def test_vpf_goes_on_as_if_it_had_not_been_stopped(small_vpf, shared, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    whole = train(small_vpf, tmp_path / "whole", Shown())

    iterate, calls = vlm_agent.VLMTrainer.iterate, []

    def stopped(self, *arguments):
        calls.append(self.env_steps)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return iterate(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(vlm_agent.VLMTrainer, "iterate", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(small_vpf, tmp_path / "parts", Shown())
    parts = train(small_vpf, tmp_path / "parts", Shown())
    assert calls == [0, 1_040, 2_080] and parts[:4] == whole[:4]

    def what_was_seen(name):
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        clocks = ("wall_s", "checkpoint/", "per_second", "latency", "mem/", "policy/", "vlm/memory", "query_s")
        return [{k: v for k, v in row.items() if not any(clock in k for clock in clocks)} for row in rows]

    assert len(what_was_seen("whole")) == 7  # random, three iterations, three evaluations
    np.testing.assert_equal(what_was_seen("parts"), what_was_seen("whole"))
    adapters = [(tmp_path / name / "vlm/adapter/adapter_model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert adapters[0] == adapters[1]


@pytest.mark.slow
def test_a_damaged_vpf_checkpoint_is_one_line(small_vpf, shared, tmp_path):
    pytest.importorskip("torch")
    run = dataclasses.replace(small_vpf, total_steps=1_000)
    train(run, tmp_path / "run", Shown())
    (tmp_path / "run" / "result.json").unlink()
    stored = tmp_path / "run" / "checkpoints" / "1040" / "adapter" / "ppo.pt"
    stored.write_bytes(stored.read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"checkpoint .*1040 is damaged: adapter/ppo\.pt has 300 bytes") as said:
        train(run, tmp_path / "run", Shown())
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "none"}, "vpf needs a VLM"),
        ({"name": "fake"}, "a model, not fake"),
        ({"name": "tiny", "mode": "async"}, "--vlm.mode sync"),
        ({"name": "tiny", "record": True}, "no recording"),
    ],
)
def test_vpf_refuses_a_vlm_that_it_cannot_train(tiny_config, tmp_path, changes, said):
    run = dataclasses.replace(tiny_config, method="vpf", vlm=dataclasses.replace(tiny_config.vlm, **changes))
    with pytest.raises(ConfigError, match=said):
        train(run, tmp_path / "run", Shown())
    assert not (tmp_path / "run" / "config.json").exists()


class Breaking:
    """A stepper of two environments with these step types, one row per step; rewards 1, 2, ... but at FIRST."""

    TYPES = ((1, 1), (0, 1), (1, 2), (1, 0))

    def __init__(self):
        self.count = 0

    def timestep(self, step_type):
        step_type = np.array(step_type)
        reward = np.where(step_type == StepType.FIRST, 0.0, self.count)
        return TimeStep(step_type, reward, np.ones(2), np.zeros((2, 4, 4, 3), np.uint8))

    def step(self, state, action):
        self.count += 1
        return state, self.timestep(self.TYPES[self.count - 1])


def test_an_episode_that_is_broken_off_ends_where_it_was_last_seen():
    """Env 0 begins a new episode at the second step without a LAST before it; env 1 ends as it should at the third."""
    env, running, last = Breaking(), np.array([5.0, 5.0]), np.full(2, np.nan)
    rollout, _, _ = vlm_agent.collect(Scripted(2), env, None, env.timestep((1, 1)), 4, running, last)
    assert rollout.acts.T.tolist() == [[True, False, True, True], [True, True, True, False]]
    assert rollout.ends.T.tolist() == [[True, False, False, False], [False, False, True, False]]
    assert running.tolist() == [3.0 + 4.0, 0.0] and np.isnan(last[0]) and last[1] == 5 + 1 + 2 + 3
    batch = vlm_agent.ppo_batch(rollout, 1.0, 1.0)
    # Values are 1, 2, 3, 4, 5: what env 0 did first is worth its reward and the value of where it led, no more.
    assert batch.target.tolist()[0] == 1 + 2


def test_evaluating_what_the_vlm_played_is_refused_in_one_line(tmp_path):
    options = config.Config(method="vbe", vlm=config.VLMConfig(name="fake"))
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(options)))
    with pytest.raises(ConfigError, match=r"vbe has no policy but the VLM's; its evaluations are in .*metrics.jsonl"):
        load_run(tmp_path)
