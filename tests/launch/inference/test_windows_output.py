"""Predictions over time: the same as evaluation's of each window, as a table, JSON, CSV, ActivityNet's results, and
drawn."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from launch.inference.predictor import Predictor
from launch.inference.segments import ScoredWindow, merge_windows
from launch.inference.window_output import write_csv
from launch.inference.windows import WindowOptions
from launch.predict import main
from launch.training.checkpoint import load_checkpoint
from launch.training.forward import compute_logits
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from sharding.errors import UserError
from tests.helpers.odd_videos import zeroed
from tests.helpers.videos import write_numbered_video


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("long") / "in" / "match.mp4"
    return write_numbered_video(path, 105, fps=10, size=(64, 48), gop=10, noise=30)


def test_all_forms_say_the_same(trained, video, tmp_path, capsys):
    files = [f"--csv={tmp_path / 'out.csv'}", f"--activitynet={tmp_path / 'out.json'}"]
    command = [f"--checkpoint={trained}", "--window=2", "--stride=1", "--device=cpu", str(video)]
    assert main([*command, *files, "--json", f"--overlay={tmp_path / 'drawn.mp4'}"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["video"] == str(video) and row["seconds"] == pytest.approx(10.5) and row["lost"] == []
    assert [(each["start"], each["end"]) for each in row["windows"]] == [*((n, n + 2) for n in range(9)), (8.5, 10.5)]
    predictor = Predictor(trained, device="cpu")
    classes, precision = predictor.info.classes, predictor.config.train.precision
    reader = predictor.window_reader(WindowOptions(2, 1))
    clips = torch.cat([batch.clips for batch in reader.read(reader.open(video))])
    expected = compute_logits(predictor.net, clips, precision).softmax(1)
    for each, scores in zip(row["windows"], expected, strict=True):
        found = {p["class"]: p["probability"] for p in each["predictions"]}
        assert [found[name] for name in classes] == pytest.approx(scores.tolist(), abs=1e-3)
    with (tmp_path / "out.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10 * 2 and lines[0]["class"] == row["windows"][0]["predictions"][0]["class"]
    results = json.loads((tmp_path / "out.json").read_text())
    assert set(results) == {"version", "results", "external_data"}
    segments = results["results"]["match"]
    assert [each["segment"] for each in segments] == [[each["start"], each["end"]] for each in row["segments"]]
    assert segments[0]["segment"][0] == 0 and segments[-1]["segment"][1] == pytest.approx(10.5)
    with av.open(str(tmp_path / "drawn.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 105
    assert main(command) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + len(row["segments"]) and table[1].split()[0] == "0:00.0"


def test_several_views_are_what_evaluation_averages(trained, motion):
    """Through the loader of evaluation: clips and crops of the validation videos."""
    videos = sorted((motion / "videos" / "val").rglob("*.mp4"))
    net, _, config = load_checkpoint(trained)
    dataset = load_dataset(motion / "val")
    data = replace(config.data, test_clips=2, test_crops=3)
    predictions = {p.video: p.logits.softmax(0) for p in Predictor(trained, "cpu", clips=2, crops=3)(videos)}
    with VideoLoader(dataset, data, training=False, micro_batch_size=6) as loader:
        for batch in loader:
            scores = compute_logits(net, batch.clips, config.train.precision).softmax(1).mean(0)
            key = dataset.key(int(batch.sample_ids[0]))
            [found] = [p for path, p in predictions.items() if f"{path.parent.name}-{path.stem}" == key]
            assert torch.allclose(found, scores, atol=0.02)


def test_damage_is_said_with_its_times(trained, video, capsys):
    damaged = zeroed(video, 0.5, 1500)
    assert main([f"--checkpoint={trained}", "--window=1", "--device=cpu", str(damaged)]) == 1
    out = capsys.readouterr().out
    assert "      lost: 0:0" in out and "window(s) have no class, as frames of theirs are lost" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window=0"], "--window 0: use seconds, more than 0"),
        (["--window=2", "--stride=-1"], "--stride -1: use seconds, more than 0"),
        (["--stride=1"], "--stride: it is of windows; give their length with --window"),
        (["--csv=x.csv"], "--csv: it is of windows"),
        (
            ["--window=1", "--stride=1e-12"],
            "{video}: --stride 1e-12: more than 1,000,000 windows in 10 s",
        ),
        (["--window=60"], "{video}: it lasts 10.50 s, less than --window 60"),
        (["--window=2", "--device=cuda:99"], "--device cuda:99: this machine has "),
        (["--device=abacus"], "--device abacus: use cpu, cuda or cuda:NUMBER"),
        (["--crops=10"], "--crops 10 mirrors clips, but the network was trained without that (data.flip)"),
        (["--window=2", "--csv=/proc/x.csv"], "/proc/x.csv: cannot be written: "),
    ],
)
def test_bad_input_is_one_line(trained, video, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main([f"--checkpoint={trained}", *arguments, str(video)])
    assert str(caught.value).startswith(message.format(video=video)) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_utf_8(tmp_path):
    row = {
        "video": os.fsdecode(b"bad\xff.mp4"),
        "windows": [{"start": 0, "end": 1, "predictions": [{"class": "run", "probability": 0.5}]}],
    }
    write_csv(tmp_path / "o.csv", [row])
    assert (tmp_path / "o.csv").read_text().splitlines()[1] == "bad\\udcff.mp4,0,1,1,run,0.5"


def test_two_files_of_one_name_have_one_place_in_activitynet_s_results(trained, video, tmp_path):
    other = tmp_path / "match.mp4"
    other.write_bytes(video.read_bytes())
    with pytest.raises(UserError, match="have the same name"):
        main([f"--checkpoint={trained}", "--window=2", f"--activitynet={tmp_path / 'o.json'}", str(video), str(other)])


def test_segments_break_where_nothing_is_seen():
    scores = np.array([0.6, 0.4], np.float32)
    windows = [ScoredWindow(start, start + 1.0, scores) for start in (0.0, 1.0, 4.0)]
    assert [(each.start, each.end, each.label) for each in merge_windows(windows, "ab")] == [
        (0.0, 2.0, "a"),
        (4.0, 5.0, "a"),
    ]
    assert merge_windows([], "ab") == []
