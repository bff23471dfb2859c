"""Packets without their container: where they are, which are needed, and the frames that come out."""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import MediaError
from sharding.video.decode import decode_frames
from sharding.video.encode import FrameChoice, encode_h264
from sharding.video.frame_packets import PacketDecoder, index_packets, packets_to_read
from tests.helpers.videos import write_numbered_video


@given(st.data())
def test_packets_to_read_decode_each_frame_from_its_keyframe(data):
    interval, count = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    frames = np.unique(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8)))
    runs = packets_to_read(np.arange(count + 1), frames, interval)
    packets = [packet for run in runs for packet in range(*run)]
    assert packets == sorted(set(packets)) and set(frames) <= set(packets)
    for packet in packets:
        assert packet % interval == 0 or packet - 1 in packets
        end = (packet // interval + 1) * interval
        assert np.any((frames >= packet) & (frames < end)), "a packet that no wanted frame needs"


@pytest.mark.parametrize("keyframe_every", [1, 8])
def test_frames_are_those_of_the_container(tmp_path, keyframe_every):
    """Bit for bit, with one decoder over videos of two sizes, one after the other."""
    decoder = PacketDecoder()
    for size in ((96, 64), (70, 90), (96, 64)):
        path = write_numbered_video(tmp_path / "source.mp4", 20, size=size)
        encode_h264(path, tmp_path / "video.mp4", FrameChoice(), keyframe_every=keyframe_every)
        offsets, parameters = index_packets(tmp_path / "video.mp4", keyframe_every)
        media = (tmp_path / "video.mp4").read_bytes()
        wanted = np.array([0, 3, 9, 10, 19])
        numbers = [n for run in packets_to_read(offsets, wanted, keyframe_every) for n in range(*run)]
        found = {}
        packets = [(n, media[offsets[n] : offsets[n + 1]]) for n in numbers]
        decoder.decode(
            parameters, packets, size[::-1], lambda n, picture, found=found: found.update({n: picture.copy()})
        )
        expected = decode_frames(media, wanted)
        np.testing.assert_array_equal(np.stack([found[n] for n in wanted.tolist()]), expected)


def test_damage_is_an_error_and_the_next_video_is_sound(tmp_path):
    path = write_numbered_video(tmp_path / "source.mp4", 5)
    encode_h264(path, tmp_path / "video.mp4", FrameChoice(), keyframe_every=1)
    offsets, parameters = index_packets(tmp_path / "video.mp4", 1)
    media, decoder = (tmp_path / "video.mp4").read_bytes(), PacketDecoder()
    packets = [(n, media[offsets[n] : offsets[n + 1]]) for n in range(5)]
    damaged = [*packets[:2], (2, bytes(len(packets[2][1]))), *packets[3:]]
    with pytest.raises(MediaError, match="decode"):
        decoder.decode(parameters, damaged, (64, 96), lambda n, picture: None)
    with pytest.raises(MediaError, match="decode"):
        decoder.decode(parameters, packets, (64, 98), lambda n, picture: None)
    taken = []
    decoder.decode(parameters, packets, (64, 96), lambda n, picture: taken.append(n))
    assert taken == [0, 1, 2, 3, 4]


def test_other_keyframes_than_expected_are_refused(tmp_path):
    path = write_numbered_video(tmp_path / "source.mp4", 10)
    encode_h264(path, tmp_path / "video.mp4", FrameChoice(), keyframe_every=8)
    with pytest.raises(MediaError, match="keyframes where they should be"):
        index_packets(tmp_path / "video.mp4", 1)


def test_a_stream_without_times_is_refused(tmp_path):
    """Bytes of another container than MP4 stand where a shard's video is."""
    path = write_numbered_video(tmp_path / "source.mp4", 10)
    encode_h264(path, tmp_path / "video.mp4", FrameChoice(), keyframe_every=1)
    with av.open(tmp_path / "video.mp4") as source, av.open(tmp_path / "raw.h264", "w", format="h264") as raw:
        stream = raw.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                raw.mux(packet)
    with pytest.raises(MediaError, match="a packet without a place or a time"):
        index_packets((tmp_path / "raw.h264").read_bytes(), 1)
