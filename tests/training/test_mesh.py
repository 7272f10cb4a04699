"""One run on several devices equals it on one: losses, what lies where, and checkpoints that change their number."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from covr_jax import config as configuration
from covr_jax import runtime
from covr_jax.config import ConfigError
from covr_jax.training import mesh
from covr_jax.training.chunk import run_updates
from covr_jax.training.programs import Programs
from covr_jax.training.resolve import resolve
from covr_jax.training.state import initial_progress
from covr_jax.types import Prior, TimeStep

DEVICES = 8
ROOT = Path(__file__).parents[2]


def small(method="rad", devices=1, updates=5, **sac):
    """Eight environments of pendulum, batches of 16."""
    learner = {"batch_size": 16, "init_steps": 40, "hidden_dim": 16, "feature_dim": 8, "num_filters": 4}
    learner |= {"conv_kernels": (3, 3), "conv_strides": (2, 2), "updates_per_step": updates}
    return configuration.Config(
        task="pendulum_swingup",
        method=method,
        base="rad",
        total_steps=4_000,
        env=configuration.EnvConfig(num_envs=8, action_repeat=20, image_size=20, samples=1, physics="mjx"),
        sac=configuration.SACConfig(**learner | sac),
        replay=configuration.ReplayConfig(capacity=400),
        covr=configuration.CovrConfig(psi_0=2_000, cold_start_rounds=0, min_keep=4, entropy_samples=32),
        vlm=configuration.VLMConfig(name="fake", every=5, held_out=4),
        eval=configuration.EvalConfig(every=4_000, episodes=8),
        run=configuration.RunConfig(checkpoint_every=2_000, log_every=1, video=False, devices=devices),
    )


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(runtime, "devices", lambda: list(range(DEVICES)))


REFUSED = [
    ({"run": {"devices": 16}}, "--run.devices 16 of 8 that JAX finds; give at most 8"),
    ({"run": {"devices": 3}}, "--env.num-envs 8 cannot be split over --run.devices 3; give a multiple of 3"),
    ({"sac": {"batch_size": 18}}, "--sac.batch-size 18 cannot be split over --run.devices 4; give a multiple of 4"),
    ({"env": {"physics": "mujoco"}}, "--run.devices splits programs: it needs --env.physics mjx and --renderer jax"),
    ({"replay": {"storage": "host"}}, "--run.devices splits the replay over the devices' memory: leave"),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED)
def test_what_cannot_be_split_is_one_line(eight, changes, line):
    config = resolve(small(devices=4))
    for group, values in changes.items():
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})
    with pytest.raises(ConfigError) as caught:
        mesh.make_mesh(config, hosted=False)
    assert str(caught.value).startswith(line)


def test_one_device_has_no_mesh_and_programs_are_as_they_were():
    assert mesh.make_mesh(resolve(small()), hosted=False) is None
    assert mesh.kept(None, len) is len and mesh.keep(None, "as it is") == "as it is"


def in_eight(code, *arguments, timeout=1200):
    """The last line that a process with eight devices prints, from JSON."""
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    # Devices that wait for one that gets little of a busy processor are no deadlock.
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    settings = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom tests.training import test_mesh\n{code}", *map(str, arguments)],
        env=os.environ | settings | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def split():
    """Prints where the arrays of some records lie."""
    config = resolve(small(devices=4))
    devices = mesh.make_mesh(config, hosted=False)
    odd = jnp.zeros((3,))
    zeros = jnp.zeros((8,))
    tree = (initial_progress(8), TimeStep(zeros, zeros, odd, jnp.zeros((8, 2))), {"weights": zeros})
    placed = mesh.place(devices, tree)
    inside = jax.jit(lambda tree: mesh.keep(devices, tree))(tree)
    specs = [[str(leaf.sharding.spec) for leaf in jax.tree.leaves(one)] for one in (placed, inside)]
    print(json.dumps({"placed": specs[0], "inside": specs[1]}))


def test_records_of_environments_are_split_and_the_rest_is_whole():
    found = in_eight("test_mesh.split()", timeout=300)
    data, whole = str(PartitionSpec("data")), str(PartitionSpec())
    expected = [whole, whole, data, data, data, data, whole, data, whole]
    assert found["placed"] == found["inside"] == expected


def filled(store):
    """A ring of random frames, of episodes that do not end, with an answer of the VLM for every frame."""
    g = np.random.default_rng(0)
    slots, envs = store.reward.shape
    values = {"step_type": np.ones((slots, envs), np.int8), "count": np.int32(slots)}
    values["frame"] = g.integers(0, 256, store.frame.shape, dtype=np.uint8)
    values["reward"], values["discount"] = g.random((slots, envs), np.float32), np.ones((slots, envs), np.float32)
    values["action"] = g.uniform(-1, 1, store.action.shape).astype(np.float32)
    answers = g.uniform(-1, 1, store.prior.action.shape).astype(np.float32)
    values["prior"] = Prior(answers, np.ones((slots, envs), bool))
    return jax.tree.map(jnp.asarray, store.replace(**values))


def losses(method, *counts):
    """Prints the losses after 50 updates, and what is where, for every number of devices."""
    found = {}
    for count in counts:
        programs = Programs(small(method, count))
        learner, ring = programs.parts.device_put((programs._init_learner(), filled(programs._init_replay())))
        if method == "covr":
            learner = learner.replace(guidance_weight=programs.parts.device_put(jnp.ones(())))
        pattern = (True, False) * 25
        learner, ring, metrics = run_updates(programs.pieces, learner, ring, pattern, prioritised=False, scan=False)
        held = {str(shard.data.shape) for shard in ring.frame.addressable_shards}
        values = {name: float(value) for name, value in metrics.items() if name.startswith("losses/")}
        found[count] = {"updates": int(learner.updates), "losses": values, "frames": sorted(held)}
        found[count]["weights"] = float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(learner.params)))
        halves = programs.pieces.learn_critic, programs.pieces.learn_actor
        found[count]["programs"] = [half._jitted._cache_size() for half in halves]
    print(json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "counts"), [("rad", (1, 2, 4, 8)), ("sac", (1, 8)), ("curl", (1, 8)), ("covr", (1, 8))]
)
def test_losses_after_50_updates_do_not_depend_on_the_number_of_devices(method, counts):
    found = in_eight("test_mesh.losses(sys.argv[1], *map(int, sys.argv[2:]))", method, *counts)
    one = found["1"]
    assert one["updates"] == 50 and (method != "covr" or one["losses"]["losses/guidance"] > 0)
    slots = small().replay.capacity // 8 + 4
    for count, other in found.items():
        assert other["frames"] == [str((slots, 8 // int(count), 3 * 20**2))]
        assert max(other["programs"]) <= 2  # whatever the number of updates
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-5)
        assert other["weights"] == pytest.approx(one["weights"], rel=1e-4)


def moved(run_dir, *counts):
    """Prints whether a state that was saved on the first number of devices is the same on each of the others."""
    from covr_jax.io.arrays import host_copy
    from covr_jax.io.checkpoint import Checkpointer
    from covr_jax.training.state import ExperienceState

    def placed(count):
        programs = Programs(small("rad", count))
        ring = filled(programs._init_replay())
        return programs, programs.parts.device_put(
            (programs._init_learner(), ExperienceState(ring, initial_progress(8)))
        )

    _, saved = placed(counts[0])
    checkpointer, found = Checkpointer(Path(run_dir)), []
    checkpointer.save(0, saved, {})
    checkpointer.wait()
    for count in counts[1:]:
        programs, like = placed(count)
        state, _, _ = checkpointer.restore(lambda like=like: jax.tree.map(jnp.zeros_like, like))
        # Leaf by leaf: the ring of one device is read in another way, which its type says.
        leaves = zip(*(jax.tree.leaves(host_copy(tree)) for tree in (state, saved)), strict=True)
        same = all(bool((np.asarray(a) == np.asarray(b)).all()) for a, b in leaves)
        learner, experience = state
        learner, *_ = run_updates(programs.pieces, learner, experience.replay, (True,), prioritised=False, scan=False)
        held = len(experience.replay.frame.sharding.device_set)
        found.append([same, held, int(learner.updates)])
    print(json.dumps(found))


@pytest.mark.slow
def test_a_checkpoint_of_8_devices_goes_on_with_4_and_with_1(tmp_path):
    assert in_eight("test_mesh.moved(*sys.argv[1:2], *map(int, sys.argv[2:]))", tmp_path, 8, 4, 1) == [
        [True, 4, 1],
        [True, 1, 1],
    ]
