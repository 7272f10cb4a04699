"""The report of a run: its numbers, and what it does without them."""

import html
import html.parser
import json
import re

import pytest

from covr_jax.report import ReportError, write_report
from covr_jax.report.data import read_run
from covr_jax.report.formatting import show
from tests.support.inline_svg import charts, corners, dots, hints, tagged, texts
from tests.support.synthetic_run import edit, finish, make_run


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", "\x1f", re.sub(r"(?s)<(style|svg).*?</\1>", "", page))).split("\x1f")


@pytest.mark.parametrize(
    "text",
    ["cartpole_swingup", "covr on rad", "861", "± 12.9 (std)", "27.4", "+834", "3 h 04 min", "100k", "of 100k"],
)
def test_headline(page, text):
    assert text in text_of(page)


@pytest.mark.parametrize(
    ("config", "result", "shown"),
    [
        ({}, {}, "renderer jax"),
        ({"task": "car_racing"}, {"renderer": "gymnasium"}, "renderer gymnasium"),
        ({"task": "carla_highway", "carla": {"endpoint": "loopback"}}, {"renderer": "loopback"}, "simulator loopback"),
    ],
)
def test_the_renderer_or_simulator_is_named(tmp_path, config, result, shown):
    folder = make_run(tmp_path, rounds=0)
    finish(folder)
    (folder / "metrics.jsonl").write_text('{"env_steps": 8}\n')  # no charts
    edit(folder, "config.json", lambda record: record.update({"renderer": "jax", **config}))
    edit(folder, "result.json", lambda record: record.update(result))
    headline = "".join(text_of(write_report(folder).read_text()))
    assert shown in headline and ("renderer jax" in headline) == (shown == "renderer jax")


def test_command(page):
    assert "python experiments/train.py --task cartpole_swingup --method covr --seed 1" in page


def test_iteration_table(page):
    rows = re.findall(r"(?s)<tr>(.*?)</tr>", page)
    cells = [[html.unescape(re.sub(r"<[^>]+>", "", c)) for c in re.findall(r"<td>(.*?)</td>", row)] for row in rows]
    before, *rounds = [row for row in cells if len(row) == 13]
    assert before[:2] == ["0", "0"] and before[7:9] == ["21.5 ± 9", "–"]
    assert [row[1] for row in rounds] == ["5,000", "15,000", "30,000", "50,000", "75,000"]
    # round 4: 50000 // (8 * 5) samples, a quarter of them, 0.25 - 0.08, 0.3 + 0.48, 0.71 * 0.75^4, 41 + 36 s
    assert rounds[3][2:6] == ["20,000", "1,250", "312 17 %", "0.780"]
    assert rounds[3][7:9] == ["452 ± 22", "0.225"]
    assert rounds[3][10:] == ["77 s", "yes", "on"] and rounds[2][12] == "off"


def test_policy_return_in_the_table_is_the_last_evaluation_before_the_round(tmp_path):
    folder = make_run(tmp_path, rounds=2)
    rows = [{"env_steps": s, "eval/episode_return": r} for s, r in ((5_000, 11.0), (14_999, 222.0), (15_001, 333.0))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(folder).read_text()
    assert "<td>11</td>" in page and "<td>222</td>" in page and "<td>333</td>" not in page


def section(page, title):
    """The HTML of a section."""
    return page[page.index(f"<h2>{title}") :].partition("</section>")[0]


def test_learning_curve_shows_each_evaluation_the_baseline_the_rounds_and_the_guidance(page):
    html_of_curve = section(page, "Learning curve")
    (curve,) = charts(html_of_curve)
    assert "random policy 27.4" in html_of_curve and len(tagged(curve, "level")) == 1
    assert len(dots(curve, "line policy")) == 10
    shown = hints(curve, "line policy")
    assert len(shown) == 10 and shown[-1].startswith("100k steps: ")
    assert texts(curve, "label") == ["1", "2", "3", "4", "5"]
    rules = [path[0][0] for path in corners(curve, "rule")]
    assert len(rules) == 5
    (shade,) = corners(curve, "span")
    assert min(x for x, _ in shade) == rules[3], "guidance begins at round 4"
    assert max(x for x, _ in shade) == pytest.approx(986.0, abs=0.2), "and lasts to the end"


def test_points_stand_where_their_numbers_say(tmp_path):
    rows = [{"env_steps": s, "eval/episode_return": r} for s, r in ((0, 0.0), (50, 500.0), (100, 1000.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (curve,) = charts(write_report(tmp_path).read_text())
    (x0, y0), (x1, y1), (x2, y2) = dots(curve, "line policy")
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.2) and x2 == 986
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y0 == 340 and y2 > 26


def test_the_band_is_one_std_up_and_down(tmp_path):
    names = ("env_steps", "eval/episode_return", "eval/episode_return_std")
    rows = [dict(zip(names, values, strict=True)) for values in ((0, 500, 0), (9, 500, 300))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (curve,) = charts(write_report(tmp_path).read_text())
    (band,) = corners(curve, "band policy")
    (start,) = {y for x, y in band if x == band[0][0]}
    upper, lower = min(y for _, y in band), max(y for _, y in band)
    assert start == pytest.approx((upper + lower) / 2, abs=0.1)
    axis = 800 + 0.06 * 600  # from 0, with a margin of 6 % of the data's range above
    assert lower - upper == pytest.approx(600 / axis * (340 - 26), abs=0.2)


def test_histograms_fine_tune_loss_and_panels(page):
    weights = charts(section(page, "Return-aware"))
    assert [len(tagged(chart, "bar vlm")) for chart in weights] == [10] * 5
    (loss,) = charts(section(page, "VLM fine-tuning"))
    assert texts(loss, "label") == [f"round {c}" for c in range(1, 6)]
    for title in ("Critic loss", "Temperature α", "Policy entropy (nats)", "Updates per second", "VLM queries"):
        assert f">{title}<" in page


def test_gallery_shows_the_answer_beside_the_action(page):
    assert page.count("data:image/png;base64,") == 20
    assert page.count("You balance a pole on a cart") == 1, "one prompt for all is shown once"
    said = r"Action: \[([+-]\d\.\d\d)\]</div>\s*<span[^>]*>Policy</span><div[^>]*>\[([+-]\d\.\d\d)\]"
    answers = re.findall(said, page)
    assert len(answers) == 20
    assert "weight 0." in page and "return 33.1" in page


def test_gallery_shows_each_prompt_where_they_differ(tmp_path):
    folder = make_run(tmp_path, rounds=1)
    edit(folder, "vlm/round_1/samples.json", lambda samples: samples[2].update(prompt="Another question."))
    page = write_report(folder).read_text()
    assert page.count("You balance a pole") == 3 and page.count("Another question.") == 1


def test_configuration(page):
    table = page[page.index("<h2>Configuration") :]
    for text in ("guidance_weight", "Qwen/Qwen2.5-VL-3B-Instruct", "[2, 1, 1, 1]", "null", "lora_rank"):
        assert text in table
    assert table.count("<details>") == 5 and "<details open>" not in table


# -- missing and broken pieces


def test_a_method_without_a_vlm_says_so(tmp_path):
    page = write_report(make_run(tmp_path, rounds=0, method="rad")).read_text()
    assert page.count("No data: this run has no VLM fine-tuning rounds (method rad).") == 5
    assert "No data: this run recorded no video." in page
    assert "Critic loss" in page


@pytest.mark.parametrize(("method", "acts"), [("covr", "the VLM never acts"), ("vbe", "The VLM's answers act.")])
def test_who_acts_is_said(tmp_path, method, acts):
    assert acts in html.unescape(write_report(make_run(tmp_path, rounds=0, method=method)).read_text())


def test_guidance_from_the_start_is_shown(tmp_path):
    folder = make_run(tmp_path, method="dpl")
    edit(folder, "vlm/round_0/record.json", lambda record: record.update(guidance=True))
    assert read_run(folder).guided()[0][0] == 0.0


@pytest.mark.parametrize("rows", ["", '{"env_steps": 0}\n', '{"env_steps": 8, "eval/episode_return": null}\n{"env_st'])
def test_a_run_that_only_began(tmp_path, rows):
    (tmp_path / "metrics.jsonl").write_text(rows)
    page = write_report(tmp_path).read_text()
    assert page.count('class="empty"') == 11, "every section says that it has no data"


def test_a_run_that_is_still_going_takes_the_last_evaluation(tmp_path):
    folder = make_run(tmp_path, rounds=2, total=20_000)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    final = [row["eval/episode_return"] for row in rows if "eval/episode_return" in row][-1]
    words = text_of(write_report(folder).read_text())
    assert show(final) in words and "20k" in words and "of 100k" in words


def test_no_metrics_or_no_directory_is_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ReportError) as error:
            write_report(folder)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_an_unreadable_piece_becomes_a_note(tmp_path):
    folder = make_run(tmp_path, rounds=3)
    (folder / "vlm/round_2/record.json").write_text('{"round": 2, ')
    (folder / "vlm/round_1/samples.json").write_text('{"not": "a list"}')
    (folder / "config.json").write_text("[]")
    page = write_report(folder).read_text()
    assert "record.json in round_2/ could not be read" in page
    assert "samples.json in round_1/ is not a JSON list" in page
    assert "config.json in" in page and "is not a JSON object" in page


HOSTILE = [None, "text", [], {}, True, float("nan"), float("inf"), 1e300, -1e300, 10**400]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: repr(v)[:12])
def test_any_value_in_any_field_still_makes_a_page(tmp_path, value):
    folder = make_run(tmp_path, rounds=2, total=20_000)
    finish(folder)

    def overwrite(record):
        for name in record:
            record[name] = value

    def overwrite_all(samples):
        for sample in samples:
            overwrite(sample)

    edit(folder, "vlm/round_2/record.json", overwrite)
    edit(folder, "vlm/round_1/samples.json", overwrite_all)
    edit(folder, "config.json", overwrite)
    edit(folder, "result.json", overwrite)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows[1::2]:
        row.update({name: value for name in row if name != "env_steps"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(folder).read_text()
    for numbers in re.findall(r' (?:[xy]|d|viewBox)="([^"]*)"', page):
        assert re.fullmatch(r"[MLQCz\d., -]+", numbers)


def test_memory_and_latency_stand_beside_the_papers(tmp_path):
    row = {"env_steps": 10, "agent_steps": 10, "updates": 1, "wall_s": 1.0, "policy/memory_bytes": 10_400_000}
    row |= {"policy/latency_s": 0.00123, "vlm/memory_bytes": 8.3e9, "vlm/mean_latency_s": 0.5}
    row |= {"vlm/frames_per_query": 16}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    text = write_report(tmp_path).read_text()
    table = text[text.index("<h2>Memory and latency") :]
    cells = re.findall(r"<td>(.*?)</td>", table[: table.index("</table>")])
    assert cells[:4] == ["Policy", "10.4 MB", "0.0012 s", "10 MB, 0.0012 s"]
    assert cells[4:] == ["VLM", "8,300.0 MB", "0.5000 s <small>16 frames per query</small>", "8344 MB, 4.4 s"]
