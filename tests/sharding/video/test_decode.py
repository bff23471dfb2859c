"""Frames that show their own number must come out exactly as asked, however the video is coded."""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, cycle, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharding.errors import MediaError
from sharding.video import decode
from sharding.video.decode import decode_all, decode_frames, open_video, probe
from tests.helpers.videos import read_number, rotate_mp4, write_numbered_video

KINDS = {
    "intra.mp4": {"gop": 1},
    "gop8.mp4": {"gop": 8, "b_frames": 2},
    "gop250.mp4": {"b_frames": 3},
    "open_gop.mkv": {"gop": 10, "b_frames": 2, "options": {"x264-params": "open-gop=1:scenecut=0"}},
    "mpeg4.avi": {"codec": "mpeg4", "gop": 12},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "gop": 12, "b_frames": 2},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 20},
    "vp8.webm": {"codec": "libvpx", "gop": 20},
    "varying_rate.mp4": {"gop": 8, "b_frames": 2, "pts": list(islice(accumulate(cycle([10, 40, 33, 100])), 50))},
    "transport.ts": {"gop": 8, "b_frames": 2},
}
NUM_FRAMES = 50


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("media")
    return {
        name: write_numbered_video(folder / name, NUM_FRAMES, **options).read_bytes() for name, options in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_exactly_the_frames_asked_for(videos, kind, data):
    indices = sorted(data.draw(st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=12)))
    frames = decode_frames(videos[kind], np.array(indices))
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 64, 96, 3)
    assert [read_number(frame) for frame in frames] == indices


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_frames_equal_those_of_a_whole_decode(videos, kind):
    whole = decode_frames(videos[kind], np.arange(NUM_FRAMES))
    for indices in ([0], [NUM_FRAMES - 1], [3, 3, 30, 31], [7, 8, 9, 24]):
        np.testing.assert_array_equal(decode_frames(videos[kind], np.array(indices)), whole[indices])


@pytest.mark.parametrize("kind", ["intra.mp4", "gop8.mp4", "vp9.webm", "varying_rate.mp4", "open_gop.mkv"])
def test_only_the_stretch_needed_is_decoded(videos, kind, monkeypatch):
    monkeypatch.setattr(decode, "_decode_in_order", lambda *_: pytest.fail("decoded from the beginning"))
    assert read_number(decode_frames(videos[kind], np.array([44]))[0]) == 44


def test_real_files_agree_with_a_whole_decode(shared_videos):
    originals = sorted((shared_videos / "originals").iterdir())
    assert originals
    for path in originals:
        with open_video(path) as (container, stream):
            num_frames = sum(1 for _ in decode_all(container, stream))
        indices = np.array([0, 1, 5, num_frames // 2, num_frames - 1])
        whole = decode_frames(path, np.arange(num_frames))
        np.testing.assert_array_equal(decode_frames(path.read_bytes(), indices), whole[indices])


def test_many_threads_decode_at_once(videos):
    jobs = [(kind, index) for index in range(0, NUM_FRAMES, 7) for kind in KINDS]
    with ThreadPoolExecutor(8) as threads:
        numbers = threads.map(lambda job: read_number(decode_frames(videos[job[0]], np.array([job[1]]))[0]), jobs)
        assert list(numbers) == [index for _, index in jobs]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_out_upright(tmp_path, degrees):
    path = rotate_mp4(write_numbered_video(tmp_path / "turned.mp4", 5), degrees)
    frames = decode_frames(path, np.arange(5))
    assert [read_number(np.rot90(frame, degrees // 90)) for frame in frames] == list(range(5))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le", "yuvj420p"])
def test_pixel_formats_show_the_same_picture(tmp_path, pix_fmt):
    codec = "mjpeg" if pix_fmt == "yuvj420p" else "libx264"
    path = write_numbered_video(tmp_path / "video.mkv", 3, pix_fmt=pix_fmt, codec=codec)
    frame = decode_frames(path, np.array([2]))[0].astype(int)
    assert read_number(frame) == 2
    assert abs(frame[2:14, 2:22] - 40).max() < 8  # the first block is dark
    assert abs(frame[50:62, 50:70] - 210).max() < 8  # the last but one bright


def test_held_bytes_are_limited(videos, monkeypatch):
    monkeypatch.setattr(decode, "MAX_HELD_BYTES", 1000)
    assert read_number(decode_frames(videos["gop8.mp4"], np.array([33]))[0]) == 33


@pytest.mark.parametrize("indices", [[], [-1, 2], [[1]]])
def test_indices_that_make_no_sense(videos, indices):
    with pytest.raises(ValueError, match="frame numbers, 0 or greater"):
        decode_frames(videos["intra.mp4"], np.array(indices))


def test_a_frame_beyond_the_end(videos):
    with pytest.raises(MediaError, match="frame 50 asked for, but the video has 50 frames") as caught:
        decode_frames(videos["intra.mp4"], np.array([0, 50]))
    assert caught.value.kind == "decode"


def test_what_is_no_video(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    sound = write_numbered_video(tmp_path / "sound.mp4", 5, audio=True)
    for path, stage, words in [
        (tmp_path / "absent.mp4", "missing", "no such file"),
        (text, "open", "Invalid data"),
        (empty, "open", "empty"),
        (tmp_path, "open", "directory"),
        (Path("/dev/null"), "open", "not a regular file"),
    ]:
        with pytest.raises(MediaError, match=words) as caught:
            probe(path)
        assert caught.value.kind == stage
    assert probe(sound).codec == "h264"


def test_probe_reads_the_header(videos):
    info = probe(videos["intra.mp4"])
    assert (info.container, info.codec, info.width, info.height, info.fps) == ("mov", "h264", 96, 64, 25.0)
    assert info.num_frames_from_header == NUM_FRAMES
    assert info.duration_seconds == pytest.approx(2.0)
