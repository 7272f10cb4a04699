"""Command lines: errors of a user give exit code 2 and one line on standard error, at every stage of a start."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from covr_jax.commands import cli
from covr_jax.config import ConfigError, to_dict
from covr_jax.io.run_dir import check_config
from covr_jax.training.resolve import resolve

ROOT = Path(__file__).parents[2]
SMALL = ["--preset", "demo", "--env.image-size", "20", "--env.num-envs", "1"]


def train(*arguments, directory):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "MUJOCO_GL": "disable"}
    command = [sys.executable, str(ROOT / "experiments" / "train.py"), *arguments, "--run-dir", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=directory.parent)


WRONG = [
    (["--sac.batchsize", "1"], "Unrecognized options: --sac.batchsize, 1; perhaps --sac.batch-size"),
    ([*SMALL, "--vlm", "./no/such/model"], "no/such/model"),
    (["--task", "cartpole_swingdown", "--method", "rad"], "unknown task 'cartpole_swingdown'; choose from"),
    (["--method", "rainbow"], "unknown method 'rainbow'; choose from covr, dpl, apl, vbe, vpf, sac, rad"),
    (["--sac.discount", "1.5"], "--sac.discount must be between 0 and 1, got 1.5"),
    (["--sac.batch-size", "many"], "Error parsing --sac.batch-size: invalid literal for int() with base 10: 'many'"),
    (["--preset", "papr"], "unknown preset 'papr'; choose from paper, throughput, cpu, demo"),
    ([*SMALL, "--seed", "2"], "seed: 1 -> 2; choose another --run-dir"),
]
CASES = [pytest.param(*case, marks=[] if case == WRONG[0] else pytest.mark.slow) for case in WRONG]


@pytest.mark.field
@pytest.mark.parametrize(("arguments", "message"), CASES)
def test_a_wrong_option_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    directory = tmp_path / "run"
    if "seed: 1 -> 2" in message:  # the directory of another configuration
        directory.mkdir()
        values = to_dict(cli.parse_config(SMALL, "train.py", ""))
        (directory / "config.json").write_text(json.dumps(values))
    result = train(*arguments, directory=directory)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ") and message in lines[0], lines[0]
    assert "Traceback" not in result.stdout + result.stderr


def test_warp_is_left_out_where_it_does_not_draw():
    """And can be imported afterwards."""
    program = "import sys; from covr_jax.commands import cli; cli.import_quietly(warp=False); "
    program += "assert 'mujoco.mjx' in sys.modules and 'warp' not in sys.modules; import warp"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert result.returncode == 0 or "No module named 'warp'" in result.stderr, result.stderr
    assert result.stdout == ""


def test_a_run_directory_belongs_to_one_renderer(tmp_path):
    ours, opengl = (cli.parse_config(["--renderer", name], "train.py", "") for name in ("jax", "gl"))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(ours)))
    check_config(ours, tmp_path, resolve)
    with pytest.raises(ConfigError, match="renderer: jax -> gl; choose another --run-dir"):
        check_config(opengl, tmp_path, resolve)


def test_the_parsers_message_on_a_terminal_without_box_characters():
    rows = ["Unrecognized options", "-" * 9, " Unrecognized options: --a", " " + "-" * 9, " Perhaps you meant:"]
    box = "\n".join(f" {row:30} " for row in [*rows, "    --b INT", "-" * 9, "For full helptext", ""])
    assert cli._message(box) == "Unrecognized options: --a; perhaps --b"


@pytest.mark.field
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "1", "--run-dir"], "--run-dir needs a value"),
        (["--run-dir", "--seed", "1"], "--run-dir needs a value"),
        (["--run-dir", ""], "--run-dir needs a value"),
        (["--run-dir= "], "--run-dir needs a value"),
        (["--run-dir", "a", "--seed", "1", "--run-dir=b"], "--run-dir is given 2 times: a, b"),
    ],
)
def test_an_option_without_its_value_or_with_two_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.split_option(arguments, "run-dir")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.field
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", ""], "--preset needs a value"),
        (["--method="], "--method needs a value"),
        (["--task", " "], "--task needs a value"),
        (["--vlm", ""], "--vlm needs a value"),
        (["--preset", "demo", "--preset", "demo"], "--preset is given 2 times: demo, demo"),
        (["--seed", "1", "--seed=2"], "--seed is given 2 times"),
        (["--sac.batch-size", "1", "--sac.batch_size", "2"], "--sac.batch-size is given 2 times"),
        (["--run.video", "--run.no-video"], "--run.video is given 2 times"),
        (["--vlm", "tiny", "--vlm.name", "fake"], "--vlm.name is given 2 times"),
        (["--seed", "-1"], "--seed must be between 0 and 4294967295, got -1"),
        (["--sac.learning-rate", "inf"], "--sac.learning-rate must be finite, got inf"),
        (["--sac.learning-rate", "1e30"], "--sac.learning-rate must be at most 1e+20, got 1e+30"),
        (["--sac.init-temperature", "nan"], "--sac.init-temperature must be positive, got nan"),
        (["--total-steps", f"{10**21}"], f"--total-steps must be at most 2,147,483,647, got {10**21}"),
        (["--vlm.image-size", "0"], "--vlm.image-size must be at least 1, got 0"),
        (
            ["--total-steps", "999"],
            "--sac.init-steps 1,000 and --total-steps 999: nothing would be learned; lower the first or raise the"
            " second",
        ),
    ],
)
def test_nonsense_is_refused_while_options_are_parsed(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse_config(arguments, "train.py", "")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_options_are_left_out_by_name_with_their_values():
    given = ["--vpf.value-hidden", "8", "4", "--run.no_video", "--seed=3", "--vlm", "tiny"]
    assert cli.without(given, ["--vpf.value-hidden", "--seed"]) == ["--run.no_video", "--vlm", "tiny"]
    assert cli.without(given, ["--run.video", "--vlm"]) == ["--vpf.value-hidden", "8", "4", "--seed=3"]


WITHOUT_JAX = """
import runpy, sys
sys.argv = {argv!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    heavy = [name for name in ("jax", "flax", "mujoco", "torch", "orbax", "matplotlib") if name in sys.modules]
    print(end.code, heavy, file=sys.__stderr__)
"""


@pytest.mark.parametrize(
    ("script", "arguments", "code"),
    [
        ("train.py", ["--no-such-option", "1"], 2),
        ("train.py", ["--seed", "-1"], 2),
        ("train.py", ["--help"], 0),
        ("evaluate.py", ["--no-such-option"], 2),
        ("evaluate.py", ["runs/a", "--constant", "nan"], 2),
        ("evaluate.py", ["runs/a", "--number", "-1"], 2),
        ("plot.py", [], 2),
        ("table.py", [], 2),
        ("sweep.py", ["--jobs", "x"], 2),
        ("sweep.py", ["--sac.learning-rate", "inf"], 2),
        ("doctor.py", ["--no-such-option"], 2),
    ],
)
def test_a_command_line_is_refused_before_jax_is_imported(script, arguments, code):
    argv = [str(ROOT / "experiments" / script), *arguments]
    command, environment = [sys.executable, "-c", WITHOUT_JAX.format(argv=argv)], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.stderr.splitlines()[-1] == f"{code} []", done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--a", "1", "--run-dir", "x", "b"], ("x", ["--a", "1", "b"])),
        (["--run-dir=x=y"], ("x=y", [])),
        (["--run-directory", "x"], (None, ["--run-directory", "x"])),
    ],
)
def test_split_option(arguments, expected):
    assert cli.split_option(arguments, "run-dir") == expected


def test_options_reach_the_config_over_the_preset():
    config = cli.parse_config(["--vlm", "tiny", "--preset", "demo", "--env.num-envs", "3", "--method", "rad"], "p", "")
    assert (config.preset, config.vlm.name, config.env.num_envs, config.method) == ("demo", "tiny", 3, "rad")
    assert config.sac.batch_size == 128  # the preset's


@pytest.mark.field
def test_a_lost_environment_ends_with_its_own_exit_code(capsys):
    from covr_jax.types import EnvironmentLost

    def main():
        raise EnvironmentLost("the simulator does not come back:\n crash")

    with pytest.raises(SystemExit) as left:
        cli.guarded(main)
    assert left.value.code == 69
    line = "error: the simulator does not come back: crash; the same command goes on from the last checkpoint\n"
    assert capsys.readouterr().err == line


@pytest.mark.field
def test_what_the_operating_system_refuses_is_one_line(capsys):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/config.json")

    with pytest.raises(SystemExit) as left:
        cli.guarded(main)
    assert left.value.code == cli.USAGE_ERROR
    refusal = "error: cannot read or write runs/a/config.json: No space left on device; mend that and run the same"
    assert capsys.readouterr().err == f"{refusal} command again\n"


def test_demonstrations_are_short_for_the_option_of_the_replay(capsys):
    config = cli.parse_config(["--method", "rad", "--demonstrations", "people/toy-v0"], "train.py", "")
    assert config.replay.demonstrations == "people/toy-v0"
    assert cli.parse_config(["--replay.demonstrations", "./demos"], "train.py", "").replay.demonstrations == "./demos"
    with pytest.raises(SystemExit):
        cli.parse_config(["--method", "vbe", "--demonstrations", "./demos"], "train.py", "")
    assert "vbe has no replay: leave --demonstrations out, or use another --method" in capsys.readouterr().err


def test_endpoint_is_short_for_the_carla_option():
    config = resolve(cli.parse_config(["--task", "carla_highway", "--endpoint", "10.0.0.7:2000"], "train.py", ""))
    assert (config.task, config.carla.endpoint) == ("carla_highway", "10.0.0.7:2000")
    assert (config.covr.guidance_weight, config.covr.cold_start_rounds) == (2.0, 2)
    other = resolve(cli.parse_config(["--task", "car_racing", "--covr.cold-start-rounds", "3"], "train.py", ""))
    assert other.carla.endpoint == "loopback"
    assert (other.covr.guidance_weight, other.covr.cold_start_rounds) == (1.0, 3)


@pytest.mark.field
def test_a_device_that_is_not_there_is_one_line(monkeypatch, capsys):
    def missing():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(SystemExit) as stopped:
        cli.check_device()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: JAX finds no device for JAX_PLATFORMS=cuda: AssertionError; unset JAX_PLATFORMS")


CHANNELS = """
import sys
sys.path.insert(0, {root!r})
from covr_jax.commands import cli
from covr_jax.commands.console import ConsoleReporter

def main():
    with ConsoleReporter(10) as reporter:
        for _ in range(3):
            reporter.message("3.0 ± 1.0 " + "x" * 100_000)
    print("end")
    print("went on", file=sys.stderr)
    return 7

cli.guarded(main)
"""


@pytest.mark.field
@pytest.mark.parametrize("reads", [True, False])
def test_what_cannot_be_shown_does_not_end_a_run(reads):
    """A terminal of ASCII, and a reader that has gone, as in ``train.py | head -1``."""
    command = [sys.executable, "-c", CHANNELS.format(root=str(ROOT))]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    read, write = os.pipe()
    output_to = subprocess.PIPE if reads else write
    process = subprocess.Popen(command, stdout=output_to, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    os.close(read)
    output, said = process.communicate(timeout=60)
    assert process.returncode == 7, said
    assert said == b"went on\n"
    assert not reads or (rb"\xb1" in output and output.endswith(b"end\n"))


@pytest.mark.field
@pytest.mark.parametrize("unwritable", ["stdout", "stderr"])
def test_a_log_on_a_full_disk_does_not_change_the_exit_code(unwritable):
    start = "from covr_jax.commands import cli\ndef main():\n    print('progress')\n"
    code = f"{start}    cli.fail('no space')\ncli.guarded(main)"
    with open("/dev/full", "w") as full:
        outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, unwritable: full}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, check=False, timeout=60, **outputs)
    assert done.returncode == 2
    if unwritable == "stderr":
        assert done.stdout == "progress\n"
    else:  # of an unbuffered output it is known at once, and said instead
        assert done.stderr.count("\n") == 1 and ("no space" in done.stderr or "cannot read or write" in done.stderr)
