"""Sources: every frame of whatever plays, at its time, in any part asked for; and no frame lost without a word."""

from itertools import pairwise

import av
import numpy as np
import pytest

from sharding.errors import MediaError
from sharding.video import source as source_module
from sharding.video.decode import decode_frames
from sharding.video.encode import FrameChoice, encode_h264
from sharding.video.source import open_source
from tests.helpers.odd_videos import join_streams, remux, write_cover
from tests.helpers.videos import read_number, write_numbered_video

ALL = FrameChoice(None, None)


def shown(path, start=None, end=None) -> list[int]:
    """The numbers on the frames of a part; what the packets say must agree."""
    with open_source(path) as source:
        times = source.times(start, end)
        frames = list(source.frames(start, end))
    assert len(times) == len(frames)
    np.testing.assert_allclose(times, [time for time, _ in frames], atol=1e-6)
    assert all(a < b for a, b in pairwise(times))
    return [read_number(frame.to_ndarray(format="rgb24")) for _, frame in frames]


@pytest.mark.parametrize(("suffix", "b_frames"), [("mkv", 0), ("mkv", 2), ("ts", 2), ("flv", 0)])
@pytest.mark.parametrize("shift", [-2.0, -0.5, 7.0])
def test_a_video_that_does_not_begin_at_zero(tmp_path, suffix, b_frames, shift):
    plain = write_numbered_video(tmp_path / "plain.mp4", 60, gop=12, b_frames=b_frames)
    path = remux(plain, tmp_path / f"shifted.{suffix}", shift=shift, avoid_negative_ts="disabled")
    assert shown(path) == list(range(60))
    video = encode_h264(path, tmp_path / "out.mp4", ALL)
    assert video.num_frames == 60


def test_a_transport_stream_whose_clock_runs_over(tmp_path):
    plain = write_numbered_video(tmp_path / "plain.mp4", 100, gop=12, b_frames=2)
    path = remux(plain, tmp_path / "wrapped.ts", shift=2**33 / 90_000 - 2.5, mpegts_copyts="1")
    assert shown(path) == list(range(100))
    assert shown(path, 2.0, 3.0) == list(range(50, 75))


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.2, 2.0, 3600.0])
def test_joined_transport_streams(tmp_path, offset):
    first = write_numbered_video(tmp_path / "first.ts", 30, gop=12, b_frames=2)
    plain = write_numbered_video(tmp_path / "plain.mp4", 40, gop=12, b_frames=2, first_number=100)
    second = remux(plain, tmp_path / "second.ts", shift=offset)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    if offset == 2.0:  # no different from a loss of the frames from 1.2 to 2.0 s
        with pytest.raises(MediaError, match="damaged or cut off after packet 30"):
            shown(joined)
        return
    assert shown(joined) == [*range(30), *range(100, 140)]
    if offset < 2:
        assert shown(joined, 1.0, 1.4) == [25, 26, 27, 28, 29, *range(100, 105)]
    assert encode_h264(joined, tmp_path / "out.mp4", ALL).fps == pytest.approx(25, rel=0.02)


def test_lost_packets_of_a_transport_stream(tmp_path):
    data = write_numbered_video(tmp_path / "sound.ts", 60, gop=12, b_frames=2, size=(320, 240)).read_bytes()
    for first in range(20, len(data) // 188 - 10, 7):
        path = tmp_path / "lost.ts"
        path.write_bytes(data[: first * 188] + data[(first + 4) * 188 :])
        try:
            assert shown(path) == list(range(60)), first
        except MediaError:
            continue


KINDS = {
    "sparse.ts": {"gop": 50, "b_frames": 2},
    "open.ts": {"gop": 20, "b_frames": 2, "options": {"x264-params": "open-gop=1:scenecut=0"}},
    "open.mkv": {"gop": 20, "b_frames": 2, "options": {"x264-params": "open-gop=1:scenecut=0"}},
    "hevc.mp4": {
        "codec": "libx265",
        "gop": 20,
        "options": {"x265-params": "log-level=none:open-gop=1:keyint=20:bframes=3"},
    },
    "sparse.flv": {"gop": 50, "b_frames": 2},
    "theora.ogv": {"codec": "libtheora", "gop": 20},
    "raw.h264": {"gop": 20, "b_frames": 2},
    "program.mpg": {"codec": "mpeg2video", "gop": 12, "b_frames": 2},
    "old.wmv": {"codec": "wmv2", "gop": 12},
    "old.avi": {"codec": "mpeg4", "gop": 12, "b_frames": 2},
    "new.avi": {"gop": 20, "b_frames": 2},
}


@pytest.mark.parametrize("name", [*KINDS, "fragmented.mp4"])
def test_every_part_holds_its_frames(tmp_path, name):
    if name == "fragmented.mp4":
        plain = write_numbered_video(tmp_path / "plain.mp4", 200, gop=50, b_frames=2)
        path = remux(plain, tmp_path / name, movflags="frag_keyframe+empty_moov")
    elif KINDS[name].get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV has no {KINDS[name]['codec']}")
    else:
        path = write_numbered_video(tmp_path / name, 200, **KINDS[name])
    assert shown(path) == list(range(200))
    for start, end in [(0.5, 1.5), (None, 0.4), (1.02, 1.3), (2.0, 3.0), (3.96, 4.08), (7.0, None), (0.0, 8.0)]:
        expected = [i for i in range(200) if (start or 0) - 1e-6 <= i / 25 < (end or 9) - 1e-6]
        assert shown(path, start, end) == expected, (start, end)


def test_a_part_is_not_read_from_the_beginning_where_seeking_leads_there(tmp_path, monkeypatch):
    path = write_numbered_video(tmp_path / "plain.mp4", 200, gop=10)
    monkeypatch.setattr(source_module, "_ways_back", lambda start: [0.0])
    assert shown(path, 6.0, 7.0) == list(range(150, 175))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_frames_before_the_first_keyframe_are_left_out_and_said_so(tmp_path, suffix):
    plain = write_numbered_video(tmp_path / "plain.mp4", 40, gop=20)
    path = remux(plain, tmp_path / f"late.{suffix}", keep=lambda number, _: number >= 15)
    video = encode_h264(path, tmp_path / "out.mp4", ALL)
    assert [read_number(frame) for frame in decode_frames(tmp_path / "out.mp4", np.arange(20))] == [*range(20, 40)]
    assert video.num_frames == 20
    assert video.notes == {"source_num_packets_before_keyframe": 5}


def test_frames_shown_before_the_keyframe_they_need_may_be_lacking(tmp_path):
    options = {"x264-params": "open-gop=1:scenecut=0:keyint=20"}
    plain = write_numbered_video(tmp_path / "plain.mkv", 60, gop=20, b_frames=2, options=options)
    with av.open(str(plain)) as container:
        keys = [n for n, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    path = remux(plain, tmp_path / "late.mkv", keep=lambda number, _: number >= keys[1])
    video = encode_h264(path, tmp_path / "out.mp4", ALL)
    numbers = [read_number(frame) for frame in decode_frames(tmp_path / "out.mp4", np.arange(video.num_frames))]
    assert numbers[-1] == 59
    assert numbers == list(range(numbers[0], 60))


def test_frames_that_do_not_come_are_a_failure(tmp_path, monkeypatch):
    """A decoder that drops one without a word: what its packets promise is not there."""
    path = write_numbered_video(tmp_path / "plain.mkv", 30, gop=10)
    real = source_module.decode_packets

    def leaky(stream, packets):
        yield from (frame for number, frame in enumerate(real(stream, packets)) if number != 7)

    monkeypatch.setattr(source_module, "decode_packets", leaky)
    with pytest.raises(MediaError, match="30 packets of its video gave only 29 frames"):
        encode_h264(path, tmp_path / "out.mp4", ALL)


def test_h264_with_b_frames_in_avi_has_its_own_rate(tmp_path):
    path = write_numbered_video(tmp_path / "new.avi", 50, b_frames=2)
    assert encode_h264(path, tmp_path / "out.mp4", ALL).fps == pytest.approx(25)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("marks", [(0, 0), (1, 0)])
def test_a_picture_is_not_taken_for_the_film(tmp_path, suffix, marks):
    film = write_numbered_video(tmp_path / "film.mp4", 30, first_number=100)
    path = join_streams(tmp_path / f"all.{suffix}", [write_cover(tmp_path / "cover.mkv"), film], marks)
    assert shown(path) == list(range(100, 130))
    assert [read_number(frame) for frame in decode_frames(path.read_bytes(), np.array([3, 29]))] == [103, 129]
