"""Encoding: the right frames, upright, with square pixels, in the right colours, whatever the source is like."""

import shutil
import subprocess
from contextlib import ExitStack
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import MediaError
from sharding.video.decode import decode_all, decode_frames, open_video
from sharding.video.encode import FrameChoice, choose_frames, encode_h264, output_size
from tests.helpers.videos import read_number, rotate_mp4, write_numbered_video

ALL = FrameChoice(None, None)


def numbers(path, num_frames) -> list[int]:
    return [read_number(frame) for frame in decode_frames(path, np.arange(num_frames))]


@given(st.integers(1, 500), st.integers(1, 80))
def test_frames_are_evenly_spaced_at_a_steady_rate(num_frames, max_frames):
    chosen = choose_frames(np.arange(num_frames) / 29.97, max_frames)
    assert len(chosen) == min(num_frames, max_frames)
    assert np.all(np.diff(chosen) > 0)
    assert chosen[0] >= 0
    assert chosen[-1] < num_frames
    if num_frames > max_frames:
        expected = (np.arange(max_frames) + 0.5) * num_frames / max_frames
        np.testing.assert_array_equal(chosen, np.floor(expected + 1e-9))
        assert np.diff(chosen).max(initial=0) - np.diff(chosen).min(initial=num_frames) <= 1


@given(st.lists(st.floats(0.001, 5), min_size=1, max_size=100), st.integers(1, 40))
@settings(deadline=None)
def test_frames_are_evenly_spaced_in_time_at_a_varying_rate(gaps, max_frames):
    times = np.cumsum([0.0, *gaps])
    chosen = choose_frames(times, max_frames)
    assert len(chosen) == min(len(times), max_frames)
    assert np.all(np.diff(chosen) >= 0)
    assert chosen[0] >= 0
    assert chosen[-1] < len(times)


def test_a_long_still_takes_its_share_of_the_frames():
    times = np.concatenate([np.arange(50) * 0.04, [2.0, 10.0]])  # one picture is shown for eight of ten seconds
    assert np.mean(choose_frames(times, 10) == 50) == pytest.approx(0.8, abs=0.1)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([None, 16, 256, 320]))
def test_sizes_are_even_and_never_enlarged(width, height, short_side):
    size = output_size(width, height, Fraction(1), short_side)
    assert all(side % 2 == 0 and side >= 2 for side in size)
    assert size[0] <= max(2, width + 1)
    assert size[1] <= max(2, height + 1)
    if short_side and min(width, height) >= short_side:
        assert min(size) == short_side


def test_64_frames_all_keyframes(tmp_path):
    source = write_numbered_video(tmp_path / "source.mp4", 300, size=(400, 300))
    video = encode_h264(source, tmp_path / "out.mp4", FrameChoice(64, 256))
    assert (video.num_frames, video.width, video.height) == (64, 342, 256)
    assert video.source_num_frames_decoded == 300
    assert video.fps == pytest.approx(25 * 64 / 300, rel=1e-3)
    assert numbers(tmp_path / "out.mp4", 64) == [int((i + 0.5) * 300 / 64) for i in range(64)]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        assert all(packet.is_keyframe for packet in container.demux(stream) if packet.size)
        context = stream.codec_context
        assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 6, 1)


@pytest.mark.parametrize("keyframe_every", [1, 8])
def test_the_bytes_are_always_the_same(tmp_path, keyframe_every):
    """Also after many other videos, whose traces in memory an encoder must not see."""
    sources = [write_numbered_video(tmp_path / f"{n}.mp4", 5 + n, first_number=100 * n) for n in range(12)]
    hashes = {source: set() for source in sources}
    for _ in range(20):
        for source in sources:
            encode_h264(source, tmp_path / "out.mp4", FrameChoice(), keyframe_every)
            hashes[source].add((tmp_path / "out.mp4").read_bytes())
    assert [len(different) for different in hashes.values()] == [1] * 12


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", {"size": (97, 65), "pix_fmt": "yuv444p"}),
        ("mkv", {"pix_fmt": "yuv420p10le"}),
        ("mov", {"codec": "qtrle", "pix_fmt": "argb"}),
        ("mp4", {"audio": True}),
        ("avi", {"codec": "mpeg4", "gop": 12, "b_frames": 2}),
        ("webm", {"codec": "libvpx-vp9"}),
        ("mkv", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("mkv", {"codec": "ffv1"}),
        ("ts", {"gop": 8, "b_frames": 2}),
    ],
)
def test_odd_sources(tmp_path, suffix, options):
    source = write_numbered_video(tmp_path / f"source.{suffix}", 20, **options)
    video = encode_h264(source, tmp_path / "out.mp4", ALL)
    assert video.num_frames == 20
    assert numbers(tmp_path / "out.mp4", 20) == list(range(20))
    frame = decode_frames(tmp_path / "out.mp4", np.array([0]))[0]
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    assert abs(frame.astype(int) - 40).max() < 8  # number 0 is dark all over


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_are_stored_upright(tmp_path, degrees):
    source = rotate_mp4(write_numbered_video(tmp_path / "source.mp4", 6, size=(128, 64)), degrees)
    video = encode_h264(source, tmp_path / "out.mp4", FrameChoice(64, 32))
    assert (video.width, video.height) == ((64, 32) if degrees == 180 else (32, 64))
    frames = decode_frames(tmp_path / "out.mp4", np.arange(6))
    assert [read_number(np.rot90(frame, degrees // 90)) for frame in frames] == list(range(6))


def test_pixels_become_square(tmp_path):
    source = write_numbered_video(tmp_path / "source.mp4", 3, size=(340, 256), pixel_aspect=Fraction(64, 51))
    video = encode_h264(source, tmp_path / "out.mp4", FrameChoice())
    assert (video.width, video.height) == (426, 256)
    with open_video(tmp_path / "out.mp4") as (_, stream):
        assert stream.sample_aspect_ratio in (None, 0, 1)


def test_a_varying_rate_is_sampled_in_time(tmp_path):
    pts = [*range(0, 1000, 20), *range(1000, 6000, 500)]  # 50 frames in the first second, 10 in the next five
    source = write_numbered_video(tmp_path / "source.mp4", 60, pts=pts)
    video = encode_h264(source, tmp_path / "out.mp4", FrameChoice(12, None))
    assert video.num_frames == 12
    stored = numbers(tmp_path / "out.mp4", 12)
    assert stored == sorted(stored)
    assert sum(number >= 50 for number in stored) == 10


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")])
@pytest.mark.parametrize(("start", "end"), [(1.0, 2.0), (None, 0.4), (3.2, None), (0.02, 0.1)])
def test_only_the_part_between_start_and_end(tmp_path, suffix, codec, start, end):
    b_frames = 2 if suffix == "mp4" else 0
    source = write_numbered_video(tmp_path / f"source.{suffix}", 100, codec=codec, gop=12, b_frames=b_frames)
    video = encode_h264(source, tmp_path / "out.mp4", FrameChoice(None, None, start, end))
    expected = [i for i in range(100) if (start or 0) <= i / 25 < (end or 100)]
    assert numbers(tmp_path / "out.mp4", video.num_frames) == expected


def test_nothing_between_start_and_end(tmp_path):
    source = write_numbered_video(tmp_path / "source.mp4", 10)
    with pytest.raises(MediaError, match=r"begins at 5 s, but the video ends at 0\.4 s"):
        encode_h264(source, tmp_path / "out.mp4", FrameChoice(None, None, 5.0, 6.0))


@pytest.mark.parametrize(("size", "matrix"), [((96, 64), 1), ((96, 64), 6), ((96, 64), 2), ((1280, 720), 2)])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colours_survive(tmp_path, size, matrix, color_range):
    """Untagged files are BT.601 when small, BT.709 when large; tagged ones what they say."""
    colour = (180, 60, 120)
    written = {2: 1 if size[1] > 576 else 5}.get(matrix, matrix)
    with av.open(str(tmp_path / "source.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = color_range
        picture = np.tile(np.array(colour, np.uint8), (size[1], size[0], 1))
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=written, dst_color_range=color_range)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    direct = decode_frames(tmp_path / "source.mp4", np.array([0]))[0]
    encode_h264(tmp_path / "source.mp4", tmp_path / "out.mp4", FrameChoice())
    stored = decode_frames(tmp_path / "out.mp4", np.array([0]))[0]
    for frame in (direct, stored):
        assert np.abs(frame.reshape(-1, 3).mean(0) - colour).max() < 4


def test_the_default_one_of_several_streams_and_no_cover_picture(tmp_path):
    numbered = write_numbered_video(tmp_path / "numbered.mp4", 8, first_number=100)
    cover = write_numbered_video(tmp_path / "cover.mkv", 1, codec="mjpeg", pix_fmt="yuvj420p", size=(640, 480))
    small = write_numbered_video(tmp_path / "small.mp4", 8, size=(32, 32))
    with ExitStack() as stack:
        output = stack.enter_context(av.open(str(tmp_path / "all.mp4"), "w"))
        sources = [stack.enter_context(av.open(str(path))) for path in (small, cover, numbered)]
        streams = [output.add_stream_from_template(source.streams.video[0]) for source in sources]
        kinds = av.stream.Disposition
        for stream, disposition in zip(streams, (kinds.dub, kinds.attached_pic, kinds.default)):
            stream.disposition = disposition
        for source, stream in zip(sources, streams):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    video = encode_h264(tmp_path / "all.mp4", tmp_path / "out.mp4", ALL)
    assert (video.width, video.height) == (96, 64)
    assert numbers(tmp_path / "out.mp4", 8) == list(range(100, 108))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
@pytest.mark.parametrize("fraction", [0.97, 0.7, 0.4])
def test_a_file_cut_off_is_refused(tmp_path, suffix, fraction):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(suffix, "libx264")
    whole = write_numbered_video(tmp_path / f"whole.{suffix}", 60, codec=codec, gop=8).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(MediaError) as caught:
        encode_h264(cut, tmp_path / "out.mp4", FrameChoice())
    assert caught.value.kind in ("open", "decode")
    assert caught.value.message


def test_a_clip_cut_without_encoding(tmp_path):
    """Such clips begin with frames that are decoded but, by the file's edit list, not shown."""
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg program here to cut a clip with")
    whole = write_numbered_video(tmp_path / "whole.mp4", 60, gop=8, b_frames=2)
    clip = tmp_path / "clip.mp4"
    command = ["ffmpeg", "-v", "error", "-ss", "0.5", "-i", whole, "-t", "1", "-c", "copy", clip]
    subprocess.run(command, check=True)
    with open_video(clip) as (container, stream):
        shown = [read_number(frame.to_ndarray(format="rgb24")) for frame in decode_all(container, stream)]
    assert shown[0] >= 12
    assert numbers(clip, len(shown)) == shown
    video = encode_h264(clip, tmp_path / "out.mp4", ALL)
    assert numbers(tmp_path / "out.mp4", video.num_frames) == shown
