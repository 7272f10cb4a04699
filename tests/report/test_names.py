"""Which runs share a name in tables and images."""

import json

import pytest

from covr_jax.report import ReportError
from covr_jax.report.names import disambiguate, leaves, suffixes
from covr_jax.report.table import Final

SAC = {
    "method": "sac", "base": "rad", "seed": 1, "preset": "cpu", "total_steps": 9,
    "sac": {"batch_size": 4, "noise_steps": 10}, "run": {"log_every": 1}, "eval": {"every": 5},
}  # fmt: skip


def with_(**changes):
    groups = {name: SAC[name] | value for name, value in changes.items() if isinstance(value, dict)}
    return SAC | changes | groups


def names_of(tmp_path, *configs):
    """Names of runs with these options."""
    folders = [tmp_path / str(i) for i in range(len(configs))]
    for folder, config in zip(folders, configs, strict=True):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    shown = [Final("walker", config["method"], float(i), None) for i, config in enumerate(configs)]
    renamed = disambiguate(folders, shown)
    assert [(final.task, final.value) for final in renamed] == [(final.task, final.value) for final in shown]
    return [final.method for final in renamed]


def test_seeds_of_one_setting_share_a_name(tmp_path):
    others = with_(seed=2, run={"log_every": 7}, eval={"every": 9}), with_(seed=3, sac={"noise_steps": 99})
    assert names_of(tmp_path, SAC, *others) == ["sac"] * 3


def test_options_that_differ_are_named_and_other_methods_keep_their_name(tmp_path):
    larger, rad = with_(seed=2, sac={"batch_size": 8}), with_(method="rad", sac={"batch_size": 16})
    assert names_of(tmp_path, SAC, larger, rad) == ["sac, sac.batch_size 4", "sac, sac.batch_size 8", "rad"]


def test_an_option_of_evaluations_is_a_setting(tmp_path):
    plain, hard = with_(eval={"distractors": None}), with_(seed=2, eval={"distractors": "color_hard"})
    assert names_of(tmp_path, plain, hard) == ["sac, eval.distractors None", "sac, eval.distractors color_hard"]


def test_the_noise_of_a_deterministic_policy_is_a_setting(tmp_path):
    one, other = (with_(method="drqv2", seed=seed, sac={"noise_steps": seed}) for seed in (1, 2))
    assert names_of(tmp_path, one, other) == ["drqv2, sac.noise_steps 1", "drqv2, sac.noise_steps 2"]


def test_presets_stand_for_all_that_differs_between_them(tmp_path):
    paper = with_(preset="paper", total_steps=100)
    short = with_(preset="paper", total_steps=50, sac={"batch_size": 512})
    assert names_of(tmp_path, SAC, with_(seed=2), paper, short) == [
        "sac, preset cpu",
        "sac, preset cpu",
        "sac, preset paper, sac.batch_size 4, total_steps 100",
        "sac, preset paper, sac.batch_size 512, total_steps 50",
    ]


def test_an_option_that_an_older_run_lacks_is_not_compared(tmp_path):
    newer = with_(seed=2, sac={"n_step": 1})
    assert names_of(tmp_path, SAC, newer) == ["sac", "sac"]
    assert suffixes([leaves(SAC), leaves(newer), leaves(with_(sac={"n_step": 3}))]) == [
        "", ", sac.n_step 1", ", sac.n_step 3"
    ]  # fmt: skip


def test_one_seed_twice_is_refused(tmp_path):
    with pytest.raises(ReportError, match=r"sac on walker has seed 1 twice: .*0 and .*1; leave one out"):
        names_of(tmp_path, SAC, with_(total_steps=9))
