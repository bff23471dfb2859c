"""The page of a run: right figures, nothing that names could do to it, and whatever there is of a run."""

import base64
import fcntl
import hashlib
import html
import io
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.inference.scores import read_scores
from launch.training.config_parser import load_config
from launch.visualization.report.confusion import order_by_confusion
from launch.visualization.report.facts import read_run
from launch.visualization.report.mistakes import FRAMES_SHOWN, frame_pictures
from launch.visualization.report.report import write_report
from sharding.dataset import load_dataset
from sharding.errors import UserError
from tests.helpers.runs import write_multilabel_results, write_results, write_run
from tests.helpers.videos import read_number

HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=document.title='taken'>",
    '" onmouseover="x" \'y\' &amp; <!--',
    "turned \u202e round",
    "-->]]>",
)


class Page(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, its text, the content of its scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.attributes, self.text, self.raw = [], [], "", {"script": [], "style": []}
        self._open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag in self.raw:
            self._open.append(tag)
            self.raw[tag].append("")

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.raw[self._open[-1]][-1] += data
        else:
            self.text += data

    def data(self) -> dict:
        return json.loads(self.raw["script"][0])


def report(run: Path, **options) -> Page:
    values = {"evaluation": None, "data": None, "num_mistakes": 24, "out": None} | options
    return Page(write_report(run, **values))


def test_classes_that_are_confused_become_neighbours():
    chance, groups = np.random.default_rng(0), np.repeat(np.arange(20), 4)
    chance.shuffle(groups)
    confusion = chance.integers(0, 2, (80, 80)) + 5 * (groups[:, None] == groups) + 40 * np.eye(80, dtype=int)
    order = order_by_confusion(confusion)
    assert sorted(order) == list(range(80))
    assert np.count_nonzero(np.diff(groups[order])) == 19  # every group is in one piece


def test_names_cannot_leave_their_place(numbered, tmp_path):
    run = write_run(tmp_path / "<b>run</b>", HOSTILE, numbered)
    evaluation = write_results(run, HOSTILE, numbered, per_class=4)
    page = report(run)
    assert page.tags.count("script") == 2 and page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "b" not in [tag for tag, _ in re.findall(r"<(b)>(run)", (run / "report.html").read_text())]
    for name, value in page.attributes:
        if name in ("src", "href"):  # nothing is fetched
            assert value.startswith(("#", "data:image/jpeg;base64,")), value
    assert page.data()["confusion"]["classes"] == list(HOSTILE)
    for name in HOSTILE[:3]:
        assert name in page.text
    policy = next(value for name, value in page.attributes if name == "content" and "default-src 'none'" in value)
    for source, content in (("script-src", page.raw["script"][1]), ("style-src", page.raw["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}';" in policy
    evaluation.write_text(evaluation.read_text().replace("turned", r"half a pair: \ud800"))
    assert "half a pair: ? \u202e round" in report(run).text


@pytest.mark.parametrize("profile", ["numbered", "numbered_jpeg"])
def test_mistakes_show_their_own_frames(profile, request, tmp_path):
    split = request.getfixturevalue(profile)
    dataset = load_dataset(split)
    sample_id = int(dataset.num_frames.argmax())
    num_frames = int(dataset.num_frames[sample_id])
    urls = frame_pictures(dataset, sample_id)
    assert len(urls) == FRAMES_SHOWN
    for place, url in enumerate(urls):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
        assert read_number(picture) == (2 * place + 1) * num_frames // (2 * FRAMES_SHOWN)


def test_the_most_certain_mistakes_come_first_with_pictures(numbered, tmp_path):
    run = write_run(tmp_path / "run", ("even", "odd", "other"), numbered)
    write_results(run, ("even", "odd", "other"), numbered, per_class=5)
    page = report(run, num_mistakes=6)
    pictures = [value for name, value in page.attributes if name == "src"]
    keys = dict(zip(load_dataset(numbered).keys, load_dataset(numbered).num_frames))
    shown = re.findall("|".join([*keys, r"sample-\d+"]), page.text)
    assert len(shown) == 6 and all(key in keys for key in shown[:4])  # these were made certain and wrong
    expected = sum(len({(2 * place + 1) * int(keys[key]) // 12 for place in range(6)}) for key in shown if key in keys)
    assert len(pictures) == expected


def test_several_labels_a_video(numbered, tmp_path):
    classes, count = ("run", "jump", "wave", "never"), len(load_dataset(numbered))
    labels = np.zeros((count, 4), bool)
    labels[::2, 0] = labels[1::3, 1] = labels[:, 2] = True  # every sample waves, so that only the others can be wrong
    labels[0, 2] = False
    run = write_run(tmp_path / "run", classes, numbered)
    evaluation = write_multilabel_results(run, classes, numbered, labels)
    values = json.loads(evaluation.read_text())
    page = report(run, num_mistakes=2)
    for text in ("best mAP in training", "guessing 25.00 %", "Validation mAP", f"mAP{100 * values['map']:.2f} %"):
        assert text in page.text, text
    assert "Confusions" not in page.text and "confusion" not in page.data()
    rows = re.findall(r'<tr data-class="(\d)" data-accuracy="([-\d.]+)" data-samples="(\d+)"', evaluation_html(run))
    known = values["average_precision"][:3]
    assert [int(number) for number, _, _ in rows] == [*np.argsort(known).tolist(), 3]  # the worst first
    assert [float(shown) for _, shown, _ in rows] == pytest.approx([*sorted(known), -1], abs=1e-6)
    assert [int(samples) for number, _, samples in rows] == labels.sum(0)[
        [int(number) for number, _, _ in rows]
    ].tolist()
    scores = read_scores(evaluation.with_name("scores.parquet"))
    worst = np.where(labels, -1, scores.scores).max(1).argmax()
    assert page.text.index(scores.keys[worst]) > page.text.index("Most certain and wrong")
    assert evaluation_html(run).count("<article>") == 2 and "data:image/jpeg" in str(page.attributes)


def evaluation_html(run: Path) -> str:
    return (run / "report.html").read_text()


def test_a_run_of_any_state_has_a_page(numbered, tmp_path):
    bare = write_run(tmp_path / "bare", ("a", "b"), done=0)
    assert "not started" in report(bare).text
    partial = write_run(tmp_path / "partial", ("a", "b"), numbered, epochs=30, done=10)
    page = report(partial)
    assert "stopped" in page.text
    assert f"python launch/train.py --run_dir {shlex.quote(str(partial))} --resume" in page.text
    assert (
        f"python launch/evaluate.py {shlex.join(['--checkpoint', str(partial), '--data', str(numbered)])}" in page.text
    )
    assert "WARNING <b>slow</b>" in page.text
    with (partial / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "running" in report(partial).text
    assert "finished" in report(write_run(tmp_path / "finished", ("a", "b"), numbered)).text
    early = write_run(tmp_path / "early", ("a", "b"), numbered, epochs=30, done=10)
    config = load_config(early / "config.yaml")
    (early / "config.yaml").write_text(replace(config, train=replace(config.train, patience_epochs=4)).to_yaml())
    with (early / "metrics.jsonl").open("a") as file:
        for epoch, top1 in enumerate([0.6, 0.5, 0.5, 0.5, 0.5], 6):
            file.write(json.dumps({"kind": "evaluation", "step": 40 * epoch, "epoch": epoch, "top1": top1}) + "\n")
    assert "finished" in report(early).text and "--resume" not in report(early).text
    (partial / "config.yaml").write_text("data: [")
    (partial / "metrics.jsonl").write_text('{"kind": "train", "step": NaN}\n[1]\nbroken\n')
    text = report(partial).text
    assert "config.yaml: not a resolved configuration" in text and "metrics.jsonl cannot be read" in text


def test_what_does_not_fit_together_is_said(numbered, numbered_jpeg, tmp_path):
    classes = ("even", "odd")
    run = write_run(tmp_path / "run", classes, numbered)
    evaluation = write_results(run, classes, numbered, per_class=3)
    with pytest.raises(UserError, match="not the split that was evaluated"):
        report(run, data=numbered_jpeg)
    values = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps(values | {"data": str(tmp_path / "moved")}))
    text = report(run).text
    assert "no such folder" in text and "say where it is now with --data" in text
    assert "data:image" in str(report(run, data=numbered).attributes)
    (evaluation.with_name("scores.parquet")).write_bytes(b"PAR1")
    assert "not a score file" in report(run).text
    evaluation.write_text("{}")
    assert "not an evaluation.json" in report(run).text
    with pytest.raises(UserError, match=r"not an evaluation\.json"):
        report(run, evaluation=evaluation)
    for out, message in ((Path("x.png"), "ends in .html"), (Path("/proc/x.html"), "cannot be written")):
        with pytest.raises(UserError, match=message):
            report(run, out=out)
    with pytest.raises(UserError, match="is it a run folder"):
        report(tmp_path)


def test_no_secret_comes_into_the_page(tmp_path):
    run = write_run(tmp_path / "run", ("a", "b"))
    text = (run / "config.yaml").read_text()
    text = text.replace("train: null", "train: https://me:s3cret1@host/train?sig=s3cret2", 1)
    (run / "config.yaml").write_text(text.replace("deepspeed: {}", "deepspeed: {wandb: {api_key: s3cret3}}"))
    (run / "logs" / "rank-0.log").write_text("2026-01-01 10:00:01 ERROR https://me:s3cret4@host/x?sig=s3cret5 failed\n")
    assert load_config(run / "config.yaml").deepspeed
    report(run)
    assert "s3cret" not in (run / "report.html").read_text()


def test_time_waiting_is_weighted_by_time(tmp_path):
    run = write_run(tmp_path / "run", ("a", "b"), done=0)
    lines = [
        {"step": 10, "clips_per_second": 32, "loading_share": 0.5},  # 10 steps of 32 clips: 10 s, 5 of them waiting
        {"step": 40, "clips_per_second": 320, "loading_share": 0.1},  # 30 steps: 3 s, 0.3 waiting
    ]
    common = {"kind": "train", "loss": 1.0, "classification": 1.0, "learning_rate": 0.1, "epoch": 1.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | common) + "\n" for line in lines))
    assert read_run(run).training_seconds() == pytest.approx((13, 5.3))


PROBE = """<script>onload = () => {
  const pair = document.querySelector(".pairs button");
  if (pair) pair.click();
  const canvas = document.getElementById("matrix"), pixels = new Set();
  const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  for (let i = 0; i < drawn.length; i += 4) pixels.add(drawn[i] << 16 | drawn[i + 1] << 8 | drawn[i + 2]);
  document.getElementById("find-class").value = FIND;
  document.getElementById("find-class").dispatchEvent(new Event("input"));
  document.title = JSON.stringify({
    images: [...document.images].filter(image => image.complete && image.naturalWidth > 0).length,
    charts: [...document.querySelectorAll("figure svg")].filter(svg => svg.getBoundingClientRect().width > 200).length,
    copy: document.querySelectorAll(".command button").length,
    cell: document.getElementById("cell").textContent,
    rows: [...document.querySelectorAll("#classes tbody tr")].filter(row => !row.hidden).length,
    colors: pixels.size > 20, wide: document.documentElement.scrollWidth > innerWidth});
}</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [6, 400, 700])
def test_a_browser_shows_it(count, numbered, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no chromium here")
    classes = tuple(f"<i>class</i> {number}" for number in range(count))
    run = write_run(tmp_path / "run", classes, numbered)
    write_results(run, classes, numbered, per_class=20)
    page = report(run, num_mistakes=10)
    path = run / "report.html"
    assert path.stat().st_size < 5e6
    probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    find = json.dumps(f"class</i> {count - 1}")
    (run / "probed.html").write_text(probed.replace("</body>", PROBE.replace("FIND", find) + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]

    def show(name: str, *options: str) -> str:
        line = [*command, *options, "--virtual-time-budget=3000", f"file://{run / name}"]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=True).stdout

    images = sum(name == "src" for name, _ in page.attributes)
    for width in (1200, 390):
        dom = show("probed.html", f"--window-size={width},900", "--dump-dom")
        found = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
        assert found.pop("cell").startswith("<i>class</i> ") and found.pop("copy") >= 5
        assert found == {"images": images, "charts": 4, "rows": 1, "colors": True, "wide": False}
    # The page as it is: its policy lets its own script run, and nothing else.
    dom = show("report.html", "--dump-dom")
    assert "copy</button>" in dom and "<i>class" not in dom.split("<script")[0]
    for scheme, name in ((1, "light"), (0, "dark")):
        shot = tmp_path / f"{name}.png"
        colors = f"--blink-settings=preferredColorScheme={scheme}"
        show("report.html", colors, "--window-size=1200,3000", "--hide-scrollbars", f"--screenshot={shot}")
        picture = np.asarray(Image.open(shot).convert("L"))
        assert picture.std() > 10 and (picture.mean() > 128) == (name == "light")
