"""What the doctor says about a model that it does not load."""

import json
import sys

import pytest

from covr_jax import runtime
from covr_jax.commands import doctor
from covr_jax.commands.doctor import Finding, check_budget, check_run
from covr_jax.config import Config, to_dict
from covr_jax.training.resolve import resolve
from covr_jax.training.surroundings import provenance
from covr_jax.vlm.models import tiny

pytest.importorskip("torch")


def test_a_directory_is_estimated_from_its_config_alone(tmp_path):
    model, _ = tiny.build_tiny(0)
    model.config.save_pretrained(tmp_path)
    needs, *cards = check_budget(str(tmp_path))
    assert needs.level == "ok" and needs.subject == tmp_path.name and "GB to answer" in needs.text
    assert [card.subject for card in cards] == ["  90% of 24 GB", "  90% of 40 GB", "  90% of 80 GB"]
    assert {card.text for card in cards} == {"fine-tunes 16 of 16 samples per pass"}


@pytest.mark.slow
def test_the_default_model_has_its_published_size():
    needs, small, *_ = check_budget(None)
    # 3.75e9 parameters in bfloat16 and 3.3e8 of the adapter in float32
    assert needs.subject == "Qwen2.5-VL-3B-Instruct" and needs.text.startswith("8.8 GB to answer; 12.8 GB to fine-tune")
    assert small.text == "fine-tunes 16 of 16 samples per pass, activations recomputed"


def test_what_cannot_be_estimated_is_one_line(tmp_path):
    (found,) = check_budget("no/such-model")
    assert found.level == "bad" and found.text.startswith("no/such-model is neither a directory nor one of Qwen/")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (found,) = check_budget(str(tmp_path))
    assert found.level == "bad" and "is a gpt2; supported: qwen2_5_vl" in found.text


def test_a_run_is_compared_with_what_is_here(tmp_path):
    config = resolve(Config(method="rad"))
    made_by = provenance(config)
    for recorded, notes in ((made_by, []), (made_by | {"jax": "0.9.0"}, [f"jax 0.9.0 -> {made_by['jax']}"])):
        (tmp_path / "config.json").write_text(json.dumps(to_dict(config) | {"provenance": recorded}))
        found = check_run(tmp_path)
        assert Finding("ok", "run: jax", recorded["jax"]) in found
        assert [finding.text for finding in found if finding.level == "note"] == notes
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (found,) = check_run(tmp_path)
    assert found.level == "note" and "no record" in found.text


def test_without_torch_everything_else_is_checked(monkeypatch, capsys):
    ran = []

    def check(*_):
        ran.append(1)
        return []

    monkeypatch.setattr(doctor, "_torch", lambda: None)
    for name in ("check_versions", "check_known_bad", "check_kernels", "check_renderer"):
        monkeypatch.setattr(doctor, name, check)
    monkeypatch.setattr(doctor, "check_vlm", lambda: pytest.fail("a VLM was asked"))
    monkeypatch.setattr(runtime, "configure", lambda: None)
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    assert doctor.main() == 0 and len(ran) == 4
    levels = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert levels == {"ok", "note"}
