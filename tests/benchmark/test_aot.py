"""Programs compiled for chips that are not here: what is counted in their text, and that none copies the replay."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from covr_jax import runtime
from experiments.benchmark import aot

ROOT = Path(__file__).parents[2]
TEMPORARIES_MB = 400  # of an update at the paper's shapes on an H100; the replay has 3,000

TEXT = """
  %ring = u8[6254,16,30000]{2,1,0:T(8,128)(4,1)} parameter(0)
  %copied = u8[6254,16,30000]{1,2,0} copy(%ring)
  %small = f32[1000,100]{1,0} copy(%x)
  %turned = bf16[10000,10000]{0,1} transpose(%y), dimensions={1,0}
  %f = f32[8]{0} fusion(%z), kind=kLoop
  %conv = f32[8,8]{1,0} custom-call(%a, %b), custom_call_target="__cudnn$convForward"
  %sum = (f32[100,100]{1,0}, f32[50]{0}) all-reduce(%g, %h), to_apply=%add
  %all = f32[4,10]{1,0} all-gather-start(%i), dimensions={0}
"""


def test_what_is_counted_in_a_compiled_program():
    found = aot.counts(TEXT)
    assert (found["fusions"], found["convolutions"], found["on_host"]) == (1, 1, 0)
    assert (found["large_copies"], found["copied_mb"]) == (2, 3002 + 200)  # 6254 x 16 x 30000 bytes, 1e8 x 2 bytes
    assert (found["collectives"], found["gathers"]) == (2, 1)
    assert found["collective_mb"] == pytest.approx((4 * 10_050 + 160) / 1e6)


@pytest.mark.parametrize("target", ["cuda:h1000", "gpu", "cuda"])
def test_an_unknown_target_is_one_line(target, capsys):
    with pytest.raises(SystemExit):
        aot.devices_of(target)
    assert f"unknown target {target}; give tpu:<topology>" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is None, reason="no compiler for NVIDIA GPUs")
def test_an_update_for_an_h100_compiles_and_does_not_copy_the_replay(tmp_path):
    output = tmp_path / "aot.json"
    options = ["--target", "cuda:h100", "--program", "learner", "--output", str(output)]
    subprocess.run(
        [sys.executable, str(ROOT / "experiments/benchmark/aot.py"), *options],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        check=True,
        timeout=900,
    )
    (row,) = json.loads(output.read_text())["rows"]
    assert row["large_copies"] == 0 and row["on_host"] == 0 and row["temp_mb"] < TEMPORARIES_MB
    assert row["argument_mb"] > 3_000 and row["convolutions"] > 0


def test_programs_are_those_of_a_run():
    options = argparse.Namespace(preset="demo", method="rad", task="pendulum_swingup", devices=1)
    with runtime.compiling_for([SimpleNamespace(platform="tpu")]):
        assert not runtime.on_cpu()
        mesh, made = aot.programs_of(options)
        act = made["act"]()
    assert runtime.on_cpu() and mesh is None and set(made) == {"learner", "chunk", "act", "render"}
    assert act.arguments[1].shape == (16, 40, 40, 9) and act.static == (None,)
