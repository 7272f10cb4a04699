"""The compiled pieces and their composition, on a run of two environments whose episodes last 25 agent steps."""

from __future__ import annotations

import copy
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.config import ConfigError
from covr_jax.runtime import dlpack, rng
from covr_jax.runtime.ahead import Ahead
from covr_jax.training.programs import Programs
from covr_jax.training.queries import QueryManager
from covr_jax.training.resolve import resolve
from covr_jax.types import Prior, StepType
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.trees import assert_trees_equal, host_copy

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("training")

ENVS, STEPS, EPISODE = 2, 10, 25  # environments, agent steps of a chunk, agent steps of an episode
LOSSES = {f"losses/{name}" for name in ("critic", "actor", "alpha", "guidance")}
NAMES = LOSSES | {"sac/effective_guidance_weight"} | {f"sac/{name}" for name in ("alpha", "entropy", "q_mean")}


def test_an_action_repeat_that_does_not_divide_an_episode_is_one_line(tiny_config):
    with pytest.raises(ConfigError, match="an action repeat of 7 does not divide the 1000 control steps"):
        Programs(dataclasses.replace(tiny_config, env=dataclasses.replace(tiny_config.env, action_repeat=7)))


def firsts(vec_steps):
    """How many of the first env.step calls started an episode: an episode is 25 steps and one FIRST."""
    return vec_steps // (EPISODE + 1)


@pytest.fixture(scope="module")
def programs(tiny_config, make_programs):
    return make_programs(tiny_config)


@pytest.fixture(scope="module")
def history(programs):
    """After every chunk of a run of 330 agent steps: progress, updates, metrics; and the last state."""
    state, rows = programs.init(), []
    queries = QueryManager(
        FakeVLM(), select=programs.pieces.query, set_prior=programs.pieces.set_prior, num_slots=4, num_envs=ENVS
    )
    for chunk in range(33):
        learn = int(state.progress.transitions) >= programs.config.sac.init_steps
        state, metrics, _ = programs.chunk(state, learn=learn)
        if chunk % 3 == 2:
            programs.pieces.query(state.learner, state.replay)
            # As from the VLM: arrays that crossed DLPack are pinned to their device, which must not spread.
            answers = torch.full((2, ENVS, 1), 0.5), torch.ones((2, ENVS), dtype=torch.bool)
            prior = Prior(*map(dlpack.to_jax, answers))
            state = queries.store(state, prior, int(state.replay.count))
        if chunk % 10 == 9:
            programs.evaluator.evaluate(programs.evaluator.eval_policy(state.learner), 2, chunk)
        row = (state.progress, state.learner.updates, state.replay.count, metrics)
        rows.append((learn, *jax.tree.map(np.asarray, row)))
    return rows, state


def test_counters_advance_exactly(programs, history):
    assert (programs.parts.chunk_steps, programs.parts.env.episode_length) == (STEPS, EPISODE)
    updates = 0
    for index, (learn, progress, counted, slots, _) in enumerate(history[0]):
        vec_steps = STEPS * (index + 1)
        updates += STEPS * learn
        assert progress.vec_steps == slots == vec_steps
        assert progress.transitions == ENVS * (vec_steps - firsts(vec_steps))  # what starts an episode is none
        assert counted == updates
    # 20 transitions per chunk, so 40 are there after two chunks of random actions.
    assert [learn for learn, *_ in history[0]] == [False, False, *[True] * 31]


def test_the_ring_holds_what_happened_in_order(programs, history):
    _, state = history
    window = replay.window(state.replay, 0)
    count = int(state.replay.count)
    assert len(window.slots) == programs.parts.slots < count  # wrapped
    times = np.arange(count - len(window.slots), count)
    position = times % (EPISODE + 1)
    expected = np.where(position == 0, StepType.FIRST, np.where(position == EPISODE, StepType.LAST, StepType.MID))
    np.testing.assert_array_equal(window.step_type, np.stack([expected] * ENVS, -1))
    assert (window.reward[position == 0] == 0).all() and (window.reward[position != 0] > 0).all()
    assert (np.asarray(state.replay.discount)[window.slots] == 1).all()
    assert (np.abs(window.action) <= 1).all() and window.action.std() > 0.05


def test_returns_are_the_sums_of_the_episodes_rewards(history):
    rows, state = history
    window = replay.window(state.replay, 0)
    times = np.arange(int(state.replay.count) - len(window.slots), int(state.replay.count))
    last = times[(window.step_type[:, 0] == StepType.LAST)][-1]
    finished = window.reward[(times > last - EPISODE) & (times <= last)].sum(0)
    np.testing.assert_allclose(state.progress.last_return, finished, rtol=1e-5)
    # The newest time step is not in the ring yet; its reward is in the running return.
    running = window.reward[times > last].sum(0) + np.asarray(state.timestep.reward)
    np.testing.assert_allclose(state.progress.running_return, running, rtol=1e-5)
    assert np.isneginf([rows[0][1].last_return, rows[1][1].last_return]).all()
    assert np.isfinite(rows[2][1].last_return).all()


def test_a_simulation_that_fails_begins_anew_and_leaves_nothing_behind(programs):
    """Env 1 leaves the finite numbers: its episode is cut, all that is stored is finite, env 0 does not notice."""
    states = [programs.chunk(programs.init(), learn=False).state for _ in range(2)]
    sound, failed = (jax.tree.map(jnp.copy, state) for state in states)
    failed = failed.replace(env=failed.env.replace(qvel=failed.env.qvel.at[1].set(jnp.nan)))
    for _ in range(2):
        sound, failed = (programs.chunk(state, learn=False).state for state in (sound, failed))
    cut = np.asarray(failed.replay.step_type) == StepType.CUT
    assert np.argwhere(cut).tolist() == [[STEPS, 1]] and int(programs.pieces.count_cut(failed.replay, 0)) == 1
    assert int(programs.pieces.count_cut(sound.replay, 0)) == 0
    assert failed.replay.step_type[STEPS + 1, 1] == StepType.FIRST and failed.replay.reward[STEPS + 1, 1] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((failed.replay.reward, failed.env.qvel)))
    stored = ((np.asarray(leaf) for leaf in (s.replay.frame, s.replay.reward, s.env.qpos.T)) for s in (sound, failed))
    for one, other in zip(*stored, strict=True):
        np.testing.assert_array_equal(one[:, 0], other[:, 0])


def test_metrics_have_their_names_and_are_finite(history):
    for learn, _, _, _, metrics in history[0]:
        assert set(metrics) == (NAMES if learn else set())
        assert all(value.shape == () and np.isfinite(value) for value in metrics.values())


def test_no_piece_is_compiled_twice(programs, history, piece_sizes):
    assert set(piece_sizes(programs).values()) == {1}


def test_entropy_estimates_do_not_depend_on_how_many_there_are(programs, history):
    """Rounds measure ever other numbers of samples by few programs."""
    _, state = history
    time = np.arange(int(state.replay.count) - 9, int(state.replay.count))
    env_id = np.arange(9) % ENVS
    nine = programs.entropy(state, time, env_id, 3)
    assert nine.shape == (9,) and nine.std() > 0
    before = programs.pieces.entropy._cache_size()
    for number in (10, 13, 16):
        more = programs.entropy(state, *(np.resize(index, number) for index in (time, env_id)), 3)
        np.testing.assert_array_equal(more[:9], nine)
    assert programs.pieces.entropy._cache_size() == before


def test_the_first_steps_are_random_and_the_same_for_equal_seeds(programs, tiny_config, make_programs):
    states = [programs.chunk(programs.init(), learn=False).state for _ in range(2)]
    one, two = (jax.tree.map(np.asarray, (state.replay.action[:STEPS], state.env.qpos)) for state in states)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert len(np.unique(one[0])) == STEPS * ENVS
    assert one[0].min() < -0.5 and one[0].max() > 0.5


def test_queries_are_the_frames_of_every_fifth_step(programs, history):
    _, state = history
    frames, index = programs.pieces.query(state.learner, state.replay)
    times = np.arange(int(state.replay.count) - STEPS, int(state.replay.count), 5)
    expected = np.asarray(state.replay.pictures)[times % programs.parts.slots]
    np.testing.assert_array_equal(frames, expected.reshape(-1, *expected.shape[2:]))
    np.testing.assert_array_equal(index, np.arange(2 * ENVS))
    assert programs.parts.num_query_slots == 2 * ENVS


def test_evaluation_is_decided_by_its_number(programs, history):
    policy = programs.evaluator.eval_policy(history[1].learner)
    one, again, other = (programs.evaluator.evaluate(policy, 2, number) for number in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all() and one[0] != one[1]
    assert one.dtype == np.float64 and (one > 0).all() and (one < EPISODE * 40).all()
    assert programs.evaluator.evaluate(policy, 1, 5).tolist() == one[:1].tolist()
    # The learned policy is the mean action: it sees the time step and nothing else.
    timestep = history[1].timestep
    np.testing.assert_array_equal(policy(timestep, 0), policy(timestep, 7))


def test_training_leaves_no_trace_in_an_evaluation_and_vice_versa(programs):
    state = programs.chunk(programs.init(), learn=False).state
    before = jax.tree.map(np.asarray, (state.env.qpos, state.timestep.observation, state.progress))
    programs.evaluator.evaluate(programs.evaluator.random_policy(0), 2, 1)
    after = jax.tree.map(np.asarray, (state.env.qpos, state.timestep.observation, state.progress))
    jax.tree.map(np.testing.assert_array_equal, before, after)


# -------------------------------------------------------------------- misfits


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"task": "cartpole_swingdown"}, "unknown task 'cartpole_swingdown'; choose from cartpole_swingup"),
        ({"method": "rad", "augment": {"kind": "none"}}, "rad without an augmentation is another method"),
        ({"augment": {"kind": "translate", "size": 10}}, "translate needs augment.size >= env.image_size"),
        ({"sac": {"conv_kernels": (3,) * 4, "conv_strides": (2,) * 4}}, "leave nothing of 20 pixels"),
        ({"base": "drqv2", "vlm": {"ask_share": 0.5}}, "--vlm.ask-share 0.5 needs a policy with an entropy of its own"),
        ({"replay": {"capacity": 1}}, "--replay.capacity must be at least 26 for these options, got 1"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_in_one_line(tiny_config, changes, complaint):
    config = tiny_config
    for name, value in changes.items():
        value = dataclasses.replace(getattr(config, name), **value) if isinstance(value, dict) else value
        config = dataclasses.replace(config, **{name: value})
    with pytest.raises(ConfigError, match=complaint) as caught:
        Programs(config)
    assert "\n" not in str(caught.value)


def test_purposes_have_streams_of_their_own():
    purposes = (rng.INIT, rng.ENV, rng.ACT, rng.UPDATE, rng.EVAL, rng.ENTROPY)
    keys = [rng.stream(seed, purpose) for seed in (0, 1) for purpose in purposes]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 12


def test_a_learning_rate_of_zero_is_no_missing_one(tiny_config, monkeypatch):
    rates = []

    def spy(action_dim, learning_rate, *_):
        rates.append(learning_rate)
        raise KeyboardInterrupt

    monkeypatch.setattr("covr_jax.training.parts.make_learner", spy)
    for rate in (None, 0.0):
        with pytest.raises(KeyboardInterrupt):
            Programs(dataclasses.replace(tiny_config, sac=dataclasses.replace(tiny_config.sac, learning_rate=rate)))
    assert rates == [1e-3, 0.0]


def test_learning_starts_with_the_updates_that_are_caught_up(tiny_config, make_programs):
    programs = copy.copy(make_programs(tiny_config))
    programs.config = dataclasses.replace(tiny_config, sac=dataclasses.replace(tiny_config.sac, catch_up_updates=3))
    state, _, _ = programs.chunk(programs.init(), learn=False)
    before = host_copy(state)
    after = host_copy(programs.catch_up(state))
    assert int(after.learner.updates) == 3 and int(after.learner.actor_opt[0].count) == 3  # the actor each time
    assert_trees_equal(after.replay, before.replay)
    assert_trees_equal(after.env, before.env)


def test_a_learner_is_initialised_in_one_program(tiny_config, caplog):
    """More than a hundred small ones took a quarter of a cold start."""
    programs = Programs(resolve(tiny_config))
    with jax.log_compiles():
        learner = programs.init_policy().learner
    compiled = re.findall(r"XLA compilation of jit\((\w+)\)", caplog.text)
    assert "init" in compiled and not {"_orthogonal", "qr", "dot_general", "_normal"} & set(compiled)
    observation, action = jnp.zeros((1, 20, 20, 9), jnp.uint8), jnp.zeros((1, 1))
    key = rng.stream(tiny_config.seed, rng.INIT)
    assert_trees_equal(learner, programs.parts.learner.init(key, observation, action))


def test_what_is_compiled_ahead_is_what_is_called(tiny_config, caplog):
    """Shapes that differed from those of the calls would compile everything twice."""
    programs = Programs(resolve(tiny_config), Ahead())
    state = programs.init()
    programs.ahead.wait("physics", "policy", "update of the critic", "update of the actor")
    caplog.clear()
    with jax.log_compiles():
        for learn in (False, True):
            state = programs.chunk(state, learn=learn).state
    compiled = re.findall(r"XLA compilation of jit\((\w+)\)", caplog.text)
    assert "_random_action" in compiled  # not compiled ahead
    assert not {"_act", "_learn_critic", "actor_half", "observe", "initial"} & set(compiled)
