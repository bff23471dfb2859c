"""Packets from which no frame comes are known as such, and nothing else is."""

import av
import pytest

from sharding.video.packets import is_hidden
from tests.helpers.videos import write_numbered_video


def packets_of(path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")])
def test_packets_of_sound_files_are_all_shown(tmp_path, name, codec):
    path = write_numbered_video(tmp_path / name, 40, codec=codec, gop=20, noise=10)
    codec_name = {"libvpx": "vp8", "libvpx-vp9": "vp9"}.get(codec, codec)
    assert not any(is_hidden(codec_name, packet) for packet in packets_of(path))


@pytest.mark.parametrize(
    ("header", "hidden"),
    [
        ("10 00 0 0 1 0", False),  # marker, profile, show_existing_frame, frame_type (0: a keyframe), show_frame
        ("10 00 0 1 1 0", False),
        ("10 00 0 1 0 0", True),
        ("10 00 0 0 0 0", True),
        ("10 00 1 010 0", False),  # shows a frame decoded before
        ("10 11 0 0 1 0 0", True),  # profile 3 has one more bit, which is 0, before the three
        ("10 11 0 0 1 1 0", False),
        ("10 10 0 1 0 0", True),
    ],
)
def test_vp9_headers(header, hidden):
    bits = header.replace(" ", "").ljust(16, "0")
    assert is_hidden("vp9", av.Packet(int(bits, 2).to_bytes(2, "big") + bytes(20))) == hidden
    superframe = int(bits, 2).to_bytes(2, "big") + bytes(20) + b"\xc1"  # of two frames, the second of which is shown
    assert not is_hidden("vp9", av.Packet(superframe))


def test_vp8_and_mpeg4(tmp_path):
    path = write_numbered_video(tmp_path / "a.webm", 3, codec="libvpx")
    first = bytes(packets_of(path)[0])
    assert not is_hidden("vp8", av.Packet(first))
    assert is_hidden("vp8", av.Packet(bytes([first[0] & ~0x10]) + first[1:]))
    not_coded = bytes.fromhex("000001b6 5a8a 7f".replace(" ", ""))
    assert is_hidden("mpeg4", av.Packet(not_coded))
    assert not is_hidden("h264", av.Packet(not_coded))
