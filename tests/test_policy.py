"""Policies as files: what is written acts bit for bit as its run, alone, and bad files say so in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import covr_jax
from covr_jax import config as configuration
from covr_jax import policy as policy_file
from covr_jax import runtime
from covr_jax.agents import make_learner, make_method
from covr_jax.policy import FILE, PolicyError, load_policy, save_policy
from covr_jax.training.resolve import resolve

A, SIZE = 2, 20
RNG = np.random.default_rng(5)


def trained(method, **sac):
    """A resolved config and a state of its learner."""
    options = {"hidden_dim": 16, "feature_dim": 8, "num_filters": 4, "conv_kernels": (3, 3), "conv_strides": (2, 2)}
    config = configuration.Config(method=method, env=configuration.EnvConfig(image_size=SIZE))
    config = resolve(dataclasses.replace(config, sac=configuration.SACConfig(**options | sac)))
    made = make_method(method, config.augment, SIZE, "translate")
    learner = make_learner(A, 1e-3, made, config.sac)
    frames = config.env.frame_stack + made.history
    state = learner.init(jax.random.key(3), images(frames, 1), np.zeros((1, A), np.float32))
    return config, learner, state, frames


def images(frames, batch=5):
    return RNG.integers(0, 256, (batch, SIZE, SIZE, 3 * frames), dtype=np.uint8)


@pytest.fixture(scope="module")
def rad(tmp_path_factory):
    """A policy file, and what its learner does."""
    path = tmp_path_factory.mktemp("policy") / FILE
    config, learner, state, frames = trained("rad")
    save_policy(path, config, state.params, A, {"env_steps": 70})
    return path, learner, state, frames


@pytest.mark.parametrize("method", ["sac", "drqv2", "resact", pytest.param("mrq", marks=pytest.mark.slow)])
def test_a_loaded_policy_acts_bit_for_bit_as_its_learner(tmp_path, method):
    config, learner, state, frames = trained(method, num_filters=32)  # with the CPU's kernel
    save_policy(tmp_path / FILE, config, state.params, A)
    policy, observation = load_policy(tmp_path), images(frames)
    previous = RNG.uniform(-1, 1, (5, A)).astype(np.float32)
    expected = runtime.jit(lambda *given: learner.act(given[0], given[1], None, given[2]))(state, observation, previous)
    np.testing.assert_array_equal(policy.act(observation, previous), expected)
    np.testing.assert_allclose(policy.act(observation[1], previous[1]), expected[1], atol=1e-5)
    assert (policy.action_dim, policy.frames, policy.config) == (A, frames, config)


def test_the_package_offers_it(rad):
    policy = covr_jax.load_policy(str(rad[0]))
    assert policy.about == {"env_steps": 70} and policy.config.method == "rad"
    assert {name.split("/")[0] for name in load_file(rad[0])} == {"torso", "actor"}


ALONE = """
import sys
for name in ("torch", "transformers", "mujoco", "orbax", "matplotlib", "tyro"):
    sys.modules[name] = None
import numpy as np
import covr_jax
images = np.load(sys.argv[2])
np.save(sys.argv[3], covr_jax.load_policy(sys.argv[1]).act(images))
"""
JAX_ALONE = """
import sys
sys.modules["covr_jax"] = None
import jax.export, numpy as np
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[3], program.call(np.load(sys.argv[2])))
"""


def test_it_acts_where_neither_torch_nor_a_simulator_is_and_as_a_program_with_jax_alone(rad, tmp_path):
    path, learner, state, frames = rad
    observation = images(frames, batch=7)
    np.save(tmp_path / "images.npy", observation)
    program = tmp_path / "policy.stablehlo"
    program.write_bytes(load_policy(path).export(("cpu", "cuda", "tpu")))
    expected = learner.act(state, observation)
    for source, file in ((ALONE, path), (JAX_ALONE, program)):
        command = [sys.executable, "-c", source, str(file), str(tmp_path / "images.npy"), str(tmp_path / "out.npy")]
        subprocess.run(command, check=True, timeout=300)
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


@pytest.mark.field
def test_observations_of_another_kind_are_refused(rad, tmp_path):
    policy = load_policy(rad[0])
    for wrong in (images(2), images(3).astype(np.float32), images(3)[:, :10]):
        with pytest.raises(ValueError, match=r"observation must be uint8 \[20, 20, 9\] or a batch of such stacks, got"):
            policy.act(wrong)
    config, _, state, frames = trained("resact")
    save_policy(tmp_path / FILE, config, state.params, A)
    with pytest.raises(ValueError, match="previous_action is needed"):
        load_policy(tmp_path).act(images(frames))
    with pytest.raises(ValueError, match=r"previous_action must be .*\[5,2\]"):
        load_policy(tmp_path).act(images(frames), np.zeros(A, np.float32))


def rewritten(path, folder, change):
    """A copy of a policy file with other metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as opened:
        told = json.loads(opened.metadata()["covr_jax"])
    change(told)
    text, arrays = json.dumps(told), load_file(path)
    save_file(arrays, folder / FILE, {"covr_jax": text, "sha256": policy_file._digest(text, arrays)})
    return folder


@pytest.mark.field
def test_files_that_cannot_be_used_say_so_in_one_line(rad, tmp_path):
    def refused(path):
        with pytest.raises(PolicyError) as caught:
            load_policy(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refused(tmp_path / "x.bin").endswith("writes one from a run")
    (tmp_path / "cut").write_bytes(rad[0].read_bytes()[:1000])
    (tmp_path / "text").write_text("hello")
    save_file({"a": np.zeros(2)}, tmp_path / "other")
    for name in ("cut", "text", "other"):
        assert f"{name} is no policy of covr_jax or is damaged" in refused(tmp_path / name)
    flipped = bytearray(rad[0].read_bytes())
    flipped[-7] ^= 1  # in a parameter
    (tmp_path / "flipped").write_bytes(flipped)
    assert refused(tmp_path / "flipped").endswith("is damaged: its content is not what was written")
    later = rewritten(rad[0], tmp_path, lambda told: told.update(format=99, covr_jax_version="9.9"))
    assert "was written by covr_jax 9.9; install that version" in refused(later)
    wider = rewritten(rad[0], tmp_path, lambda told: told["config"]["sac"].update(hidden_dim=32))
    assert "parameter actor/head" in refused(wider) and "the config makes it" in refused(wider)
    unknown = rewritten(rad[0], tmp_path, lambda told: told["config"].update(method="ppo"))
    assert "config.json: can not match" in refused(unknown)


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's HTTP interface that a download of one file meets."""

    content: bytes = b""

    def do_HEAD(self):
        """Answers what the file is."""
        found = self.path == f"/people/cartpole/resolve/main/{FILE}"
        self.send_response(200 if found else 404)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()

    def do_GET(self):
        """Answers the file."""
        self.do_HEAD()
        if "people/cartpole" in self.path:
            self.wfile.write(self.content)

    def log_message(self, *_):
        """Prints nothing."""


DOWNLOADING = """
import covr_jax
print(covr_jax.load_policy("people/cartpole").about)
try:
    covr_jax.load_policy("people/nothing")
except ValueError as error:
    print(error)
"""


def test_a_policy_is_found_on_the_hub(rad, tmp_path):
    handler = type("Handler", (Hub,), {"content": rad[0].read_bytes()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        surroundings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", DOWNLOADING],
            env=os.environ | surroundings | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr[-2000:]
    found, missing = done.stdout.splitlines()
    assert found == "{'env_steps': 70}" and missing.startswith(
        "no policy people/nothing, neither a file nor on the Hub"
    )
