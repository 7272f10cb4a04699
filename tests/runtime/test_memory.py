"""Free memory, the refusal of a replay that does not fit, and frames in the host's memory."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.config import ConfigError
from covr_jax.io.checkpoint import Checkpointer
from covr_jax.runtime import memory
from covr_jax.training import needs
from covr_jax.training.parts import build_parts
from covr_jax.training.programs import Programs
from covr_jax.types import TimeStep
from tests.support.histories import filled, make_history
from tests.support.trees import assert_trees_equal, assert_trees_equal_but_for_rounding, host_copy

MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(limit, ...) writes what Linux would say; machine.accelerator(stats, kinds) puts a device before it."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)

    def write(limit=None, current=0, cache=0):
        (tmp_path / "meminfo").write_text(MEMINFO)
        if limit:
            (tmp_path / "memory.max").write_text(f"{limit}\n")
            (tmp_path / "memory.current").write_text(f"{current}\n")
            (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 1000\n")

    def accelerator(stats, kinds=("device", "pinned_host")):
        memories = [SimpleNamespace(kind=kind) for kind in kinds]
        device = SimpleNamespace(platform="gpu", memory_stats=lambda: stats, addressable_memories=lambda: memories)
        monkeypatch.setattr(memory.jax, "local_devices", lambda: [device])
        monkeypatch.setattr(memory.jax, "default_backend", lambda: "gpu")

    write.accelerator = accelerator
    return write


def test_free_memory_is_what_the_kernel_the_control_group_or_the_device_leaves(machine):
    assert memory.free_bytes("device") is None  # neither file is there: nobody says
    machine()
    assert memory.free_bytes("device") == memory.free_bytes("host") == 20_480_000_000
    machine("max")
    assert memory.free_bytes("host") == 20_480_000_000
    machine(8_000_000_000, 5_000_000_000, 2_000_000_000)
    assert memory.free_bytes("device") == 5_000_001_000
    machine.accelerator({"bytes_limit": 12_000, "bytes_in_use": 2_000, "peak_bytes_in_use": 9_000})
    assert memory.free_bytes("device") == 10_000
    assert memory.free_bytes("host") == 5_000_001_000
    machine.accelerator(None)
    assert memory.free_bytes("device") is None


def test_this_machine_says_how_much_is_free():
    assert 1e8 < memory.free_bytes("device") < 1e13


@pytest.mark.field
def test_a_replay_that_does_not_fit_is_refused_in_one_line_that_says_what_to_do(machine):
    machine(10_000_000_000)
    memory.check_replay(8_000_000_000, 100_000, "device")
    with pytest.raises(ConfigError) as caught:
        memory.check_replay(16_000_001_600, 100_000, "device")
    assert str(caught.value) == (
        "the replay needs 16.00 GB of device memory and may take 80% of the 10.00 GB that are free;"
        " lower --replay.capacity to 50,000 or less"
    )
    machine.accelerator({"bytes_limit": 5_000_000_000, "bytes_in_use": 1_000_000_000})
    with pytest.raises(ConfigError, match=r"4\.00 GB .* to 20,000 or less or use --replay.storage host$"):
        memory.check_replay(16_000_000_000, 100_000, "device")
    memory.check_replay(8_000_000_000, 100_000, "host")
    machine.accelerator({}, kinds=("device",))
    memory.check_replay(8_000_000_000, 100_000, "device")  # the device does not say: nothing to compare with
    with pytest.raises(ConfigError, match="gpu offers no pinned_host memory; use device"):
        memory.check_replay(1, 1, "host")


def test_nothing_is_allocated_before_the_refusal(tiny_config, make_programs, monkeypatch):
    config = dataclasses.replace(tiny_config, replay=dataclasses.replace(tiny_config.replay, capacity=10**9))
    programs = make_programs(config)
    assert programs.parts.replay_bytes == replay.nbytes(5 * 10**8 + 4, 2, 20, 1) > 10**12
    monkeypatch.setattr(replay, "init", lambda *_: pytest.fail("allocated"))
    with pytest.raises(ConfigError, match=r"the replay needs 1222\.00 GB"):
        programs.init()


def test_what_does_not_fit_beside_the_replay_is_refused_and_the_option_named(machine):
    parts = [
        memory.Need("the networks", 5_000_000_000, {"--sac.hidden-dim": 4096, "--env.image-size": 300}),
        memory.Need("the frames", 1_000_000_000, {"--env.frame-stack": 300}),
    ]
    memory.check_needs(parts)  # nobody says how much is free
    machine(10_000_000_000)
    memory.check_needs(parts, 4_000_000_000)
    with pytest.raises(ConfigError) as caught:
        memory.check_needs(parts, 4_000_001_001)
    assert str(caught.value) == (
        "the networks need 5.00 GB of memory beside the replay's 4.00 GB, and 10.00 GB are free;"
        " lower --sac.hidden-dim, now 4,096"
    )
    machine(7_400_000_000)
    with pytest.raises(ConfigError, match=r"^the networks need 5.00 GB of memory, and 7.40 GB are free; lower --sac"):
        memory.check_needs(parts)
    machine.accelerator({"bytes_limit": 8_000_000_000, "bytes_in_use": 0})
    memory.check_needs(parts, 10**12, "host")  # another memory
    with pytest.raises(ConfigError, match=r"lower --env.frame-stack, now 300$"):
        memory.check_needs([parts[1]._replace(nbytes=7_000_000_000), parts[0]])


@pytest.mark.field
@pytest.mark.parametrize(
    ("group", "name", "value", "said"),
    [
        (
            "sac",
            "hidden_dim",
            10**7,
            r"^the networks with .* need 4,400,\d+\.\d+ GB .* lower --sac.hidden-dim, now 1",
        ),
        ("sac", "feature_dim", 10**8, r"^the networks with .* lower --sac.feature-dim, now 100,000,000$"),
        (
            "sac",
            "batch_size",
            10**9,
            r"^the frame stacks of a batch need 7,200\.00 GB .* lower --sac.batch-size, now 1",
        ),
        ("env", "frame_stack", 10**9, r"^the frame stacks of a batch .* lower --env.frame-stack, now 1,000,000,000$"),
        ("env", "image_size", 10**6, r"^the frame stacks of a batch .* lower --env.image-size, now 1,000,000$"),
        ("env", "num_envs", 10**9, r"^the environments' frame stacks .* lower --env.num-envs, now 1,000,000,000$"),
        ("sac", "n_step", 26, r"^--sac.n-step must be at most 25, the steps of an episode, got 26$"),
    ],
)
def test_sizes_that_no_machine_has_are_refused_before_anything_is_allocated(tiny_config, group, name, value, said):
    part = dataclasses.replace(getattr(tiny_config, group), **{name: value})
    with pytest.raises(ConfigError, match=said) as caught:
        Programs(dataclasses.replace(tiny_config, **{group: part})).init()
    assert "\n" not in str(caught.value)


def test_the_predicted_size_of_the_learner_is_its_size(tiny_config):
    parts = build_parts(tiny_config)
    images, action = jnp.zeros((1, 20, 20, 9), jnp.uint8), jnp.zeros((1, 1))
    leaves = jax.tree.leaves(parts.learner.init(jax.random.key(0), images, action))
    assert needs.of_learner(parts).nbytes == sum(leaf.nbytes for leaf in leaves)


# ------------------------------------------------------------- frames on the host


def kind(state):
    return state.frame.sharding.memory_kind


def twins(history, slots):
    """The same ring twice: frames on the device, and on the host, filled there."""
    lanes = history.reward.shape[1]
    add = jax.jit(replay.add, donate_argnums=0)
    state = replay.init(slots, lanes, 2, 2, "host")
    for step in range(len(history.reward)):
        values = jax.tree.map(lambda x, step=step: x[step], history)
        state = add(state, TimeStep(*values[:3], values.frame), values.action)
        assert kind(state) == "pinned_host"
    return filled(history, slots), state


def test_frames_on_the_host_give_the_same_numbers():
    history = make_history(np.random.default_rng(4), 31, 2)
    here, there = twins(history, 9)
    jax.tree.map(np.testing.assert_array_equal, here, there)
    sample = jax.jit(partial(replay.sample, batch_size=64, frame_stack=3, n_step=2, discount=0.9))
    one, two = (sample(state, jax.random.key(0)) for state in (here, there))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert two.observation.sharding.memory_kind == "device"
    time, lane = jnp.asarray([22, 26, 30]), jnp.asarray([1, 0, 1])
    one, two = (replay.observations(state, time, lane, 3) for state in (here, there))
    np.testing.assert_array_equal(one, two)


def test_single_frames_move_between_the_memories_and_the_ring_never_does():
    """As compiled for an NVIDIA GPU: one slot crosses on the way in, one frame at a time on the way out."""
    _, there = twins(make_history(np.random.default_rng(4), 12, 2), 9)
    step = TimeStep(jnp.zeros(2, jnp.int32), jnp.zeros(2), jnp.ones(2), jnp.zeros((2, 2, 2, 3), jnp.uint8))

    def program(state, key):
        state = replay.add(state, step, jnp.zeros((2, 2)))
        return state, replay.sample(state, key, 4, 3)

    exported = jax.export.export(jax.jit(program), platforms=["cuda"])(there, jax.random.key(0))
    text = exported.mlir_module()
    moved = [line.split(" : ")[-1] for line in text.splitlines() if "annotate_device_placement" in line]
    assert len(moved) == 2
    assert any("-> tensor<1x2x12xui8>" in line for line in moved)
    assert any("-> tensor<1x1x12xui8>" in line for line in moved)
    assert not [line for line in text.splitlines() if "9x2x12xui8" in line and "gather" in line]


@pytest.mark.slow
def test_a_run_with_frames_on_the_host_equals_one_on_the_device(tiny_config, make_programs, piece_sizes, tmp_path):
    store = dataclasses.replace(tiny_config.replay, storage="host")
    random, states = {}, {}
    for name, config in {"device": tiny_config, "host": dataclasses.replace(tiny_config, replay=store)}.items():
        programs = make_programs(config)
        state = programs.init()
        for _ in range(2):
            state = programs.chunk(state, learn=False).state
        random[name] = host_copy(state)
        states[name] = programs.chunk(state, learn=True).state
    assert_trees_equal(*random.values())
    # Updates round apart, the actions after them too, and physics adds that up: a velocity of 1 by some 1e-5.
    assert_trees_equal_but_for_rounding(*states.values(), atol=1e-4)
    assert kind(states["host"].replay) == "pinned_host"
    before = piece_sizes(programs)
    assert (before["add"], before["count"], before["act"], before["mean_action"]) == (2, 2, 1, 0)
    # A restored state goes on where the frames were, in the same programs.
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, states["host"], {})
    restored, _, _ = checkpointer.restore(programs.init)
    assert kind(restored.replay) == "pinned_host"
    programs.evaluator.evaluate(programs.evaluator.eval_policy(restored.learner), 2, 1)
    frames = programs.pieces.query(restored.learner, restored.replay).frames
    state = states["device"]
    on_device = make_programs(tiny_config).pieces.query(state.learner, state.replay).frames
    np.testing.assert_allclose(np.asarray(frames, int), np.asarray(on_device, int), rtol=0, atol=1)  # whole levels
    assert np.mean(frames != on_device) < 1e-3
    programs.chunk(restored, learn=True)
    # Pieces that are plain functions share their count with those of the other run.
    expected = {name: 2 if name in ("add", "count") else 1 for name in before} | {"set_prior": 0}
    assert piece_sizes(programs) == expected
