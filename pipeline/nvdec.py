"""What NVDEC is handed: a small MP4 of only the frames wanted, at the size they are coded in.

    media = wanted_stream(packets, parameters)          # of the frames wanted, and those they refer to; to the GPU
    decoded = ...                                       # (len(packets), coded H, coded W, 3)
    check_delivered(len(decoded), len(packets))
    clip = decoded[places, :height, :width]             # height, width: as the table says

DALI decodes nearly every frame of a file to reach a few of them, so it gets no more than it needs. It makes a decoder
for each video, at 50 ms and more, unless one is left over whose size shown equals the size coded here; so the cropping
rectangle, which makes the difference, is removed from the sequence parameter set.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from pipeline.h264 import (
    ACCESS_UNIT_DELIMITER,
    IDR_SLICE,
    SEQUENCE_PARAMETERS,
    UNSPECIFIED_MATRIX,
    AvcRecord,
    SequenceParameters,
    is_slice,
    join_units,
    parse_avcc,
    parse_sequence_parameters,
    split_units,
    unit_type,
    without_cropping,
)
from sharding.dataset import PackedDataset
from sharding.errors import MediaError

MIN_SIZE, MAX_SIZE = (48, 16), (4096, 4096)
"""Limits on (width, height) of H.264 on an H200; a probe reports those of the GPU in use."""

_OWN_PROFILES = ("h264", "dense")  # encoded by ourselves: H.264, 4:2:0, 8 bit, BT.601, in the order of showing
_BT601 = {5, 6}
_LARGEST_GUESSED_BT601 = (1024, 576)  # as sharding.video.decode guesses where a file does not say
_DELIMITER = bytes((ACCESS_UNIT_DELIMITER, 0xF0))  # primary_pic_type 7: any slice may follow (7.4.2.4)
_TICKS_PER_SECOND = 25
_BYTES_A_FRAME, _HEAD_BYTES = 6 + 8, 2048
_UNIT_MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def stream_overhead(num_frames: np.ndarray) -> np.ndarray:
    """Return by how many bytes `wanted_stream` of all frames of samples may be longer than their files: a delimiter and
    its length for each frame, entries of two tables, and a head."""
    return _BYTES_A_FRAME * num_frames.astype(np.int64) + _HEAD_BYTES


def wanted_stream(packets: Sequence[bytes], parameters: bytes) -> bytes:
    """Return a small MP4 of H.264 packets, that shows all of the coded picture: cropping is left to the caller.

    Args:
        packets: NAL units, each with its length in front, as MP4 stores them; in the order of decoding and showing,
            each stretch from a keyframe on, as `packets_to_read` gives it.
        parameters: the avcC record of their track.

    Raises:
        MediaError: a packet holds no picture or more than one, or the first is no keyframe, or the parameters cannot be
            read: the sample is damaged.
    """
    try:
        record, width, height = _uncropped(parameters)
    except ValueError as error:
        raise MediaError("decode", f"its parameter sets: {error}") from error
    samples, keyframes = [], []
    for number, packet in enumerate(packets, 1):
        try:
            sample, is_keyframe = _access_unit(packet, record.length_size)
        except ValueError as error:
            raise MediaError("decode", f"packet {number} of {len(packets)} is damaged: {error}") from error
        samples.append(sample)
        if is_keyframe:
            keyframes.append(number)
    if not keyframes or keyframes[0] != 1:
        raise MediaError("decode", "its first packet is no keyframe")
    return _mp4(samples, keyframes, record.to_bytes(), width, height)


def check_delivered(num_returned: int, num_asked: int) -> None:
    """Raise MediaError if a decoder returned another number of frames than it was asked for."""
    if num_returned != num_asked:
        raise MediaError("decode", f"NVDEC was asked for {num_asked} frames and returned {num_returned}")


def unsuitable(
    dataset: PackedDataset,
    parameters: Iterable[bytes] | None = None,
    min_size: tuple[int, int] = MIN_SIZE,
    max_size: tuple[int, int] = MAX_SIZE,
) -> str:
    """Return why NVDEC cannot take a dataset, in words that follow "nvdec: "; empty if it can.

    Args:
        parameters: the distinct codec parameters of its samples, which are avcC records if all are H.264 in MP4; None
            where they are not known, and then only videos encoded by `pack` itself are suitable.
        min_size, max_size: limits on (width, height) in pixels.
    """
    return _unsuitable_size(dataset, min_size, max_size) or _unsuitable_coding(dataset, parameters)


def _unsuitable_size(dataset: PackedDataset, min_size: tuple[int, int], max_size: tuple[int, int]) -> str:
    """Return what is wrong with the sizes: the table has those shown; coded ones are rounded up to multiples of 16."""
    coded = np.stack([dataset.widths, dataset.heights], 1) + 15 & ~15
    kept = dataset.kept
    for word, limit, outside in (("from", min_size, coded < min_size), ("up to", max_size, coded > max_size)):
        found = kept[outside[kept].any(1)]
        if len(found):
            first = int(found[0])
            size = f"{dataset.widths[first]} x {dataset.heights[first]}"
            return (
                f"{len(found)} video(s) of {dataset.location}, such as {dataset.key(first)} of {size} pixels, but this "
                f"GPU decodes H.264 {word} {limit[0]} x {limit[1]}"
            )
    return ""


def _unsuitable_coding(dataset: PackedDataset, parameters: Iterable[bytes] | None) -> str:
    if parameters is None:
        profile = dataset.manifest.profile
        if profile in _OWN_PROFILES:
            return ""
        return f"{dataset.location} has the profile {profile}, and no index that says how its videos are coded"
    for record in parameters:
        reason = _unsuitable_parameters(record)
        if reason:
            return f"{dataset.location} holds videos {reason}"
    return ""


def _unsuitable_parameters(record: bytes) -> str:
    """Return what is wrong with videos of these parameters."""
    try:
        sets = [parse_sequence_parameters(unit) for unit in parse_avcc(record).sequence_sets]
    except ValueError:
        return "that are not H.264 in MP4"
    for found in sets:
        if found.chroma_format != 1 or found.bit_depth != 8:
            return f"of {found.bit_depth} bits and chroma format {found.chroma_format}, not 8 bits of 4:2:0"
        if not _is_bt601(found):
            return "in BT.709 or other colours, which NVDEC's frames would be shown wrongly in: it takes all for BT.601"
        if found.is_interlaced:
            return "that may be interlaced"
        if found.is_reordered:
            return "whose frames may be stored in another order than they are shown in (B-frames)"
        if any(found.crop[:2]):
            return "whose frames are cut at the left or the top"
    return ""


def _is_bt601(parameters: SequenceParameters) -> bool:
    if parameters.matrix == UNSPECIFIED_MATRIX:
        return all(side <= limit for side, limit in zip(parameters.size, _LARGEST_GUESSED_BT601))
    return parameters.matrix in _BT601


@lru_cache(maxsize=4096)
def _uncropped(parameters: bytes) -> tuple[AvcRecord, int, int]:
    """Return the record of an avcC with nothing cropped, and the coded width and height. Raises ValueError."""
    record = parse_avcc(parameters)
    found = parse_sequence_parameters(record.sequence_sets[0])
    sets = tuple(without_cropping(unit) for unit in record.sequence_sets)
    return AvcRecord(record.length_size, sets, record.head, record.tail), found.coded_width, found.coded_height


def _access_unit(packet: bytes, length_size: int) -> tuple[bytes, bool]:
    """Return one picture with a delimiter in front, and whether it is a keyframe.

    The delimiter makes two pictures of two neighbouring packets that were not neighbours in the video: keyframes may
    then bear the same idr_pic_id, which is what else keeps them apart (7.4.1.2.4).
    """
    units, pictures, is_keyframe = [_DELIMITER], 0, False
    for unit in split_units(packet, length_size):
        kind = unit_type(unit)
        if kind == ACCESS_UNIT_DELIMITER:
            continue
        if kind == SEQUENCE_PARAMETERS:
            unit = without_cropping(unit)
        elif is_slice(unit):
            pictures += unit[1:2] >= b"\x80"  # first_mb_in_slice = 0, coded as a single one bit (7.3.3)
            is_keyframe = is_keyframe or kind == IDR_SLICE
        units.append(unit)
    if pictures != 1:
        raise ValueError(f"{pictures} pictures in it")
    return join_units(units, length_size), is_keyframe


def _mp4(samples: Sequence[bytes], keyframes: Sequence[int], avcc: bytes, width: int, height: int) -> bytes:
    """Return an MP4 of one track, one sample a tick, the media at its end (ISO/IEC 14496-12)."""
    count = len(samples)
    entry = struct.pack(">6xH16xHHIIIH32xHh", 1, width, height, 72 << 16, 72 << 16, 0, 1, 24, -1)
    tables = (
        _full_box(b"stsd", struct.pack(">I", 1) + _box(b"avc1", entry, _box(b"avcC", avcc))),
        _full_box(b"stts", struct.pack(">III", 1, count, 1)),
        _full_box(b"stss", struct.pack(f">I{len(keyframes)}I", len(keyframes), *keyframes)),
        _full_box(b"stsc", struct.pack(">IIII", 1, 1, count, 1)),
        _full_box(b"stsz", struct.pack(f">II{count}I", 0, count, *map(len, samples))),
    )
    head = _box(b"ftyp", b"isom\0\0\2\0isomavc1mp41")
    movie = _movie(tables, count, width, height)
    # Where the media begins, which is after all this, is the last number of the movie box.
    offset = struct.pack(">I", len(head) + len(movie) + 8)
    return b"".join((head, movie[:-4], offset, _box(b"mdat", *samples)))


def _movie(tables: Sequence[bytes], count: int, width: int, height: int) -> bytes:
    """Return the movie box, with the offset of the media left at 0."""
    sample_table = _box(b"stbl", *tables, _full_box(b"stco", struct.pack(">II", 1, 0)))
    information = _box(
        b"minf",
        _full_box(b"vmhd", bytes(8), flags=1),
        _box(b"dinf", _full_box(b"dref", struct.pack(">I", 1) + _full_box(b"url ", b"", flags=1))),
        sample_table,
    )
    media = _box(
        b"mdia",
        _full_box(b"mdhd", struct.pack(">8xIIHH", _TICKS_PER_SECOND, count, 0x55C4, 0)),
        _full_box(b"hdlr", b"\0\0\0\0vide" + bytes(13)),
        information,
    )
    track_header = struct.pack(">8xI4xI16x36sII", 1, count, _UNIT_MATRIX, width << 16, height << 16)
    movie_header = struct.pack(">8xIIIH10x36s24xI", _TICKS_PER_SECOND, count, 1 << 16, 0x100, _UNIT_MATRIX, 2)
    return _box(
        b"moov",
        _full_box(b"mvhd", movie_header),
        _box(b"trak", _full_box(b"tkhd", track_header, flags=3), media),
    )


def _box(kind: bytes, *content: bytes) -> bytes:
    return b"".join((struct.pack(">I4s", 8 + sum(map(len, content)), kind), *content))


def _full_box(kind: bytes, content: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", flags), content)
