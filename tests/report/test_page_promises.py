"""What each report promises: one file that loads nothing and runs nothing."""

import base64
import html
import html.parser
import json

import numpy as np

from covr_jax.report import write_report
from tests.support.synthetic_run import edit, finish, make_run, png

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Checker(html.parser.HTMLParser):
    """Collects what a page loads, what it could execute, and whether its tags close."""

    LOADING = ("src", "href", "srcset", "data", "poster", "action", "xlink:href")
    VOID = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self):
        super().__init__()
        self.loads, self.tags, self.handlers, self.open = [], set(), [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loads += [v for k, v in attributes if k in self.LOADING]
        self.handlers += [k for k, _ in attributes if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def test_one_file_that_loads_nothing_and_runs_nothing(page):
    checker = check(page)
    inside = {load for load in checker.loads if load.startswith("#")}
    assert all(f'id="{load[1:]}"' in page for load in inside), "a mark that several dots share"
    assert set(checker.loads) > inside and all(load.startswith(("data:", "#")) for load in checker.loads)
    assert not checker.tags & {"script", "link", "iframe", "object", "embed", "base", "form"} and not checker.handlers
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_every_string_is_escaped(tmp_path):
    folder = make_run(tmp_path, rounds=2)
    finish(folder)

    def attack(value):
        if isinstance(value, dict):
            return {k: attack(v) for k, v in value.items()} | {ATTACK: ATTACK}
        if isinstance(value, list):
            return [attack(v) for v in value]
        return ATTACK if isinstance(value, str) and not value.endswith(".png") else value

    for name in ("config.json", "result.json", "vlm/round_1/samples.json", "vlm/round_2/record.json"):
        (folder / name).write_text(json.dumps(attack(json.loads((folder / name).read_text()))))
    (folder / "vlm/round_2/samples.json").write_text(ATTACK)
    page = write_report(folder).read_text()
    checker = check(page)
    assert "script" not in checker.tags and not checker.handlers
    assert all(load.startswith(("data:", "#")) for load in checker.loads)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10


def test_a_frame_outside_its_folder_or_of_another_kind_is_not_embedded(tmp_path):
    folder = make_run(tmp_path / "run", rounds=1)
    secret = png(np.full((2, 2, 3), 7, np.uint8))
    (tmp_path / "secret.png").write_bytes(secret)
    here = folder / "vlm/round_1"
    (here / "link.png").symlink_to(tmp_path / "secret.png")
    (here / "text.png").write_text("no image")
    names = ["../../../secret.png", str(tmp_path / "secret.png"), "link.png", "text.png", "a" * 300, "a\0b"]
    edit(folder, "vlm/round_1/samples.json", lambda samples: samples.extend(dict(s) for s in samples[:2]))
    edit(folder, "vlm/round_1/samples.json", lambda s: [a.update(frame=b) for a, b in zip(s, names, strict=True)])
    page = write_report(folder).read_text()
    assert base64.b64encode(secret).decode() not in page
    assert page.count("no frame") == 6 and "data:image/png" not in page


def test_the_same_directory_gives_the_same_bytes(tmp_path):
    folder = make_run(tmp_path, rounds=1)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()
    assert [p.name for p in folder.iterdir() if "report" in p.name] == ["report.html"]
