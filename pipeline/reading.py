"""Byte ranges of shards, and the threads that read them (and on the CPU decode them) ahead of the graph."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np

from sharding.dataset import PackedDataset

Item = TypeVar("Item")


class SampleError(RuntimeError):
    """A sample that could not be read or decoded; names its shard and key and the command that checks the shards."""

    def __init__(self, dataset: PackedDataset, sample_id: int, reason: object):
        self.sample_id = sample_id
        shard = dataset.shard_path(dataset.shards[sample_id])
        super().__init__(f"{shard}, sample {dataset.key(sample_id)}: {reason}; {verify_command(dataset)}")


def verify_command(dataset: PackedDataset) -> str:
    """What a message about bad samples advises."""
    where = f"the folder that {dataset.location} was made from" if dataset.shard_source else dataset.directory
    return f"check the shards with: python -m sharding verify {where} --decode (--quarantine leaves bad samples out)"


def read_media(dataset: PackedDataset, sample_id: int) -> bytes:
    """The stored video of one sample, straight out of its shard.

    Raises:
        SampleError: the shard cannot be read or is shorter than its table says.
    """
    with _shard_of(dataset, sample_id) as shard:
        return read_range(shard, int(dataset.media_offsets[sample_id]), int(dataset.media_bytes[sample_id]))


def read_jpegs(dataset: PackedDataset, sample_id: int, frames: np.ndarray) -> list[np.ndarray]:
    """The JPEGs of the given frames (S,) of one sample, each (N,) uint8; of the rest only the index is read.

    Raises:
        SampleError: the shard cannot be read, or is shorter than, or not as, its table says.
    """
    with _shard_of(dataset, sample_id) as shard:
        index = read_range(shard, int(dataset.index_offsets[sample_id]), int(dataset.index_bytes[sample_id]))
        offsets = np.frombuffer(index, "<i4")
        if len(offsets) != dataset.num_frames[sample_id] + 1 or offsets[-1] != dataset.media_bytes[sample_id]:
            raise OSError("the index of frames does not fit the table")
        media = int(dataset.media_offsets[sample_id])
        size = int(dataset.heights[sample_id]), int(dataset.widths[sample_id])
        jpegs = {}
        for frame in sorted(set(frames.tolist())):
            data = read_range(shard, media + int(offsets[frame]), int(offsets[frame + 1] - offsets[frame]))
            if jpeg_size(data) != size:
                raise OSError(f"frame {frame} is damaged: no JPEG of {size[1]} x {size[0]} pixels")
            jpegs[frame] = np.frombuffer(data, np.uint8)
    return [jpegs[frame] for frame in frames.tolist()]


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as the header of a JPEG says; None if its segments do not lead from one to the next.

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
        # Any number of 0xFF may stand before a marker.
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


@contextmanager
def _shard_of(dataset: PackedDataset, sample_id: int) -> Iterator[int]:
    """The open shard of a sample.

    Shards are opened anew for each sample: that costs some ten microseconds, and however many shards a dataset has, no
    limit on open files is ever met.
    """
    try:
        shard = dataset.open_shard(int(dataset.shards[sample_id]))
        try:
            yield shard
        finally:
            os.close(shard)
    except OSError as error:
        raise SampleError(dataset, sample_id, error) from error


def read_range(file: int, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) of an open file.

    Raises:
        OSError: the file ends before.
    """
    data = os.pread(file, length, offset)
    while len(data) < length:  # one call returns at most 2 GiB
        more = os.pread(file, length - len(data), offset + len(data))
        if not more:
            raise OSError(f"the file ends at byte {offset + len(data)}, {length - len(data)} bytes early")
        data += more
    return data


class ReadAhead(Generic[Item]):
    """Batches of `read(item)`, in order, from a pool of threads that is at most `ahead` batches ahead."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        read: Callable[[Item], object],
        batches: Iterator[Sequence[Item]],
        ahead: int,
    ):
        self._pool, self._read, self._batches = pool, read, batches
        self._pending: deque[tuple[Sequence[Item], list[Future]]] = deque()
        for _ in range(ahead):
            self._submit()

    def next(self) -> tuple[Sequence[Item], Callable[[], list]]:
        """The items of the next batch, and what waits for their results, and raises what `read` raised of one.

        Raises:
            StopIteration: no batch is left.
        """
        if not self._pending:
            raise StopIteration
        items, futures = self._pending.popleft()
        self._submit()
        return items, lambda: [future.result() for future in futures]

    def cancel(self) -> None:
        """Drops what has not been asked for."""
        for _, futures in self._pending:
            for future in futures:
                future.cancel()
        self._pending.clear()

    def _submit(self) -> None:
        items = next(self._batches, None)
        if items is not None:
            self._pending.append((items, [self._pool.submit(self._read, item) for item in items]))
