"""The stream that NVDEC is handed, decoded here by libavcodec: exactly the frames planned, at the coded size."""

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.buffers import BatchLayout
from pipeline.clip_reader import ClipReader, media_bound
from pipeline.config import DataConfig
from pipeline.h264 import join_units, parse_avcc, parse_sequence_parameters, split_units, unit_type
from pipeline.nvdec import check_delivered, stream_overhead, unsuitable, wanted_stream
from sharding.dataset import load_dataset
from sharding.errors import MediaError
from sharding.video.encode import FrameChoice, encode_h264
from sharding.video.frame_packets import packets_to_read
from tests.helpers.videos import write_numbered_video

NUM_FRAMES = 20
WANTED = np.array([13, 0, 7, 7, 19, 18, 2])
# All even residues by 16 in both directions (H.264 4:2:0 has no odd sizes), wide and tall, and usual sizes.
SIZES = [(side, 178 - side) for side in range(48, 131, 2)]
SIZES += [(340, 256), (426, 256), (455, 256), (456, 256), (256, 340), (256, 456)]


class Video:
    """Packets, keyframes and parameters of a video file."""

    def __init__(self, path: Path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            self.parameters = bytes(stream.codec_context.extradata)
            packets = [packet for packet in container.demux(stream) if packet.size]
            self.packets = [bytes(packet) for packet in packets]
            self.is_keyframe = np.array([packet.is_keyframe for packet in packets])

    def stream_of(self, frames: np.ndarray) -> tuple[bytes, np.ndarray]:
        positions = self.positions_of(frames)
        return wanted_stream([self.packets[i] for i in positions], self.parameters), np.searchsorted(positions, frames)

    def positions_of(self, frames: np.ndarray) -> np.ndarray:
        """The packets needed for some frames."""
        interval = int(np.append(np.flatnonzero(self.is_keyframe), len(self.packets))[1])
        offsets = np.arange(len(self.packets) + 1)
        return np.concatenate([np.arange(*run) for run in packets_to_read(offsets, np.unique(frames), interval)])


def decode_planes(media: bytes | Path) -> list[list[np.ndarray]]:
    """The three planes of every frame."""
    with av.open(io.BytesIO(media) if isinstance(media, bytes) else str(media)) as container:
        return [
            [
                np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width].copy()
                for plane in frame.planes
            ]
            for frame in container.decode(video=0)
        ]


def packed(folder: Path, size: tuple[int, int], keyframe_every: int) -> Path:
    """A video as `pack` encodes it under h264 (keyframe_every=1) and dense (8)."""
    # H.264 4:2:0 has no odd sizes, so such a source is stored otherwise; `pack` rounds to even ones.
    odd = any(side % 2 for side in size)
    kind = {"codec": "ffv1", "pix_fmt": "bgr0"} if odd else {}
    source = write_numbered_video(folder / f"source{'.mkv' if odd else '.mp4'}", NUM_FRAMES, size=size, **kind)
    target = folder / "packed.mp4"
    encode_h264(source, target, FrameChoice(None, None), keyframe_every)
    return target


@pytest.mark.parametrize("keyframe_every", [1, 8])
def test_the_stream_has_the_planned_frames_at_every_size(tmp_path, keyframe_every):
    residues = set()
    for size in SIZES:
        path = packed(tmp_path, size, keyframe_every)
        video, original = Video(path), decode_planes(path)
        height, width = original[0][0].shape
        residues.add((width % 16, height % 16))
        media, places = video.stream_of(WANTED)
        frames = decode_planes(media)
        assert len(frames) == len(video.positions_of(WANTED))
        for wanted, place in zip(WANTED, places):
            luma = frames[place][0]
            assert luma.shape == (-(-height // 16) * 16, -(-width // 16) * 16), size
            for found, expected in zip(frames[place], original[wanted]):
                rows, columns = expected.shape
                np.testing.assert_array_equal(found[:rows, :columns], expected, f"{size}, frame {wanted}")
    assert {one for one, _ in residues} == {other for _, other in residues} == set(range(0, 16, 2))


@pytest.mark.parametrize(("keyframe_every", "num_packets", "num_keyframes"), [(1, 6, 6), (8, 18, 3)])
def test_nothing_but_what_is_needed_is_in_it(tmp_path, keyframe_every, num_packets, num_keyframes):
    """With keyframes at 0, 8 and 16, frames 14 and 15 are left out."""
    video = Video(packed(tmp_path, (96, 64), keyframe_every))
    media, _ = video.stream_of(WANTED)
    assert len(decode_planes(media)) == num_packets
    with av.open(io.BytesIO(media)) as container:
        stream = container.streams.video[0]
        keyframes = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
        assert len(keyframes) == stream.frames == num_packets
        assert sum(keyframes) == num_keyframes


def test_the_parameters_are_those_of_the_video_but_for_the_rectangle(tmp_path):
    video = Video(packed(tmp_path, (90, 50), 1))
    media, _ = video.stream_of(WANTED)
    with av.open(io.BytesIO(media)) as container:
        context = container.streams.video[0].codec_context
        assert (context.width, context.height) == (96, 64)
        before, after = (
            parse_sequence_parameters(parse_avcc(bytes(record)).sequence_sets[0])
            for record in (video.parameters, context.extradata)
        )
    assert before.size == (90, 50)
    assert after.size == (96, 64)
    assert before.matrix == 6
    assert not before.is_reordered
    start = before.crop_bits[0]
    assert after == replace(before, crop=(0, 0, 0, 0), crop_bits=(start, start + 1))


def test_pictures_are_kept_apart_and_parameters_within_rewritten(tmp_path):
    """Streams recorded live repeat their parameters in front of keyframes: these must not bring the rectangle back."""
    video = Video(packed(tmp_path, (90, 50), 1))
    (unit,) = parse_avcc(video.parameters).sequence_sets
    repeated = [join_units([b"\x09\x10", unit], 4) + packet for packet in video.packets[:3]]
    media = wanted_stream(repeated, video.parameters)
    with av.open(io.BytesIO(media)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for packet in packets:
        units = list(split_units(packet, 4))
        kinds = [unit_type(found) for found in units]
        assert kinds.count(9) == 1
        assert kinds[:2] == [9, 7]
        assert not any(parse_sequence_parameters(units[1]).crop)
    assert [luma.shape for luma, *_ in decode_planes(media)] == [(64, 96)] * 3


def test_damage_is_found_before_the_gpu_sees_it(tmp_path):
    video = Video(packed(tmp_path, (96, 64), 8))
    packets, parameters = video.packets, video.parameters
    for damaged, words in {
        bytes(len(packets[1])): "packet 2 of 3 is damaged: NAL units do not fill it",
        packets[1][:-1]: "packet 2 of 3 is damaged: NAL units do not fill it",
        join_units([b"\x06\x05"], 4): "packet 2 of 3 is damaged: 0 pictures",
        packets[1] * 2: "packet 2 of 3 is damaged: 2 pictures",
        b"": "packet 2 of 3 is damaged: 0 pictures",
    }.items():
        with pytest.raises(MediaError, match=words):
            wanted_stream([packets[0], damaged, packets[2]], parameters)
    with pytest.raises(MediaError, match="first packet is no keyframe"):
        wanted_stream(packets[1:3], parameters)
    with pytest.raises(MediaError, match="parameter sets: no avcC record"):
        wanted_stream(packets, b"")


def test_frames_that_were_not_returned_are_an_error():
    check_delivered(8, 8)
    with pytest.raises(MediaError, match="asked for 8 frames and returned 7"):
        check_delivered(7, 8)


def test_what_nvdec_cannot_take(numbered, tmp_path):
    dataset = load_dataset(numbered)
    assert unsuitable(dataset) == ""
    assert "13 video(s)" in unsuitable(dataset, min_size=(97, 16))
    assert "of 96 x 64 pixels, but this GPU decodes H.264 from 48 x 80" in unsuitable(dataset, min_size=(48, 80))
    assert "decodes H.264 up to 80 x 80" in unsuitable(dataset, max_size=(80, 80))
    small = replace(dataset, heights=np.where(np.arange(len(dataset)) == 4, 12, 64))
    assert unsuitable(small, min_size=(48, 16)) == ""  # coded as 16 lines
    assert f"1 video(s) of {numbered}, such as {dataset.key(4)} of 96 x 12" in unsuitable(small, min_size=(48, 17))
    copied = replace(dataset, manifest=replace(dataset.manifest, profile="copy"))
    assert "no index that says how its videos are coded" in unsuitable(copied)


def parameters_of(folder: Path, size: tuple[int, int] = (96, 64), matrix: str = "", **options) -> bytes:
    options["options"] = {"preset": "veryfast", "x264-params": f"colormatrix={matrix}" if matrix else "scenecut=0"}
    if flags := options.pop("x264", ""):
        options["options"]["x264-params"] += ":" + flags
    return Video(write_numbered_video(folder / "video.mp4", 4, size=size, **options)).parameters


@pytest.mark.parametrize(
    ("video", "words"),
    [
        ({}, ""),
        ({"matrix": "smpte170m"}, ""),
        ({"matrix": "bt470bg"}, ""),
        ({"matrix": "bt709"}, "BT.709"),
        ({"size": (1280, 64)}, "BT.709"),  # as players guess
        ({"size": (1280, 64), "matrix": "smpte170m"}, ""),
        ({"pix_fmt": "yuv444p"}, "8 bits and chroma format 3"),
        ({"pix_fmt": "yuv420p10le"}, "10 bits and chroma format 1"),
        ({"b_frames": 2}, "B-frames"),
        ({"x264": "interlaced=1"}, "interlaced"),
    ],
)
def test_codings_that_nvdec_would_show_wrongly(numbered, tmp_path, video, words):
    dataset = load_dataset(numbered)
    copied = replace(dataset, manifest=replace(dataset.manifest, profile="copy"))
    reason = unsuitable(copied, [parameters_of(tmp_path, **video)])
    assert words in reason
    assert bool(reason) == bool(words)


def test_other_codecs_are_not_taken(numbered, tmp_path):
    path = write_numbered_video(tmp_path / "video.mp4", 3, codec="libx265")
    assert "not H.264 in MP4" in unsuitable(load_dataset(numbered), [Video(path).parameters])
    assert "not H.264 in MP4" in unsuitable(load_dataset(numbered), [b""])


@pytest.mark.parametrize("keyframe_every", [1, 8])
def test_the_stream_of_all_frames_fits_into_its_place(tmp_path, keyframe_every):
    """It has a delimiter for each picture, which the stored file has not."""
    path = packed(tmp_path, (96, 64), keyframe_every)
    media, _ = Video(path).stream_of(np.arange(NUM_FRAMES))
    assert len(media) <= path.stat().st_size + int(stream_overhead(np.array([NUM_FRAMES]))[0])
    assert keyframe_every > 1 or len(media) > path.stat().st_size


def test_the_largest_sample_has_room_for_all_its_frames(numbered):
    dataset, config = load_dataset(numbered), DataConfig(num_segments=64, short_side=64, crop_size=64)
    bound = media_bound(dataset, config, "nvdec", 64, training=False)
    arrays = BatchLayout(1, 64, 1, bound, 0, 0)
    views = arrays.views(np.empty(arrays.num_bytes, np.uint8).data)
    reader = ClipReader(dataset, config, "nvdec", training=False, seed=0)
    for sample_id in range(len(dataset)):
        reader.read(sample_id, 0, views, 0)
        assert views["num_items"][0] == dataset.num_frames[sample_id]
