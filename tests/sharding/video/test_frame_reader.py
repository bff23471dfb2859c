"""Chosen frames in one pass: the very pixels of plain decoding, whatever the codec, the keyframes and the damage."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sharding.errors import MediaError
from sharding.video.frame_reader import FrameReader
from sharding.video.timeline import read_timeline
from tests.helpers.odd_videos import cut, remux, write_through_a_pipe, zeroed
from tests.helpers.videos import write_numbered_video

OPEN_GOP = {"preset": "veryfast", "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3"}
NUM_FRAMES = 200


def decode_plainly(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The luma planes of all frames, and their times from the first."""
    with av.open(str(path)) as container:
        frames = [(frame.pts, luma(frame)) for frame in container.decode(video=0)]
        base = container.streams.video[0].time_base
    first = frames[0][0] or 0
    return np.stack([plane for _, plane in frames]), np.array([float(((pts or 0) - first) * base) for pts, _ in frames])


def luma(frame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width].copy()


def read(path: Path, wanted: list[int], threads: int = 2):
    timeline = read_timeline(path)
    reader = FrameReader(path, timeline, np.array(wanted), lambda: luma, threads)
    return dict(reader), reader, timeline


VIDEOS = {
    "closed.mp4": {"gop": 24, "b_frames": 3},
    "open.mp4": {"gop": 12, "b_frames": 3, "options": OPEN_GOP},
    "one_keyframe.mkv": {"gop": 1000, "b_frames": 2},
    "all_intra.mp4": {"gop": 1},
    "transport.ts": {"gop": 24, "b_frames": 3},
    "old.avi": {"codec": "mpeg4", "gop": 12},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 24, "options": {"deadline": "realtime", "cpu-used": "8"}},
    "hevc.mp4": {"codec": "libx265", "gop": 24, "options": {"preset": "ultrafast", "x265-params": "log-level=none"}},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_numbered_video(folder / name, NUM_FRAMES, noise=30, **how) for name, how in VIDEOS.items()}


@pytest.mark.parametrize("name", VIDEOS)
def test_chosen_frames_are_those_of_plain_decoding(videos, name):
    planes, times = decode_plainly(videos[name])
    timeline = read_timeline(videos[name])
    assert timeline.times == pytest.approx(times, abs=2e-3)  # AVI has a rate alone
    dice = np.random.default_rng(0)
    for count in (1, 9, NUM_FRAMES):
        wanted = sorted(dice.permutation(NUM_FRAMES)[:count].tolist())
        found, reader, _ = read(videos[name], wanted, threads=1 + count % 3)
        assert list(found) == wanted and reader.losses == []
        for number in wanted:
            assert np.array_equal(found[number], planes[number]), number
        assert reader.num_decoded <= NUM_FRAMES


def test_each_frame_is_decoded_once_at_most_and_only_where_it_is_needed(videos):
    every = list(range(NUM_FRAMES))
    assert read(videos["open.mp4"], every)[1].num_decoded == NUM_FRAMES
    assert read(videos["all_intra.mp4"], every[::25])[1].num_decoded == 8
    assert read(videos["closed.mp4"], [24, 96, 97])[1].num_decoded <= 6
    # B-frames to which none refers are left out: of x264's pattern about a half.
    assert read(videos["closed.mp4"], every[23::24])[1].num_decoded < 0.75 * NUM_FRAMES


@pytest.mark.parametrize(("length", "lost"), [(1_500, 24), (20_000, None)])
def test_damage_costs_what_is_up_to_the_next_keyframe(videos, length, lost):
    planes, _ = decode_plainly(videos["closed.mp4"])
    found, reader, timeline = read(zeroed(videos["closed.mp4"], 0.5, length), list(range(NUM_FRAMES)))
    missing = [number for number, plane in found.items() if plane is None]
    assert missing and len(missing) <= (2 * lost if lost else NUM_FRAMES // 2)
    assert missing[-1] % 24 == 23, "the next keyframe is seen again"
    for number, plane in found.items():
        assert plane is None or np.array_equal(plane, planes[number]), number
    covered = np.zeros(NUM_FRAMES, bool)
    for loss in reader.losses:
        assert loss.reason
        covered |= (timeline.times >= loss.start - 1e-6) & (timeline.times < loss.end - 1e-6)
    assert set(missing) <= set(np.flatnonzero(covered).tolist())


def test_a_transport_stream_without_some_packets_is_read_to_its_end(videos):
    planes, _ = decode_plainly(videos["transport.ts"])
    data = videos["transport.ts"].read_bytes()
    path = videos["transport.ts"].with_name("holes.ts")
    begin = len(data) // 188 // 2 * 188
    path.write_bytes(data[:begin] + data[begin + 188 * 40 :])
    timeline = read_timeline(path)
    found = dict(FrameReader(path, timeline, np.arange(len(timeline.times)), lambda: luma, 2))
    usable = [(round(timeline.times[n] * 25), plane) for n, plane in found.items() if plane is not None]
    assert len(usable) > NUM_FRAMES // 2 and usable[-1][0] == NUM_FRAMES - 1
    for number, plane in usable:
        assert np.array_equal(plane, planes[number]), number


def test_the_end_of_a_file_that_was_cut_is_said(videos):
    path = cut(videos["one_keyframe.mkv"], 0.6)
    found, _, timeline = read(path, list(range(20)))
    assert all(plane is not None for plane in found.values())
    assert 80 < len(timeline.times) < 160
    assert "cut off" in timeline.losses[-1].reason and timeline.losses[-1].start > 2


def test_times_are_the_file_s_own(tmp_path):
    pts = np.cumsum(np.random.default_rng(1).integers(10, 200, 40)).tolist()
    path = write_numbered_video(tmp_path / "variable.mp4", 40, pts=pts)
    assert read_timeline(path).times == pytest.approx((np.array(pts) - pts[0]) / 1000, abs=1e-3)
    shifted = remux(path, tmp_path / "late.mkv", shift=7.0)
    assert read_timeline(shifted).times == pytest.approx((np.array(pts) - pts[0]) / 1000, abs=2e-3)


def test_a_file_that_cannot_be_sought_in_is_read(tmp_path):
    source = write_numbered_video(tmp_path / "a.mp4", 50, fps=Fraction(10), gop=10)
    path = write_through_a_pipe(source, tmp_path / "piped.mkv", "matroska")
    planes, _ = decode_plainly(source)
    found, _, _ = read(path, [0, 13, 49])
    assert all(np.array_equal(found[number], planes[number]) for number in found)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(MediaError) as caught:
        read_timeline(tmp_path / "notes.mp4")
    assert caught.value.kind == "open"
