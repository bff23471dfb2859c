"""The dataset card: right figures in every form, and a page that a browser shows as it is meant."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding.__main__ import main
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.stats import Quantiles, measure, to_text
from sharding.stats_page import middle_frame, to_page
from tests.conftest import run_command
from tests.helpers.videos import read_number, write_numbered_video


@pytest.fixture(scope="module", params=["h264", "jpeg"])
def split(request, tmp_path_factory) -> Path:
    """Six videos in two of three classes; one listed video is not there, and one is damaged."""
    folder = tmp_path_factory.mktemp("stats")
    lines = ["<b>missing</b>/gone.mp4\tthird & last", "run/bad.mp4\trun"]
    for number in range(6):
        name = f"{('run', 'walk')[number % 2]}/v{number}.mp4"
        write_numbered_video(folder / "videos" / name, 10 + number, size=(96, 64 + 2 * (number == 5)))
        lines.append(f"{name}\t{('run', 'walk')[number % 2]}")
    (folder / "videos" / "run" / "bad.mp4").write_text("bad")
    (folder / "train.txt").write_text("\n".join(lines))
    options = {"annotations": (folder / "train.txt",), "workers": 1, "max_failures": 0.5, "profile": request.param}
    pack(PackConfig("list", folder / "videos", folder, **options))
    return folder / "train"


def test_figures(split):
    stats, dataset = measure(split)
    assert (stats.listed, stats.samples, stats.shards, stats.quarantined) == (8, 6, 1, 0)
    assert stats.failures == {"missing": 1, "open": 1}
    assert [(c.name, c.samples, c.missing, c.failed) for c in stats.classes] == [
        ("run", 3, 0, 1),
        ("third & last", 0, 1, 0),
        ("walk", 3, 0, 0),
    ]
    assert stats.num_frames == Quantiles(10, 12.5, 15, 12.5)
    assert stats.hours == pytest.approx(75 / 25 / 3600)
    assert stats.sizes == {"96 x 64": 5, "96 x 66": 1}
    assert stats.bytes == sum(path.stat().st_size for path in split.glob("*.tar"))
    assert stats.fingerprint == dataset.fingerprint


def test_text_and_json(split):
    stats, _ = measure(split)
    text = to_text(stats)
    assert "6 of 8 listed; failed: 1 missing, 1 open" in text
    assert "1 classes: third & last" in text
    values = json.loads(stats.to_json())
    assert values["samples"] == 6
    assert values["classes"][1] == {"label": 1, "name": "third & last", "samples": 0, "missing": 1, "failed": 0}


def test_thumbnails_show_the_middle(split):
    dataset = load_dataset(split)
    for sample_id in range(6):
        assert read_number(np.asarray(middle_frame(dataset, sample_id))) == dataset.num_frames[sample_id] // 2


def test_the_page_needs_nothing_else(split):
    page = to_page(*measure(split), thumbnails=2)
    assert page == to_page(*measure(split), thumbnails=2)
    assert page.count("<img ") == 4
    assert page.count("<svg ") == 6
    assert "third &amp; last" in page
    assert "<script" not in page
    for outside in ("http:", "https:"):
        places = [page[i : i + 60] for i in range(len(page)) if page.startswith(f'="{outside}', i)]
        assert all("www.w3.org" in place for place in places), places  # names of XML namespaces, not addresses


def test_a_sample_that_does_not_decode_is_said_so(split, tmp_path):
    broken = shutil.copytree(split, tmp_path / "split")
    dataset = load_dataset(broken)
    with dataset.shard_path(0).open("r+b") as file:
        file.seek(dataset.media_offsets[0])
        file.write(bytes(int(dataset.media_bytes[0])))
    assert to_page(*measure(broken)).count("<img ") == 5


def test_failures_that_somebody_else_wrote(split, tmp_path):
    strange = shutil.copytree(split, tmp_path / "split")
    values = [["x"], {"x": 1}, 7, None, "", "open"]
    lines = [
        {"key": "k", "kind": value, "label": value, "labels": labels} for value in values for labels in (None, [[]])
    ]
    (strange / "failures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stats, dataset = measure(strange)
    assert stats.failures == {"open": 2, "unknown": 10}
    assert "12 listed" not in to_text(stats) and stats.listed == 18
    assert to_page(stats, dataset).startswith("<!DOCTYPE")


def test_a_page_needs_the_shards(split, tmp_path, capsys):
    remote = shutil.copytree(split, tmp_path / "split", ignore=shutil.ignore_patterns("*.tar"))
    (remote / "shards.url").write_text("https://user:secret@host/shards\n")
    with pytest.raises(UserError, match=r"--html: its pictures come from the shards of .*, which are at https"):
        main(["stats", str(remote), f"--html={tmp_path / 'page.html'}"])
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(UserError, match="--thumbnails -1: use 0 or more"):
        main(["stats", str(remote), "--thumbnails=-1"])
    with pytest.raises(UserError, match=r"/proc/none/x\.html: cannot be written"):
        main(["stats", str(remote), "--html=/proc/none/x.html"])
    assert main(["stats", str(remote)]) == 0


def test_the_command(split, tmp_path):
    command = [sys.executable, "-m", "sharding", "stats", split, "--json", f"--html={tmp_path / 'page.html'}"]
    done = run_command(command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 6
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_a_browser_shows_it(split, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no chromium here")
    page = to_page(*measure(split))
    probe = (
        "<script>onload = () => document.title = JSON.stringify({"
        "images: [...document.images].filter(i => i.complete && i.naturalWidth > 0).length,"
        "plots: [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 200).length,"
        "wide: document.documentElement.scrollWidth > innerWidth})</script>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", probe + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    command += ["--window-size=1100,1400", f"file://{tmp_path / 'page.html'}"]
    dom = subprocess.run([*command[:-1], "--dump-dom", command[-1]], capture_output=True, text=True, timeout=120).stdout
    title = json.loads(dom[dom.index("<title>") + 7 : dom.index("</title>")].replace("&quot;", '"'))
    assert title == {"images": 6, "plots": 6, "wide": False}
    shot = tmp_path / "page.png"
    subprocess.run([*command[:-1], f"--screenshot={shot}", command[-1]], capture_output=True, timeout=120, check=True)
    assert len(Image.open(shot).convert("RGB").resize((275, 350)).getcolors(100_000)) > 50
