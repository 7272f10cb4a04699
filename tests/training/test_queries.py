"""Entropy-gated questions: which frames are asked about, where answers land, and whole runs beside ungated ones.

The tiny config has 2 environments, chunks of 10 agent steps and a query every 5: 4 query slots per chunk.
"""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.agents.policies import noisy_deterministic, squashed_gaussian
from covr_jax.io.metrics import read_metrics
from covr_jax.training import loop, queries
from covr_jax.training.parts import build_parts
from covr_jax.training.queries import QueryManager
from covr_jax.training.resolve import resolve
from covr_jax.types import Prior, StepType
from covr_jax.vlm.serving import factory
from covr_jax.vlm.serving.fake import FakeVLM
from tests.support.reporters import Quiet

# --------------------------------------------------------------------- by hand

pytestmark = pytest.mark.xdist_group("training")


def test_query_slots_are_every_nth_step_of_the_chunk_in_all_environments():
    time, env_id = queries.query_slots(jnp.asarray(34), 12, 4, 2)
    assert time.tolist() == [22, 22, 26, 26, 30, 30] and env_id.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("total", "share", "count"), [(4, 1.0, 4), (4, 0.999, 4), (4, 0.5, 2), (4, 0.01, 1), (10, 0.7, 7), (256, 0.25, 64)]
)
def test_how_many_are_asked(total, share, count):
    assert queries.num_queries(total, share) == count


def test_the_most_uncertain_that_act_come_first():
    entropy = jnp.asarray([-1.0, 0.5, 0.7, 0.5, -3.0])
    everyone, third = jnp.ones(5, bool), jnp.asarray([True, True, False, True, True])
    assert queries.top_k_entropy(entropy, everyone, 2).tolist() == [1, 2]  # 0.7, and the earlier 0.5
    assert queries.top_k_entropy(entropy, everyone, 3).tolist() == [1, 2, 3]
    assert queries.top_k_entropy(entropy, third, 2).tolist() == [1, 3]
    assert queries.top_k_entropy(entropy, third, 5).tolist() == [0, 1, 2, 3, 4]


def test_answers_go_back_to_their_places():
    prior = Prior(jnp.asarray([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]), jnp.asarray([True, False, True]))
    action, valid = queries.scatter_priors(prior, jnp.asarray([0, 2, 5]), 2, 6)
    assert action.shape == (3, 2, 2) and action.dtype == np.float32
    np.testing.assert_allclose(action.reshape(6, 2)[[0, 2, 5]], prior.action)
    assert not action.reshape(6, 2)[[1, 3, 4]].any()
    assert valid.tolist() == [[True, False], [False, False], [False, True]]


def test_dropped_queries_are_neither_counted_nor_waited_for():
    class Busy(FakeVLM):
        busy = False

        def submit(self, query_step, frames):
            return not self.busy

        def poll(self, time):
            return []

    vlm, frames = Busy(), jnp.zeros((3, 4, 4, 3), jnp.uint8)

    def select(learner, store):
        return frames, jnp.arange(3)

    manager = QueryManager(vlm, select, lambda *_: None, num_slots=4, num_envs=2)
    for now, vlm.busy in ((10, False), (20, True), (30, True)):
        manager.step(SimpleNamespace(learner=None, replay=SimpleNamespace(count=now)), query=True)
    assert (manager.frames_queried, manager.frames_skipped, manager.pending) == (3, 1, [10])


# --------------------------------------------------------------------- entropy


def integral(mean, sigma):
    """-int p(a) log p(a) da over (-1, 1), in float64, of a = tanh(N(mean, sigma)), on a fine grid of atanh(a)."""
    u, step = np.linspace(mean - 12 * sigma, mean + 12 * sigma, 400_001, retstep=True)
    normal = np.exp(-0.5 * ((u - mean) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    log_slope = -2 * np.log(np.cosh(u))  # of tanh
    log_p = np.log(normal) - log_slope
    return -float((normal * log_p).sum() * step)


@pytest.mark.parametrize(
    ("mean", "sigma", "error"),
    [(0.0, 1.0, 2e-6), (0.3, 0.05, 2e-6), (-2.0, 0.5, 2e-6), (3.0, 1.0, 1e-5), (1.0, 2.0, 3e-4), (0.5, 7.0, 0.1)],
)
def test_mean_entropy_is_the_integral_over_actions(mean, sigma, error):
    """Of each dimension alone, summed: here one at (mean, sigma) and one at (0, 0.4)."""
    outputs = jnp.asarray([[mean, 0.0]]), jnp.log(jnp.asarray([[sigma, 0.4]]))
    found = squashed_gaussian.mean_entropy(outputs, jnp.zeros(()))
    assert found.shape == (1,)
    assert float(found[0]) == pytest.approx(integral(mean, sigma) + integral(0.0, 0.4), abs=error)


def test_mean_entropy_is_the_mean_of_the_estimates():
    outputs = jnp.asarray([[0.2, -1.0], [2.0, 0.5]]), jnp.asarray([[-1.0, 0.3], [0.0, -2.0]])
    many = jax.tree.map(lambda x: jnp.repeat(x, 40_000, 0), outputs)
    samples = squashed_gaussian.entropy(jax.random.key(0), many, jnp.zeros(())).reshape(2, -1)
    off = np.asarray(samples.mean(1) - squashed_gaussian.mean_entropy(outputs, jnp.zeros(())))
    assert (np.abs(off) < 4 * samples.std(1) / 200).all()


def test_a_deterministic_policy_is_as_uncertain_everywhere():
    found = noisy_deterministic.mean_entropy(jnp.asarray([[0.1, 0.2, 0.3], [0.9, -1.0, 4.0]]), jnp.asarray(0.5))
    np.testing.assert_allclose(found, 3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)), rtol=1e-6)


# -------------------------------------------------------------------- programs


def gated(config, share, **vlm):
    return dataclasses.replace(config, vlm=dataclasses.replace(config.vlm, ask_share=share, **vlm))


def ring(slots, steps, envs=2):
    """Random frames; env 0 begins an episode at 12 and ends one at 15, env 1 ends at 20."""
    frame = np.random.default_rng(0).integers(0, 256, (slots, envs, 20, 20, 3), np.uint8)
    kind = np.full((slots, envs), StepType.MID, np.int8)
    kind[12, 0], kind[15, 0], kind[20, 1] = StepType.FIRST, StepType.LAST, StepType.LAST
    empty = replay.init(slots, envs, 20, 1)
    return empty.replace(frame=jnp.asarray(frame), step_type=jnp.asarray(kind), count=jnp.asarray(steps, jnp.int32))


def test_queries_are_ranked_by_the_policy_on_stacked_observations(tiny_config):
    parts = build_parts(gated(tiny_config, 0.5))
    weights = np.arange(1, 10) ** 2  # tells the frames of a stack and their channels apart

    def score(learner, observation, previous):
        assert learner is None and previous is None and observation.shape == (4, 20, 20, 9)
        return (observation.mean((1, 2)) * weights).sum(-1)

    parts = parts._replace(learner=parts.learner._replace(mean_entropy=score))
    for steps in (19, 23, 24):  # candidates at 9 and 14; 13 and 18; 14 and 19
        store = ring(40, steps)
        frames, index = queries.select_query(parts, None, store)
        stored, scores = np.asarray(store.frame), []
        for time in (steps - 10, steps - 5):
            for env_id in range(2):
                first = 12 if env_id == 0 and time >= 12 else 0
                stack = [stored[max(time - back, first), env_id] for back in (2, 1, 0)]
                scores.append((np.concatenate(stack, -1).astype(float).mean((0, 1)) * weights).sum())
        expected = sorted(np.argsort(scores)[-2:].tolist())
        assert index.tolist() == expected
        times, env_ids = np.repeat([steps - 10, steps - 5], 2)[expected], np.tile([0, 1], 2)[expected]
        np.testing.assert_array_equal(frames, stored[times, env_ids])


def test_several_frames_are_the_newest_of_the_observation(tiny_config):
    """The episode of env 0 began at 12: at 13 it has seen 12 and 13 alone."""
    parts, store = build_parts(gated(tiny_config, 1.0, frames=3)), ring(40, 23)
    shown, index = queries.select_query(parts, None, store)
    stored, whole = np.asarray(store.frame), np.asarray(shown)
    stacks = {(13, 0): (12, 12, 13), (13, 1): (11, 12, 13), (18, 0): (16, 17, 18), (18, 1): (16, 17, 18)}
    assert whole.shape == (4, 20, 20, 9) and index.tolist() == [0, 1, 2, 3]
    for row, ((_, env_id), times) in enumerate(stacks.items()):
        np.testing.assert_array_equal(whole[row], np.concatenate([stored[time, env_id] for time in times], -1))
        np.testing.assert_array_equal(queries.vlm_frames(shown, 2)[row], whole[row, ..., 3:])


def test_ends_of_episodes_are_queried_last(tiny_config):
    """At 25 the query slots are 15 and 20: env 0 ended at 15, env 1 at 20, the others act."""
    parts = build_parts(gated(tiny_config, 0.5))
    entropy = jnp.asarray([9.0, 1.0, 2.0, 9.0])
    parts = parts._replace(learner=parts.learner._replace(mean_entropy=lambda *_: entropy))
    store = ring(40, 25)
    assert np.asarray(store.step_type)[[15, 15, 20, 20], [0, 1, 0, 1]].tolist() == [StepType.LAST, 1, 1, StepType.LAST]
    _, index = queries.select_query(parts, None, store)
    assert index.tolist() == [1, 2]


# ------------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def run(make_programs, tiny_config, tmp_path_factory):
    """run(name, share, **vlm) -> (trainer, metric rows, queried batches of frames): DPL, queried from the start."""

    def go(name, share, **vlm):
        directory, asked = tmp_path_factory.mktemp("runs") / name, []

        class Watched(FakeVLM):
            def query(self, frames):
                asked.append(np.array(frames))
                return super().query(frames)

        short = dataclasses.replace(tiny_config, method="dpl", total_steps=4_000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Programs", make_programs)
            if vlm.get("mode") != "process":  # whose child would not know the class
                patch.setattr(factory, "build_engine", lambda *_: Watched())
            trainer = loop.AgentTrainer(resolve(gated(short, share, **vlm)), directory, Quiet())
            trainer.run()
            trainer.vlm.close()
        return trainer, read_metrics(directory / "metrics.jsonl"), asked

    return go


@pytest.fixture(scope="module")
def half(run):
    return run("half", 0.5)


CLOCK = ("wall_s", "checkpoint/", "time/", "compile/", "mem/", "policy/", "per_second", "latency")


def timeless(rows, *more):
    leave = (*CLOCK, *more)
    return [{k: v for k, v in row.items() if not any(part in k for part in leave)} for row in rows]


def assert_equal(one, two):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_a_gate_that_lets_all_through_is_none(run):
    """0.999 of 4 is 4: ranking, choosing and scattering all happen, and nothing else in the run knows of it."""
    gate, none = run("open", 0.999), run("none", 1.0)
    assert_equal(gate[0].state, none[0].state)
    assert timeless(gate[1], "vlm/asked", "vlm/skipped") == timeless(none[1])
    assert not any("vlm/asked" in row for row in none[1])
    last = [row for row in gate[1] if "vlm/asked" in row][-1]
    assert last["vlm/asked"] == 4 * len(gate[2]) and last["vlm/skipped"] == 0
    for one, two in zip(gate[2], none[2], strict=True):
        np.testing.assert_array_equal(one, two)


def test_half_of_the_frames_are_queried_and_counted(half):
    trainer, rows, asked = half
    chunks = len(asked)
    assert chunks == int(trainer.state.progress.vec_steps) // 10 >= 5
    assert all(frames.shape == (2, 20, 20, 3) for frames in asked)
    training = [row for row in rows if "vlm/asked" in row]
    assert [row["vlm/asked"] for row in training] == [2 * (i + 1) for i in range(chunks)]
    assert [row["vlm/skipped"] for row in training] == [row["vlm/asked"] for row in training]
    assert training[-1]["vlm/queries"] == chunks == len(training)
    newest = max((trainer.run_dir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    saved = json.loads((newest / "host.json").read_text())
    assert (saved["frames_queried"], saved["frames_skipped"]) == (2 * chunks, 2 * chunks)


def test_every_answer_lies_with_its_frame_and_the_others_are_without(half):
    trainer, _, asked = half
    store = jax.tree.map(np.asarray, trainer.state.replay)
    count = int(store.count)
    assert count <= len(store.reward)  # nothing overwritten
    given = {frame.tobytes() for frames in asked for frame in frames}
    valid = 0
    for time in range(0, count, 5):
        for env_id in range(2):
            frame, answered = store.frame[time, env_id], store.prior.valid[time, env_id]
            answer = FakeVLM().query(frame[None])
            if frame.tobytes() not in given:
                assert not answered and not store.prior.action[time, env_id].any()
            elif answered:
                np.testing.assert_array_equal(store.prior.action[time, env_id], answer.action[0])
                valid += 1
    understood = sum(int(FakeVLM().query(frames).valid.sum()) for frames in asked)
    assert valid == understood > len(asked)


@pytest.mark.parametrize("mode", ["async", "process"])
def test_modes_that_are_waited_for_are_sync(run, half, mode):
    other = run(mode, 0.5, mode=mode, deadline_s=300.0)
    assert_equal(other[0].state, half[0].state)
    assert timeless(other[1], "vlm/") == timeless(half[1], "vlm/")


def test_a_recording_is_played_back_to_the_same_places(run, half):
    recorded = run("recorded", 0.5, record=True)
    path = recorded[0].run_dir / "vlm" / "answers.jsonl"
    replayed = run("replayed", 0.5, replay=str(path))
    assert replayed[2] == []
    assert_equal(replayed[0].state, half[0].state)
    assert replayed[0].vlm.counters["missed"] == 0


@pytest.mark.slow
def test_several_frames_reach_the_vlm_in_queries_measurements_and_fine_tuning(make_programs, tiny_config, tmp_path):
    """A whole run of COVR: the channels of the querying, the measuring and the fine-tuning calls."""
    channels = {"query": set(), "finetune": set()}

    class Watched(FakeVLM):
        def query(self, frames):
            channels["query"].add(frames.shape[1:])
            return super().query(frames)

        def finetune(self, frames, *more):
            channels["finetune"].add(frames.shape[1:])
            return super().finetune(frames, *more)

    covr = dataclasses.replace(tiny_config.covr, cold_start_rounds=0)
    config = dataclasses.replace(gated(tiny_config, 1.0, frames=2, return_episodes=1), total_steps=2_400, covr=covr)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Programs", make_programs)
        patch.setattr(factory, "build_engine", lambda *_: Watched())
        loop.AgentTrainer(resolve(config), tmp_path, Quiet()).run()
    assert channels == {"query": {(20, 20, 6)}, "finetune": {(20, 20, 6)}}


def test_late_answers_go_to_the_chunk_of_their_query(run, half, monkeypatch):
    """Each answer is handed over two chunks late, as an asynchronous VLM may."""
    late = []

    def poll(self, time):
        late.append(original(self, time))
        return late.pop(0) if len(late) > 2 else []

    original = factory.SyncService.poll
    monkeypatch.setattr(factory.SyncService, "poll", poll)
    trainer, _, asked = run("late", 0.5)
    store = jax.tree.map(np.asarray, trainer.state.replay)
    end, valid = int(store.count) - 20, 0
    for time in range(0, end, 5):
        for env_id in range(2):
            if store.prior.valid[time, env_id]:
                np.testing.assert_array_equal(
                    store.prior.action[time, env_id], FakeVLM().query(store.frame[time, env_id][None]).action[0]
                )
                valid += 1
    assert valid == sum(int(FakeVLM().query(frames).valid.sum()) for frames in asked[:-2]) > 0
    assert not store.prior.valid[end : end + 20].any()
    assert trainer.queries.pending == [int(store.count) - 10, int(store.count)]
