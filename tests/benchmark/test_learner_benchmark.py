"""The learner's benchmark: its contestants make the same update, its counts are right, and it runs.

A action, H W image; "tiny" shapes: 4 images of 20 pixels, cropped to 16.
"""

from __future__ import annotations

import json
import os
import time
from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

torch = pytest.importorskip("torch")

from covr_jax.agents import make_learner  # noqa: E402
from covr_jax.agents.methods import make_method  # noqa: E402
from covr_jax.agents.networks.convolution import convolve  # noqa: E402
from covr_jax.config import AugmentConfig, SACConfig  # noqa: E402
from experiments.benchmark import learner, learner_contest, roofline, turns  # noqa: E402
from experiments.benchmark import learner_parity as parity  # noqa: E402
from experiments.benchmark.naive_jax import NaiveRAD  # noqa: E402
from experiments.benchmark.torch_rad import TorchRAD  # noqa: E402

pytestmark = pytest.mark.slow

A, SIZE, RATE = 6, 20, 1e-3
SAC = learner_contest.SHAPES["tiny"].sac
KEY = jax.random.key(7)
BATCH = learner_contest.random_batch(SAC, SIZE)


def method(side):
    return make_method("rad", AugmentConfig(size=side), SIZE, "crop" if side < SIZE else "translate")


@cache
def warm_state(side):
    """A learner, its compiled update with the actor, and a state whose optimisers have seen some gradients."""
    agent = make_learner(A, RATE, method(side), SAC)
    update = jax.jit(partial(agent.update, with_actor=True))
    state = agent.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 9), jnp.uint8), jnp.zeros((1, A)))
    for number in range(4):
        state, _ = update(state, BATCH, jax.random.key(number))
    return update, state


def peer(side, **options):
    return TorchRAD(SAC, image_size=SIZE, side=side, channels=9, action_dim=A, learning_rate=RATE, **options)


def largest(errors):
    return max(errors.values())


# ---------------------------------------------------------------- equal updates


@pytest.mark.parametrize(("side", "channels_last"), [(16, False), (16, True), (24, False)])
def test_the_torch_peer_makes_our_update(side, channels_last):
    """In float64, where nothing but the mathematics can differ; 24 is a translation."""
    update, state = warm_state(side)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
        after, _ = update(wide, BATCH, KEY)
        other = peer(side, dtype=torch.float64, channels_last=channels_last)
        parity.load(other, wide)
        draws = parity.same_draws(other, KEY, SAC.batch_size)
        found = parity.peer_gradients(other, parity.to_torch(other, BATCH), draws)
        assert largest(parity.layer_errors(parity.our_gradients(wide, after, other), found)) < 1e-6
        for module, tree in ((other.online, after.params), (other.target, after.target)):
            got = {name: p.detach().numpy() for name, p in module.named_parameters()}
            assert largest(parity.layer_errors(got, parity.layout(other, tree))) < 1e-6
        assert other.log_alpha.item() == pytest.approx(float(after.log_alpha), rel=1e-9)
        assert other.log_alpha.item() != pytest.approx(float(wide.log_alpha), rel=1e-6)


def test_in_float32_the_gradients_agree_to_rounding():
    update, state = warm_state(16)
    after, _ = update(state, BATCH, KEY)
    other = peer(16)
    parity.load(other, state)
    found = parity.peer_gradients(other, parity.to_torch(other, BATCH), parity.same_draws(other, KEY, SAC.batch_size))
    assert largest(parity.layer_errors(parity.our_gradients(state, after, other), found)) < 1e-4


def test_naive_jax_makes_our_update():
    update, state = warm_state(16)
    ours, _ = update(state, BATCH, KEY)
    naive = NaiveRAD(SAC, method(16).augmentation, RATE).jitted[True](state, BATCH, KEY)
    shapes = peer(16)
    assert (
        largest(
            parity.layer_errors(parity.our_gradients(state, naive, shapes), parity.our_gradients(state, ours, shapes))
        )
        < 1e-4
    )
    assert largest(parity.layer_errors(parity.layout(shapes, naive.target), parity.layout(shapes, ours.target))) < 1e-4
    assert float(naive.log_alpha) == pytest.approx(float(ours.log_alpha), rel=1e-6)


def test_drawing_moves_the_pair_of_a_translation_alike_and_crops_each_alone():
    for side, alike in ((24, True), (16, False)):
        drawn = peer(side).draw(64)
        assert [int(o.min()) for o in drawn.offsets] == [0, 0] and [int(o.max()) for o in drawn.offsets] == [4, 4]
        assert torch.equal(*drawn.offsets) == alike
        assert not torch.equal(*drawn.noise)


# ----------------------------------------------------------------------- counts


def test_flops_of_a_network_by_hand():
    """5x5x9 -> 3x3x2 by a 3x3 kernel; features 3; hidden 5; actions 6; two samples."""
    sac = SACConfig(batch_size=2, num_filters=2, conv_kernels=(3,), conv_strides=(1,), feature_dim=3, hidden_dim=5)
    conv, linear = 2 * 81 * 2 * 9, 2 * 18 * 3
    twins, policy = 2 * 2 * (9 * 5 + 5 * 5 + 5), 2 * (3 * 5 + 5 * 5 + 5 * 12)
    critic = (conv + linear + policy) + (conv + linear + twins) + (2 * conv + 3 * linear + 3 * twins)
    actor = conv + (2 * linear + 3 * policy) + (linear + 2 * twins)
    assert learner_contest.flops_per_update(sac, 5) == 2 * (critic + actor / 2)


def test_flops_of_the_published_shapes():
    """84x84x9 -> 41, 39, 37, 35: 84.6 MFLOP a forward pass, seven times a pair of updates."""
    convs = 2 * 9 * 32 * (9 * 41**2 + 32 * (39**2 + 37**2 + 35**2))
    assert convs == pytest.approx(84.6e6, rel=1e-3)
    total = learner_contest.flops_per_update(SACConfig(), 84)
    assert 128 * 5.3 * convs < total < 128 * 6.1 * convs


class Clock:
    """Time that only the contestants move."""

    now = 0.0

    def work(self, seconds, log, name):
        log.append(name)
        self.now += seconds


def test_turns_alternate_and_medians_are_paired(monkeypatch):
    clock, log = Clock(), []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: clock.now)
    busy = iter([1.0, 1.0, 1.0, 3.0, 1.0])  # two calls before the rounds; a neighbour doubles the second round

    def quick():
        clock.work(next(busy), log, "quick")

    contestants = {
        "quick": turns.Contestant(quick, 2, lambda: None, lambda: 2 * clock.now),
        "slow": turns.Contestant(
            partial(clock.work, 4.0, log, "slow"), 1, lambda: None, lambda: clock.now, partial(clock.work, 9.0, [], "")
        ),
    }
    taken = turns.take_turns(contestants, rounds=3, seconds=0.1)
    assert log == ["quick"] * 2 + ["slow"] * 2 + ["quick", "slow"] * 3
    row = turns.row("slow", taken["slow"], taken["quick"])
    assert [turn.wall for turn in taken["quick"]] == [0.5, 1.5, 0.5]
    assert row["updates_per_s"] == row["least"] == row["most"] == 0.25
    assert (row["ours_is"], row["cpu_ms"], row["ours_is_by_cpu"]) == (8.0, 4000.0, 4.0)


def test_a_contestant_elsewhere_has_a_process_of_its_own():
    nap, told = partial(time.sleep, 0.05), partial(os.getenv, "TOLD")
    one = turns.elsewhere(turns.Contestant, nap, 3, time.time, os.getpid)
    assert turns.elsewhere(turns.Contestant, nap, 3, time.time, told, TOLD="so").cpu() == "so"
    assert told() is None
    started = time.perf_counter()
    one.work()
    assert time.perf_counter() - started >= 0.05
    assert one.amount == 3 and one.wait() is None and one.cpu() != os.getpid()


# ----------------------------------------------------------------- the whole run


def test_the_benchmark_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    output = tmp_path / "learner.json"
    options = "--shapes tiny --rounds 2 --seconds 0.02 --seeds 2 --rivals torch torch_channels_last naive_jax"
    monkeypatch.setattr("sys.argv", ["learner.py", *options.split(), "--output", str(output)])
    assert learner.main() == 0
    told, found = capsys.readouterr().out, json.loads(output.read_text())
    names = ["ours", "torch", "torch_channels_last", "naive_jax", "ours_vmap_2"]
    assert [row["contestant"] for row in found["rows"]] == names and all(name in told for name in names)
    assert all(0 < row["least"] <= row["updates_per_s"] <= row["most"] for row in found["rows"])
    assert found["rows"][0]["ours_is"] == 1.0
    details = found["shapes"]["tiny"]
    assert details["gflop_per_update"] == pytest.approx(details["gflop_by_hand"], rel=0.2)
    torso, actor, critic, scalars = 476, 824 + 620, 824 + 1058, 11
    floats = 4 * (torso + critic) + 3 * actor + scalars  # both and their targets, and two moments of each
    assert details["state_mb"] == pytest.approx(4e-6 * floats)
    assert len(details["gradients"]) == 30
    assert max(row["same_float64"] for row in details["gradients"]) < 1e-6
    same, rounded = details["rounding"]  # on CPU tf32 is float32
    assert list(same.values()) == ["tf32", 0, 0, 0, 0] or jax.default_backend() != "cpu"
    assert 1e-5 < rounded["critic_loss"] < 0.1 and 1e-3 < rounded["gradients_median"] < rounded["gradients_worst"]


@pytest.mark.parametrize("option", ["--rounds", "--threads", "--seeds", "--batch-size"])
def test_counts_must_be_positive(monkeypatch, option, capsys):
    monkeypatch.setattr("sys.argv", ["learner.py", option, "0"])
    with pytest.raises(SystemExit, match="2"):
        learner.parse()
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err


def test_pinning_takes_the_last_processors(monkeypatch):
    chosen = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: chosen.append(list(cores)))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "kept")
    assert turns.pin(2) == 2 and chosen == [[3, 5]]
    assert os.environ["OMP_NUM_THREADS"] == "2" and os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "kept"
    assert turns.pin(None) == 3


@pytest.mark.parametrize(("argnums", "products"), [(None, 1), ((1, 2), 2), ((0, 1, 2), 3)])
def test_the_work_of_convolutions_is_counted(argnums, products):
    """A product for the value, one for each gradient that is asked for; XLA counts none of our kernel's."""
    x, kernel, bias = jnp.ones((4, 9, 9, 32)), jnp.ones((3, 3, 32, 32)), jnp.ones(32)

    def total(*given):
        return convolve(*given, 1, jax.lax.Precision.HIGHEST).sum()

    function = jax.jit(total if argnums is None else jax.value_and_grad(total, argnums))
    by_hand = 2 * (4 * 7 * 7 * 32) * (3 * 3 * 32)
    assert roofline.cost_of(function, x, kernel, bias).flops == pytest.approx(products * by_hand, rel=0.01)
