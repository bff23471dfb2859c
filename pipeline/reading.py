"""Byte ranges of shards: the media of a sample, or only the packets of some of its frames."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sharding.dataset import PackedDataset
from sharding.errors import UserError
from sharding.manifest import KEYFRAME_INTERVALS
from sharding.video.frame_packets import packets_to_read


class SampleError(UserError):
    """A sample that could not be read or decoded; names its shard and key and the command that checks the shards."""

    exit_code = 1

    def __init__(self, dataset: PackedDataset, sample_id: int, reason: object):
        self.sample_id, self.reason = sample_id, str(reason)
        shard = dataset.shard_path(dataset.shards[sample_id])
        super().__init__(f"{shard}, sample {dataset.key(sample_id)}: {reason}; {verify_command(dataset)}")


def verify_command(dataset: PackedDataset) -> str:
    """Return what a message about bad samples advises."""
    where = f"the folder that {dataset.location} was made from" if dataset.shard_source else dataset.directory
    return f"check the shards with: python -m sharding verify {where} --decode (--quarantine leaves bad samples out)"


def read_media(dataset: PackedDataset, sample_id: int, shard: int | None = None) -> bytes:
    """Return the stored media of one sample, straight out of its shard; `shard` is an open file of it, if there is one.

    Raises:
        OSError: the shard cannot be read or is shorter than its table says.
    """
    with _shard_of(dataset, sample_id, shard) as file:
        return read_range(file, int(dataset.media_offsets[sample_id]), int(dataset.media_bytes[sample_id]))


def read_packets(
    dataset: PackedDataset, sample_id: int, frames: np.ndarray, shard: int | None = None
) -> list[tuple[int, bytes]]:
    """Return what is needed to decode the given frames (sorted, distinct), each packet with its frame's number.

    Of a dataset whose frames are all keyframes these are the packets of `frames`; else those from the keyframe before.
    Nothing else of the sample is read, but the index of frames of JPEGs packed before frames.npy existed.

    Raises:
        OSError: the shard cannot be read, or is shorter than, or not as, its table says.
    """
    interval = KEYFRAME_INTERVALS.get(dataset.manifest.profile, 1)
    with _shard_of(dataset, sample_id, shard) as file:
        offsets = dataset.frame_offsets(sample_id)
        if offsets is None:
            index = read_range(file, int(dataset.index_offsets[sample_id]), int(dataset.index_bytes[sample_id]))
            offsets = np.frombuffer(index[: len(index) // 4 * 4], "<i4")
        _check_offsets(offsets, int(dataset.num_frames[sample_id]), int(dataset.media_bytes[sample_id]))
        media, packets = int(dataset.media_offsets[sample_id]), []
        for first, last in packets_to_read(offsets, frames, interval):
            begin = int(offsets[first])
            data = read_range(file, media + begin, int(offsets[last]) - begin)
            ends = (offsets[first : last + 1] - begin).tolist()
            packets += [(first + n, data[ends[n] : ends[n + 1]]) for n in range(last - first)]
    return packets


def _check_offsets(offsets: np.ndarray, num_frames: int, num_bytes: int) -> None:
    """Raise OSError unless offsets (num_frames + 1) divide a part of `num_bytes` bytes into frames."""
    if len(offsets) != num_frames + 1 or offsets[0] < 0 or offsets[-1] > num_bytes or (np.diff(offsets) < 0).any():
        raise OSError("the index of frames does not fit the table")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) as the header of a JPEG says; None if its segments do not lead from one to the next.

    DALI's decoder raises an error for a picture that it cannot decode, but one with such a header can crash it.
    """
    size, place = None, 2
    if data[:2] != b"\xff\xd8":
        return None
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA:  # the picture itself begins
            return size
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            size = int.from_bytes(height, "big"), int.from_bytes(width, "big")
        # Any number of 0xFF may precede a marker.
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


@contextmanager
def _shard_of(dataset: PackedDataset, sample_id: int, shard: int | None) -> Iterator[int]:
    """Yield the open shard of a sample.

    Shards are opened again for each sample: that costs some ten microseconds, and however many shards a dataset has, no
    limit on open files is ever met.
    """
    if shard is not None:
        yield shard
        return
    shard = dataset.open_shard(int(dataset.shards[sample_id]))
    try:
        yield shard
    finally:
        os.close(shard)


def read_range(file: int, offset: int, length: int) -> bytes:
    """Return the bytes [offset, offset + length) of an open file; no memory is taken for what it does not have.

    Raises:
        OSError: the file ends before, or there are no such bytes.
    """
    if offset < 0 or length < 0:
        raise OSError(f"the table says {length} bytes from byte {offset} on")
    end = os.fstat(file).st_size
    if offset + length > end:
        raise OSError(f"the file ends at byte {end}, {offset + length - end} bytes early")
    data = os.pread(file, length, offset)
    while len(data) < length:  # one call returns at most 2 GiB
        more = os.pread(file, length - len(data), offset + len(data))
        if not more:
            raise OSError(f"the file ends at byte {offset + len(data)}, {length - len(data)} bytes early")
        data += more
    return data
