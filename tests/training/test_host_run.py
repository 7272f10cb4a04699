"""Runs on worlds of the host: seams that the replay must not join, resuming, a world that is lost."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import config as configuration
from covr_jax import replay
from covr_jax.io.checkpoint import Checkpointer
from covr_jax.training import loop, selection
from covr_jax.training import parts as parts_module
from covr_jax.training import resolve as resolve_module
from covr_jax.training.programs import Programs
from covr_jax.training.run import train
from covr_jax.types import EnvironmentLost, StepType, TimeStep
from tests.support.reporters import Quiet
from tests.support.toy import toy_task

FIRST, MID, LAST, CUT = StepType.FIRST, StepType.MID, StepType.LAST, StepType.CUT
LANES, STACK = 2, 3
LENGTHS = (7, 18)


@pytest.fixture(scope="module")
def config():
    sac = configuration.SACConfig(
        batch_size=64, init_steps=10, hidden_dim=8, feature_dim=4, num_filters=2, conv_kernels=(3,), conv_strides=(2,)
    )
    return configuration.Config(
        task="toy",
        method="sac",
        total_steps=480,
        env=configuration.EnvConfig(num_envs=LANES, image_size=8),
        sac=sac,
        replay=configuration.ReplayConfig(capacity=400),
        covr=configuration.CovrConfig(psi_0=1_000_000),
        eval=configuration.EvalConfig(every=160, episodes=5),
        run=configuration.RunConfig(checkpoint_every=160, log_every=1, video=False),
    )


@pytest.fixture(scope="module")
def built(config):
    """One Programs for all runs of this file, the options of its toys, and the toys that were opened."""
    options = {"lengths": LENGTHS}
    task, opened = toy_task(options)
    with pytest.MonkeyPatch.context() as patch:
        for module in (parts_module, resolve_module):
            patch.setattr(module, "find_task", lambda name, **_: task)
        return Programs(config), options, opened, task


@pytest.fixture
def start(built, monkeypatch):
    """start(**options of the toys) -> programs as in a new process, and the toys that will be opened."""
    programs, options, opened, task = built
    for module in (parts_module, resolve_module):
        monkeypatch.setattr(module, "find_task", lambda name, **_: task)
    monkeypatch.setattr(loop, "Programs", lambda config, ahead: programs)

    def anew(**changes):
        programs.close()
        options.clear()
        options.update({"lengths": LENGTHS} | changes)
        opened.clear()
        return programs, opened

    yield anew
    programs.close()


def seen(store, time, env_id):
    """(seed of the episode, moment) that the stored picture shows."""
    picture = np.asarray(store.pictures)[time % store.frame.shape[0], env_id, 0, 0]
    assert picture[1] == env_id
    return int(picture[0]), int(picture[2])


def check_seams(store):
    """Slots that a transition may start from are followed by the next moment of the same episode; counts cuts."""
    count, kinds = int(store.count), np.asarray(store.step_type)
    assert count <= kinds.shape[0]
    for env_id in range(LANES):
        for time in range(count - 1):
            (seed, moment), following = seen(store, time, env_id), seen(store, time + 1, env_id)
            if kinds[time, env_id] < LAST:
                assert following == (seed, moment + 1)
            else:
                assert following[1] == 0 or kinds[time + 1, env_id] == CUT
    return (kinds[:count] == CUT).sum(0).tolist()


def check_samples(store, sac):
    for number in range(20):
        batch = replay.sample(store, jax.random.key(number), 64, STACK, sac.n_step)
        stacks = batch.observation, batch.next_observation
        before, after = (np.asarray(stack)[:, 0, 0].reshape(64, STACK, 3) for stack in stacks)
        np.testing.assert_array_equal(after[:, -1, 0], before[:, -1, 0])  # one episode
        np.testing.assert_array_equal(after[:, -1, 2], before[:, -1, 2] + 1)
        np.testing.assert_array_equal(batch.reward, after[:, -1, 2] + 10.0 * after[:, -1, 1])
        for stack in (before, after):
            newest = stack[:, -1:, 2].astype(int)
            np.testing.assert_array_equal(stack[:, :, 2], np.maximum(newest + np.arange(1 - STACK, 1), 0))
            assert (stack[:, :, 0] == stack[:, -1:, 0]).all()


def leaves(state):
    """All that a resumed run must have in common with an uninterrupted one: not the moment's serial number."""
    return jax.tree.map(np.asarray, state.replace(env=state.env.replace(serial=0)))


# ----------------------------------------------------------------------- seams


@pytest.mark.slow
def test_an_evaluation_between_chunks_leaves_a_seam_that_nothing_joins(config, start):
    programs, _ = start()
    assert (programs.parts.chunk_steps, programs.parts.env.episode_length) == (10, 18)
    state = programs.chunk(programs.init(), learn=False).state
    values = programs.evaluator.evaluate(programs.evaluator.random_policy(0), 5, 1)
    # Lane 0's episodes pay 1 + ... + 7, lane 1's 11 + ... + 28; in order: first ones, second ones, ...
    assert values.tolist() == [28, 351, 28, 351, 28]
    measured = programs.evaluator.episode_metrics()
    assert measured == {"length": pytest.approx((3 * 7 + 2 * 18) / 5), "env_id": pytest.approx(2 / 5)}
    for _ in range(4):
        state, metrics, _ = programs.chunk(state, learn=True)
    assert all(np.isfinite(value) for value in metrics.values())
    # After the first chunk lane 0 was 2 steps into its second episode, lane 1 10 into its first: both were cut.
    assert check_seams(state.replay) == [1, 1]
    assert np.asarray(state.replay.step_type)[10].tolist() == [CUT, CUT]
    assert np.asarray(state.replay.discount)[10].tolist() == [1, 1]
    check_samples(state.replay, config.sac)
    samples, _ = selection.finished_samples(state, [0, 0], 1.0)
    whole = [(int(time), int(env_id)) for time, env_id in zip(samples.time, samples.env_id, strict=True)]
    assert not {(time, 1) for time in range(11)} & set(whole)  # a broken episode has no return
    assert samples.returns[whole.index((0, 0))] == 28 and samples.returns[whole.index((11, 1))] == 351


@pytest.mark.slow
def test_a_fault_leaves_a_seam_too(config, start):
    programs, opened = start(faults=(3, 4, 12))
    state = programs.chunk(programs.init(), learn=False).state
    state = programs.chunk(state, learn=False).state
    assert check_seams(state.replay) == [3, 3]
    kinds = np.asarray(state.replay.step_type)[:20, 1]
    # Two steps, a fault at the third and, at once, at the first of the new episode.
    assert kinds[:5].tolist() == [FIRST, MID, CUT, CUT, FIRST]
    assert int(state.progress.transitions) == sum(len(toy.actions) for toy in opened)
    check_samples(state.replay, config.sac)


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_cut_by_hand(n_step):
    """One lane: FIRST MID CUT | FIRST MID MID; rewards 0 1 2 | 0 4 8, discounts all 1, gamma 1/2."""
    store = replay.init(8, 1, 2, 1)
    for number, (kind, reward) in enumerate([(FIRST, 0), (MID, 1), (MID, 2), (FIRST, 0), (MID, 4), (MID, 8)]):
        if number == 3:
            store = replay.cut(store, np.array([True]))
        frame = np.full((1, 2, 2, 3), number, np.uint8)
        store = replay.add(store, TimeStep(np.array([kind]), np.array([reward]), np.ones(1), frame), np.zeros((1, 1)))
    store = replay.cut(store, np.array([False]))
    assert store.step_type[:6, 0].tolist() == [FIRST, MID, CUT, FIRST, MID, MID]
    batch = replay.sample(store, jax.random.key(0), 256, 2, n_step, 0.5)
    pictures = batch.observation[:, 0, 0, -1], batch.next_observation[:, 0, 0, -1]
    columns = [np.asarray(column).tolist() for column in (*pictures, batch.reward, batch.discount)]
    rows = set(zip(*columns, strict=True))
    one = {(0, 1, 1, 1), (1, 2, 2, 1), (3, 4, 4, 1), (4, 5, 8, 1)}
    three = {(0, 2, 1 + 1, 0.5), (1, 2, 2, 1), (3, 5, 4 + 4, 0.5), (4, 5, 8, 1)}
    assert rows == (one if n_step == 1 else three)


# -------------------------------------------------------------------- resuming


def test_a_resumed_run_equals_an_uninterrupted_one(config, start, tmp_path):
    """Evaluations begin new episodes as resuming does, and here every checkpoint follows one: equality is defined."""
    evaluation = configuration.EvalConfig(every=1, episodes=2)
    run = dataclasses.replace(config.run, checkpoint_every=1)
    config = dataclasses.replace(config, total_steps=300, eval=evaluation, run=run)
    start()
    whole = train(config, tmp_path / "whole", Quiet())
    _, opened = start()
    with pytest.raises(KeyboardInterrupt):  # killed in the middle, and what was done since the checkpoint is lost
        train(config, tmp_path / "parts", Quiet(stop_at=200))
    assert all(toy.closed for toy in opened)
    kept = Checkpointer(tmp_path / "parts").steps()
    programs, opened = start()
    parts = train(config, tmp_path / "parts", Quiet())
    assert all(toy.closed for toy in opened) and 0 < kept[-1] < 200
    assert whole[:4] == parts[:4]
    states = []
    for name in ("whole", "parts"):
        state, host, _ = Checkpointer(tmp_path / name).restore(lambda: programs.init(begin=False))
        states.append((leaves(state), host["evaluations"], host["next_eval"]))
    jax.tree.map(np.testing.assert_array_equal, *states)
    cuts = check_seams(states[0][0].replay)
    assert cuts[0] > 1 and cuts[1] > 1
    check_samples(jax.tree.map(jnp.asarray, states[0][0].replay), config.sac)


def test_resuming_in_mid_episode_ends_it_as_truncated(config, start, tmp_path):
    programs, _ = start()
    state = programs.chunk(programs.init(), learn=False).state
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(40, state, {})
    running = np.asarray(state.progress.running_return)
    programs, opened = start()
    restored, _, _ = checkpointer.restore(lambda: programs.init(begin=False))
    assert not opened
    restored = programs.chunk(restored, learn=False).state
    assert check_seams(restored.replay) == [1, 1]
    assert np.asarray(restored.replay.step_type)[10].tolist() == [CUT, CUT]
    check_samples(restored.replay, config.sac)
    # 9 steps of new episodes: the return of the broken ones, 3 and 155, is not carried on.
    assert running.tolist() == [3, 155] and restored.progress.running_return.tolist() == [1, 135]


def test_a_lost_world_leaves_a_checkpoint_from_which_the_run_goes_on(config, start, tmp_path):
    config = dataclasses.replace(config, eval=configuration.EvalConfig(every=10_000, episodes=1))
    _, opened = start(gone_at=60)
    with pytest.raises(EnvironmentLost, match="does not come back"):
        train(config, tmp_path, Quiet())
    assert all(toy.closed for toy in opened)
    steps = Checkpointer(tmp_path).steps()
    assert steps[-1] > 160
    programs, _ = start()
    result = train(config, tmp_path, Quiet())
    assert result.env_steps >= 480
    state, _, _ = Checkpointer(tmp_path).restore(lambda: programs.init(begin=False))
    check_seams(state.replay)
    check_samples(state.replay, config.sac)


def test_options_that_mean_nothing_here_are_refused(config):
    config = dataclasses.replace(config, task="car_racing")
    for changes in ({"renderer": "gl"}, {"env": dataclasses.replace(config.env, distractors="color_hard")}):
        with pytest.raises(configuration.ConfigError, match="draws its own pictures"):
            Programs(dataclasses.replace(config, **changes))
