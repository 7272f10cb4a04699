"""The report in a real browser: every image is shown, nothing overlaps, nothing is cut off, nothing is fetched."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from covr_jax.io.mp4 import write_mp4
from covr_jax.report import write_report
from tests.support.synthetic_run import cartpole_frame, edit, finish, make_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=4000",
)

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH to open the report in"),
    pytest.mark.slow,
]

# Only the test's copy of the page holds this: the report itself has no scripts and forbids them.
PROBE = """<script>addEventListener('load', () => {
  const box = e => e.getBoundingClientRect(), out = {images: 0, broken: 0, overlaps: [], cut: [], texts: 0};
  document.querySelectorAll('details').forEach(d => d.open = true);
  for (const i of document.images) { out.images++; out.broken += i.naturalWidth === 0; }
  const video = document.querySelector('video');
  out.video = video ? [video.videoWidth, video.videoHeight, video.error ? video.error.message : ''] : null;
  for (const svg of document.querySelectorAll('svg')) {
    const all = [...svg.querySelectorAll('text')], frame = box(svg.closest('section'));
    out.texts += all.length;
    all.forEach((a, i) => { const p = box(a);
      if (p.left < frame.left || p.right > frame.right) out.cut.push(a.textContent);
      for (const b of all.slice(i + 1)) { const q = box(b);
        if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3)
          out.overlaps.push(a.textContent + ' | ' + b.textContent); } }); }
  for (const e of document.querySelectorAll('.tile .value'))
    if (e.scrollWidth > e.clientWidth) out.cut.push(e.textContent);
  out.wide = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.probe = JSON.stringify(out);
});</script>"""


def open_page(page, tmp_path, width):
    """What the probe saw."""
    naked = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert naked != page
    path = tmp_path / "probe.html"
    path.write_text(naked.replace("</body>", PROBE + "</body>"))
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, "the page did not load"
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))


@pytest.mark.parametrize("width", [1280, 900])
def test_everything_is_shown_and_nothing_overlaps(tmp_path, width):
    folder = make_run(tmp_path / "run")
    finish(folder)
    frames = [cartpole_frame(np.sin(i / 9), np.sin(i / 7)) for i in range(20)]
    write_mp4(frames, folder / "videos" / "final.mp4", fps=20)
    seen = open_page(write_report(folder).read_text(), tmp_path, width)
    assert (seen["images"], seen["broken"]) == (20, 0)
    assert seen["video"] == [84, 84, ""]
    assert seen["texts"] > 100
    assert seen["overlaps"] == [] and seen["cut"] == []
    assert seen["wide"] <= 0, "no sideways scrolling"


def test_many_rounds_close_together_and_awkward_numbers(tmp_path):
    folder = make_run(tmp_path / "run")
    for c in range(6, 14):
        shutil.copytree(folder / "vlm" / "round_5", folder / f"vlm/round_{c}")
        change = {"round": c, "env_steps": 75_000 + 900 * c, "tau": -1e-7}
        edit(folder, f"vlm/round_{c}/record.json", lambda record, change=change: record.update(change))
    edit(folder, "config.json", lambda config: config.update(task="a_task_with_quite_a_long_name_" * 3))
    rows = [{"env_steps": s, "eval/episode_return": -123456.7 - s, "losses/critic": 3e-9 * s} for s in (7, 99_999)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = open_page(write_report(folder).read_text(), tmp_path, 1280)
    assert seen["overlaps"] == [] and seen["cut"] == [] and seen["wide"] <= 0
