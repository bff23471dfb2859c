"""Windows of long videos: the frames of evaluation, each decoded once, past damage, in bounded memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from launch.inference.long_video import WindowReader
from launch.inference.windows import WindowOptions, plan_windows, window_starts
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.packing.profiles import PROFILES
from sharding.pack import PackConfig, pack
from tests.helpers.odd_videos import set_display_matrix, zeroed
from tests.helpers.videos import write_numbered_video

DATA = DataConfig(num_segments=4, short_side=48, crop_size=40, worker_type="thread", flip=True)


def packing(profile: str = "dense", **changed) -> dict:
    return {"profile": profile, "max_frames": 64, "short_side": 56, "quality": 0} | changed


def read_clips(path: Path, options: WindowOptions, data: DataConfig = DATA, **settings):
    """The windows of a file, and of each that is seen its clips (V, T, 3, H, W)."""
    reader = WindowReader(packing(**settings), data, torch.device("cpu"), options, batch_size=3)
    video = reader.open(path)
    clips, lost = {}, []
    for batch in reader.read(video):
        views = batch.clips.view(len(batch.windows), data.num_views, *batch.clips.shape[1:]) if batch.windows else ()
        clips |= {window.start: clip for window, clip in zip(batch.windows, views)}
        lost += batch.lost
    return video, clips, lost


def packed_clips(path: Path, windows, tmp_path: Path, data: DataConfig, settings: dict) -> list[torch.Tensor]:
    """What packing each window of the file by itself, without loss, and the evaluation's loader give."""
    lines = [f"{path.name} a {window.start!r} {window.end!r}\n" for window in windows]
    names = [f"{number:04d}" for number in range(len(lines))]
    (tmp_path / "my_windows.py").write_text(
        "from sharding.records import Annotations, VideoRecord\n"
        "def read(videos, annotations, split):\n"
        "    rows = [line.split() for line in open(annotations[0])]\n"
        "    records = [VideoRecord(f'{n:04d}', r[0], 'a', float(r[2]), float(r[3])) for n, r in enumerate(rows)]\n"
        "    return Annotations(records, ('a',))\n"
    )
    (tmp_path / "list.txt").write_text("".join(lines))
    pack(
        PackConfig(
            dataset="my_windows:read", videos=path.parent, annotations=(tmp_path / "list.txt",), split="all",
            out=tmp_path / "packed", workers=1, **settings,
        )
    )  # fmt: skip
    dataset = load_dataset(tmp_path / "packed" / "all")
    assert sorted(dataset.keys) == names
    with VideoLoader(dataset, data, training=False, micro_batch_size=data.num_views) as loader:
        clips = {dataset.key(int(batch.sample_ids[0])): batch.clips for batch in loader}
    return [clips[name] for name in names]


@pytest.mark.parametrize(
    ("profile", "data"),
    [
        ("dense", DATA),
        ("h264", DataConfig(num_segments=8, frames_per_segment=2, short_side=56, crop_size=48, worker_type="thread")),
        ("copy", DataConfig(num_segments=4, sampling="dense", frame_stride=3, short_side=40, crop_size=32,
                            test_clips=2, test_crops=3, worker_type="thread")),
    ],
)  # fmt: skip
def test_a_window_is_what_evaluation_sees_of_that_part(tmp_path, monkeypatch, profile, data):
    """Pixel for pixel, where the packing is lossless."""
    monkeypatch.syspath_prepend(tmp_path / "readers")
    pts = np.cumsum(np.random.default_rng(2).integers(20, 60, 150)).tolist()
    videos = {
        "steady": write_numbered_video(tmp_path / "steady.mp4", 150, size=(128, 72), gop=30, b_frames=2, noise=30),
        "variable": write_numbered_video(tmp_path / "variable.mp4", 150, size=(128, 72), gop=30, pts=pts, noise=30),
    }
    set_display_matrix(videos["variable"], (0, 1, -1, 0))
    options = WindowOptions(window=1.7, stride=0.75)
    # Under `copy` a part of a file is encoded again, which has a loss: here as dense, at the file's own size.
    lossless = packing(profile, max_frames=20) if profile != "copy" else packing("dense", short_side=72)
    for name, path in videos.items():
        video, clips, lost = read_clips(path, options, data, **packing(profile, max_frames=20))
        assert not lost and not video.losses and len(clips) == len(video.windows) > 4
        (tmp_path / name).mkdir()
        expected = packed_clips(path, video.windows, tmp_path / name, data, lossless)
        for window, clip in zip(video.windows, expected, strict=True):
            assert torch.equal(clips[window.start], clip), window
        assert video.reader.num_decoded <= 150


def test_profiles_are_all_known():
    assert set(PROFILES) == {"h264", "jpeg", "dense", "copy"}, "a new one needs its pixels in StoredPixels"
