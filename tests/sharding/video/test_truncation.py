"""Files cut off or with a hole are refused, with what is lacking; files with something behind them are not."""

import re
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from sharding.errors import MediaError
from sharding.video.encode import FrameChoice, encode_h264
from sharding.video.source import open_source
from tests.helpers.odd_videos import cut, extended, remux, write_through_a_pipe, zeroed
from tests.helpers.videos import write_numbered_video

NUM_FRAMES = 100
KINDS = ["plain.mp4", "fragmented.mp4", "plain.mkv", "piped.mkv", "plain.webm", "plain.avi", "plain.flv", "plain.ts"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Files of 100 frames, a keyframe every 20."""
    folder = tmp_path_factory.mktemp("originals")
    for suffix in ("mp4", "mkv", "webm", "avi", "flv", "ts"):
        codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(suffix, "libx264")
        write_numbered_video(folder / f"plain.{suffix}", NUM_FRAMES, codec=codec, gop=20, noise=30)
    write_through_a_pipe(folder / "plain.mkv", folder / "piped.mkv", "matroska")
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    remux(folder / "plain.mp4", folder / "fragmented.mp4", **options)
    return folder


@pytest.fixture
def write(originals, tmp_path):
    """Copies an original to where the test may change it."""
    return lambda kind: Path(shutil.copy(originals / kind, tmp_path))


def count(path) -> int:
    with open_source(path) as source:
        return len(source.times())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_has_no_damage(write, kind):
    assert count(write(kind)) == NUM_FRAMES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_a_cut_file_is_refused(write, tmp_path, kind, fraction):
    """A transport stream that is cut between two frames is sound by all it says; so of three places two must tell."""
    path = write(kind)
    places = (fraction, fraction + 0.011, fraction + 0.022) if kind.endswith(".ts") else (fraction,)
    reasons = []
    for place in places:
        try:
            encode_h264(cut(path, place), tmp_path / "out.mp4", FrameChoice())
        except MediaError as error:
            reasons.append(str(error))
    assert len(reasons) >= min(2, len(places))
    assert all(re.search(r"cut off|damaged|Invalid data", reason) for reason in reasons), reasons


@pytest.mark.parametrize("kind", KINDS)
def test_no_hole_loses_frames_in_silence(write, tmp_path, kind):
    path = write(kind)
    counts = {}
    for percent in range(12, 98, 11):
        with suppress(MediaError):
            video = encode_h264(zeroed(path, percent / 100), tmp_path / "out.mp4", FrameChoice(None, None))
            counts[percent] = video.source_num_frames_decoded
    assert set(counts.values()) <= {NUM_FRAMES}, counts


def test_a_hole_in_webm_is_named(write):
    path = write("plain.webm")
    messages = set()
    for percent in range(20, 80, 5):
        try:
            count(zeroed(path, percent / 100))
        except MediaError as error:
            messages.add(error.message.rpartition(" ")[0])
    assert "the file is damaged: no element of Matroska at byte" in messages


def test_an_end_before_the_declared_one(write):
    path = write("plain.mkv")
    data = bytearray(path.read_bytes())
    duration = data.index(b"\x44\x89\x88") + 3
    data[duration : duration + 8] = struct.pack(">d", 9000)  # ms
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"it lasts 9\.00 s by its own account, but ends at 4\.00 s"):
        count(path)


@pytest.mark.parametrize("kind", ["plain.mp4", "fragmented.mp4", "plain.mkv", "plain.avi"])
@pytest.mark.parametrize("trailer", [b"TAG" + bytes(125), b"made by a tool that signs its files\n" * 3, b"\0" * 64])
def test_what_is_behind_the_end_does_no_harm(write, tmp_path, kind, trailer):
    path = extended(write(kind), trailer)
    assert count(path) == NUM_FRAMES
    assert encode_h264(path, tmp_path / "out.mp4", FrameChoice()).source_num_frames_decoded == NUM_FRAMES


def test_a_riff_size_that_counts_its_own_header(write):
    path = write("plain.avi")
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", struct.unpack("<I", data[4:8])[0] + 8)
    path.write_bytes(data)
    assert count(path) == NUM_FRAMES


def test_a_box_of_somebodys_own(write, tmp_path):
    path = write("plain.mp4")
    data = path.read_bytes()
    first = struct.unpack(">I", data[:4])[0]
    path.write_bytes(data[:first] + struct.pack(">I4s", 16, b"free") + bytes(8) + data[first:])
    vendor = tmp_path / "vendor.mp4"
    vendor.write_bytes(data + struct.pack(">I4s", 16, b"beam") + bytes(8) + struct.pack(">I4s", 8, b"free"))
    assert count(vendor) == NUM_FRAMES
