"""Prediction: which files are meant, what is said of them, and what evaluation would say."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from launch.inference.pack_files import collect_videos
from launch.inference.predictor import Predictor, open_loader, predict, with_views
from launch.predict import main
from launch.training.checkpoint import load_checkpoint
from launch.training.forward import compute_logits
from launch.visualization.overlay import plan_overlays
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.reading import read_media
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.packing.profiles import PROFILES
from tests.conftest import ROOT, pack, run_command
from tests.helpers.videos import write_numbered_video


@pytest.fixture
def clips(motion, tmp_path) -> Path:
    """A folder with left/a.mp4, right/a.mp4, and a file that is no video."""
    for name in ("left", "right"):
        video = next((motion / "videos" / "val" / name).glob("*.mp4"))
        (tmp_path / "clips" / name).mkdir(parents=True)
        (tmp_path / "clips" / name / "a.mp4").write_bytes(video.read_bytes())
    (tmp_path / "clips" / "notes.txt").write_text("no video")
    return tmp_path / "clips"


def test_predict_sees_what_evaluation_sees(trained, motion):
    """The original files through predict, the packed ones through the evaluation loader: the same logits."""
    net, info, config = load_checkpoint(trained)
    dataset = load_dataset(motion / "val")
    folder = motion / "videos" / "val"
    videos = sorted(folder.rglob("*.mp4"))
    keys = ["-".join(video.relative_to(folder).with_suffix("").parts) for video in videos]
    results = dict(zip(keys, predict(net, info, config, videos)))
    loader = VideoLoader(dataset, config.data, training=False, micro_batch_size=len(dataset))
    for batch in loader:
        logits = compute_logits(net, batch.clips, config.train.precision)
        for sample_id, row in zip(batch.sample_ids.tolist(), logits):
            assert torch.equal(row, results[dataset.key(sample_id)])


@pytest.mark.parametrize("profile", PROFILES)
def test_a_video_is_prepared_as_those_of_training_whatever_their_profile(tmp_path, profile):
    videos = tmp_path / "videos" / "one"
    videos.mkdir(parents=True)
    video = write_numbered_video(videos / "video.mp4", 30)
    packed = load_dataset(pack(videos.parent, tmp_path / "shards", profile=profile))
    data = DataConfig(num_segments=4, short_side=64, crop_size=56, worker_type="thread")
    with open_loader([video], packed.manifest.settings, data, "cpu") as (loader, failures):
        assert not failures
        assert read_media(loader.dataset, 0) == read_media(packed, 0)
        [batch] = loader
    assert batch.clips.shape == (1, 4, 3, 56, 56)


def test_a_predictor_is_loaded_once_and_predicts_often(trained, clips):
    predictor = Predictor(str(trained), device="cpu")
    videos = [clips / "left" / "a.mp4", str(clips / "notes.txt"), clips / "absent.mp4"]
    left, text, absent = predictor(videos)
    net, info, config = load_checkpoint(trained)
    [expected] = predict(net, info, config, videos[:1])
    assert torch.allclose(left.logits, expected, atol=1e-3) and left.error is None
    assert left.classes == info.classes and left.top(1)[0][0] == info.classes[int(expected.argmax())]
    assert sum(probability for _, probability in left.top(9)) == pytest.approx(1)
    assert text.video == clips / "notes.txt" and text.logits is None and text.top() == []
    assert text.error.startswith("open: ") and absent.error == "missing: no such file"
    [right] = predictor([clips / "right" / "a.mp4"])
    assert not torch.equal(right.logits, left.logits)
    assert predictor([]) == []


def test_files_folders_and_patterns_mean_videos(clips, monkeypatch):
    monkeypatch.chdir(clips)
    left, right = Path("left/a.mp4"), Path("right/a.mp4")
    assert collect_videos(["right/a.mp4", "left"]) == [right, left]
    assert collect_videos(["."]) == [left, right]
    assert collect_videos(["**/*.mp4", "left/a.mp4"]) == [left, right]
    assert collect_videos([f"{clips}/*"]) == [clips / left, clips / "notes.txt", clips / right]
    Path("[1].mp4").write_bytes(left.read_bytes())
    assert collect_videos(["[1].mp4"]) == [Path("[1].mp4")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4"], "absent.mp4: no such file"),
        (["*.webm"], "*.webm: no file matches"),
        (["empty"], "empty: no videos below it: "),
        (["notes.txt"], "notes.txt: not a video: "),
        (["left/a.mp4", "--top=0"], "--top 0: use 1 or more"),
        (["left/a.mp4", "--overlay=/proc/out.mp4"], "/proc/out.mp4: cannot be written: "),
        (["left/a.mp4", "--overlay=notes.txt/out.mp4"], "notes.txt/out.mp4: cannot be written: "),
        (["left", "right", "--overlay=out.mp4"], "--overlay out.mp4: one file cannot hold 2 videos"),
        (["left/a.mp4", "--checkpoint=empty"], "empty: no checkpoint there"),
    ],
)
def test_bad_input_is_refused_before_the_work(trained, clips, monkeypatch, arguments, message):
    monkeypatch.chdir(clips)
    Path("empty").mkdir()
    monkeypatch.setattr("launch.inference.predictor.Predictor", lambda *args: pytest.fail("the network was loaded"))
    with pytest.raises(UserError) as caught:
        main([f"--checkpoint={trained}", *arguments])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_command(trained, clips, tmp_path):
    bad = clips / "bad.mp4"
    bad.write_bytes(b"no video")
    command = [sys.executable, "launch/predict.py", f"--checkpoint={trained}", "--json", clips / "left", bad]
    done = run_command([*command, f"--overlay={tmp_path / 'drawn'}"])
    assert done.returncode == 1
    good, failed = json.loads(done.stdout)
    assert {p["class"] for p in good["predictions"]} == {"left", "right"}
    assert sum(p["probability"] for p in good["predictions"]) == pytest.approx(1, abs=1e-4)
    assert good["overlay"] == str(tmp_path / "drawn" / "a.mp4")
    assert failed["error"].startswith("open: ")
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["a.mp4"]
    done = run_command([sys.executable, "launch/predict.py", f"--checkpoint={trained}", bad], fresh=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"launch/predict.py: error: {bad}: not a video: ")
    assert done.stderr.count("\n") == 1


def test_the_table_names_the_best_first(trained, clips, capsys):
    assert main([f"--checkpoint={trained}", "--top=1", str(clips / "left"), str(clips / "right")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == [str(clips / name / "a.mp4") for name in ("left", "right")]
    for line in (lines[1], lines[3]):
        share, name = line.split()
        assert float(share.rstrip("%")) >= 50
        assert name in ("left", "right")


def test_it_starts_without_what_it_does_not_need():
    """These take seconds to import."""
    code = "import launch.inference.predictions, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"deepspeed", "torchmetrics", "matplotlib", "torchvision", "tensorboard", "onnx", "captum"}


def test_ten_crops_are_no_views_where_a_mirror_changes_the_class():
    data = DataConfig()
    assert with_views(data, 2, 10, ("jump", "run")).num_views == 20
    with pytest.raises(
        UserError, match=r"^--crops 10 mirrors clips, which makes 'move right' of 'move left'; use 1 or 3"
    ):
        with_views(data, 1, 10, ("move left", "stay", "move right"))
    with pytest.raises(UserError, match="trained without that"):
        with_views(replace(data, flip=False), 1, 10, ("jump", "run"))


def test_no_overlay_takes_the_place_of_another(tmp_path):
    videos = [Path("x/a.mp4"), Path("y/a.mp4"), Path("x/a-2.mp4"), Path("z/a.mp4")]
    names = [target.name for target in plan_overlays(videos, tmp_path)]
    assert names == ["a.mp4", "a-2.mp4", "a-2-2.mp4", "a-3.mp4"]
