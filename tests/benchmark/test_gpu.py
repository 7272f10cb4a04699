"""The script for accelerators: what fails or takes too long does not take the rest with it, and what is done stays."""

import json
import runpy
import sys

import pytest

from experiments.benchmark import gpu

WRITES = """import json, sys
path = sys.argv[sys.argv.index("--output") + 1]
open(path, "w").write(json.dumps({"rows": [{"contestant": "ours", "rate": 2.5}, {"contestant": "other", "rate": 1.0}]}))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    scripts = {
        "good": WRITES,
        "broken": WRITES + "raise SystemExit('no such device')",
        "slow": "import time; time.sleep(60)",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    known = {name: gpu.Part(tmp_path / f"{name}.py", (), 60, ("rate",)) for name in ("broken", "good", "slow")}
    known["slow"] = known["slow"]._replace(seconds=1.5)
    monkeypatch.setattr(gpu, "parts", lambda: known)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path / "gpu.json")])
    return tmp_path


def test_parts_that_fail_leave_a_reason_and_the_others_their_numbers(folder, capsys):
    assert gpu.main() == 0
    results = json.loads((folder / "gpu.json").read_text())["results"]
    assert results["broken"]["error"] == "no such device" and results["slow"]["error"] == "more than 2 s"
    assert [row["rate"] for row in results["good"]["rows"]] == [2.5, 1.0]
    table = capsys.readouterr().out.split("\n\n")[-1]
    assert "no such device" in table and "more than 2 s" in table and "2.5" in table
    (folder / "good.py").unlink()  # done: a second call does not ask for it
    assert gpu.main() == 0
    assert json.loads((folder / "gpu.json").read_text())["results"]["good"] == results["good"]


def test_what_was_not_reached_is_said(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--minutes", "0"])
    assert gpu.main() == 0
    assert capsys.readouterr().out.count("not reached") == 3 and not (folder / "gpu.json").exists()


@pytest.mark.slow
def test_the_scripts_take_the_options_that_they_are_given(monkeypatch, capsys):
    for script, options in {part.script: part.options for part in gpu.parts().values()}.items():
        monkeypatch.setattr(sys, "argv", [str(script), *options, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == 0 and "usage" in capsys.readouterr().out.lower(), script
