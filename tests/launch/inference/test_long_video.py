"""Windows of long videos: the frames of evaluation, each decoded once, past damage, in bounded memory."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from launch.inference.long_video import WindowReader
from launch.inference.windows import WindowOptions, window_starts
from launch.visualization.gradcam import restore_pixels
from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.packing.profiles import PROFILES
from sharding.video.timeline import read_timeline
from tests.helpers.commands import run_command
from tests.helpers.odd_videos import set_display_matrix, zeroed
from tests.helpers.videos import read_number, write_numbered_video

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


WINDOWS_READER = """
from sharding.records import Annotations, VideoRecord

def read(videos, annotations, split):
    rows = [line.split() for line in open(annotations[0])]
    records = [VideoRecord(f"{n:04d}", r[0], "a", float(r[2]), float(r[3])) for n, r in enumerate(rows)]
    return Annotations(records, ("a",))
"""


def packed_clips(path: Path, windows, tmp_path: Path, data: DataConfig, settings: dict) -> list[torch.Tensor]:
    """What packing each window of the file by itself, without loss, and the evaluation's loader give."""
    lines = [f"{path.name} a {window.start!r} {window.end!r}\n" for window in windows]
    names = [f"{number:04d}" for number in range(len(lines))]
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
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers" / "my_windows.py").write_text(WINDOWS_READER)
    monkeypatch.syspath_prepend(tmp_path / "readers")
    monkeypatch.delitem(sys.modules, "my_windows", raising=False)
    pts = np.cumsum(np.random.default_rng(2).integers(20, 60, 150)).tolist()
    videos = {
        "steady": write_numbered_video(
            tmp_path / "videos" / "steady.mp4", 150, size=(128, 72), gop=30, b_frames=2, noise=30
        ),
        "variable": write_numbered_video(
            tmp_path / "videos" / "variable.mp4", 150, size=(128, 72), gop=30, pts=pts, noise=30
        ),
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


def numbers_of(clips: torch.Tensor) -> list[int]:
    """The numbers that the frames of a clip (T, 3, H, W) show; crops are complete frames."""
    return [read_number(frame) for frame in restore_pixels(clips, DataConfig())]


WHOLE = DataConfig(num_segments=4, short_side=64, crop_size=64, worker_type="thread")


def test_frames_are_the_middles_of_the_segments(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 105, fps=10, size=(64, 64), gop=20)
    video, clips, _ = read_clips(path, WindowOptions(window=2, stride=1), WHOLE, short_side=64)
    starts = [*range(9), 8.5]
    assert list(clips) == starts and video.duration == pytest.approx(10.5)
    for start in starts:
        assert numbers_of(clips[start][0]) == [int(10 * start) + n for n in (2, 7, 12, 17)]
    assert len(video.wanted) < 50, "overlapping windows share frames"
    assert video.reader.num_decoded <= 105


def test_frames_shorter_than_the_container_can_say(tmp_path):
    """3,000 a second in Matroska, whose times are milliseconds: three frames at each time."""
    path = write_numbered_video(tmp_path / "v.mkv", 300, fps=3000, size=(64, 64))
    timeline = read_timeline(path)
    assert timeline.frame_seconds == pytest.approx(1 / 3000, rel=0.1)
    assert timeline.duration == pytest.approx(0.1, abs=0.002)


def test_a_window_in_which_no_frame_begins_shows_the_one_on_show(tmp_path):
    pts = [*range(0, 1000, 100), *range(6000, 7000, 100)]
    path = write_numbered_video(tmp_path / "still.mp4", 20, size=(64, 64), pts=pts)
    _, clips, _ = read_clips(path, WindowOptions(window=1, stride=1), WHOLE, short_side=64)
    assert numbers_of(clips[3.0][0]) == [9] * 4
    assert numbers_of(clips[6.0][0]) == [11, 13, 16, 18]


def test_damage_costs_the_windows_that_need_what_is_lost(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 300, fps=25, size=(128, 72), gop=25, noise=30)
    options = WindowOptions(window=1, stride=0.5)
    _, sound, _ = read_clips(path, options)
    video, clips, lost = read_clips(zeroed(path, 0.52), options)
    [loss] = video.losses
    assert loss.reason and 4 < loss.start < loss.end <= loss.start + 1
    assert len(clips) + len(lost) == len(sound) and 1 <= len(lost) <= 4
    for window in lost:
        assert window.start < loss.end and window.end > loss.start
    for start, clip in clips.items():
        assert torch.equal(clip, sound[start])


@pytest.mark.parametrize(
    ("options", "duration", "starts"),
    [
        ((2, 1), 10.0, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ((2, 2), 9.0, [0, 2, 4, 6, 7]),
        ((1, 5), 11.0, [0, 5, 10]),
        ((1, 5), 10.5, [0, 5, 9.5]),
        ((1, 5), 9.5, [0, 5]),
        ((2, 0.1), 2.0, [0]),
    ],
)
def test_where_windows_begin(options, duration, starts):
    assert window_starts(duration, WindowOptions(*options)).tolist() == pytest.approx(starts)
    regular = [start for start in starts if start / options[1] == pytest.approx(round(start / options[1]))]
    assert window_starts(duration, WindowOptions(*options, cover_end=False)).tolist() == pytest.approx(regular)


@pytest.mark.parametrize(("name", "value"), [("window", 0), ("window", -1), ("stride", 0), ("stride", float("nan"))])
def test_lengths_that_are_none_are_refused(name, value):
    with pytest.raises(UserError, match=f"^--{name} .*: use seconds, more than 0$"):
        WindowOptions(**{"window": 1, "stride": 1} | {name: value})


def test_a_window_longer_than_the_video_is_refused(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 10)
    with pytest.raises(UserError, match=r"^it lasts 0\.40 s, less than --window 2; use a shorter window"):
        read_clips(path, WindowOptions(2, 1))


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from launch.inference.long_video import WindowReader
from launch.inference.windows import WindowOptions
from pipeline.config import DataConfig
packing = {"profile": "dense", "max_frames": 64, "short_side": 256, "quality": 23}
data = DataConfig(num_segments=8, short_side=128, crop_size=112)
reader = WindowReader(packing, data, torch.device("cpu"), WindowOptions(2, 1))
for batch in reader.read(reader.open(Path(sys.argv[1]))):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    """The first minutes fill caches and pools; from there on three times the length needs no more."""
    minute = write_numbered_video(tmp_path / "minute.mp4", 1500, size=(320, 180), gop=50, noise=30)
    peaks = []
    for times in (10, 30):
        path = tmp_path / f"{times}.mp4"
        _repeat(minute, path, times)
        done = run_command([sys.executable, "-c", MEMORY, path])
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + (40 << 20), peaks


def _repeat(minute: Path, path: Path, times: int) -> None:
    """Write a video of a minute so many times in a row, without encoding it again."""
    with av.open(str(minute)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        length = int(60 / stream.time_base)
        for number in range(times):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = packet.pts + number * length, packet.dts + number * length
                again.time_base, again.stream, again.is_keyframe = packet.time_base, copy, packet.is_keyframe
                target.mux(again)
