"""The picture of a round's filter, from samples and from the round's record alone."""

import numpy as np
import pytest
from PIL import Image

from covr_jax.config import ConfigError
from covr_jax.report import ReportError
from covr_jax.report.data import read_run
from experiments.figures import eddf
from tests.support.synthetic_run import edit, make_run


def filtered():
    """400 samples of falling returns, of which those above 0.5 are kept."""
    step, score = np.tile(np.arange(100), 4), np.repeat([0.1, 0.4, 0.9, 1.6], 100) - np.tile(np.arange(100), 4) / 100
    frames = [np.full((20, 20, 3), 10 * i, np.uint8) for i in range(eddf.FRAMES)]
    rows = [eddf.Picked(name, frames, ["1.0, step 3"] * len(frames)) for name in ("kept", "dropped")]
    return eddf.Filtered(step, score, score > 0.5, rows)


def pixels(path, color):
    """How many pixels of a picture are of a colour, and its size."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((abs(picture - color).sum(-1) < 12).sum()), picture.shape


def test_samples_of_a_round_are_drawn_with_their_frames(tmp_path):
    run = read_run(make_run(tmp_path / "run", rounds=1))
    eddf.draw(run, run.rounds[0], filtered(), tmp_path / "out" / "eddf.png")
    frame = np.array([70, 70, 70])  # the last of each row
    count, shape = pixels(tmp_path / "out" / "eddf.png", frame)
    assert count > 2 * 100 * 100 and shape[1] == 1352


def test_without_samples_the_round_s_record_is_drawn(tmp_path, monkeypatch, capsys):
    def refuse(run, number):
        raise ConfigError(f"round {number} is gone from {run.folder.name}")

    monkeypatch.setattr(eddf, "read_samples", refuse)
    folder = make_run(tmp_path / "run", rounds=2)
    assert eddf.main([str(folder), "--output", str(tmp_path / "eddf.png")]) == 0
    said = ["drawn from the round's record: round 2 is gone from run", str(tmp_path / "eddf.png")]
    assert capsys.readouterr().out.splitlines() == said
    assert pixels(tmp_path / "eddf.png", np.array([214, 178, 70]))[0] > 100  # the cart of the gallery's frames
    with pytest.raises(ReportError, match="has no round 7 that kept samples; those of 1, 2 are"):
        eddf.main([str(folder), "--round", "7"])
    edit(folder, "vlm/round_2/record.json", lambda record: record.pop("kept_steps"))
    with pytest.raises(ReportError, match="round 2 has no record of where"):
        eddf.main([str(folder), "--round", "2", "--output", str(tmp_path / "eddf.png")])


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 5, 3]), (2, [1, 3]), (9, [1, 4, 5, 0, 3])])
def test_frames_are_spread_over_the_ranks(count, expected):
    score, which = np.array([4.0, 0.0, 9.0, 5.0, 1.0, 2.0]), np.array([True, True, False, True, True, True])
    assert eddf.spread(score, which, count).tolist() == expected


def test_without_any_sample_there_is_no_frame():
    assert eddf.spread(np.array([1.0]), np.array([False]), 4).tolist() == []
