"""Byte ranges of shards, and the threads that read them (and on the CPU decode them) ahead of the graph."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from sharding.manifest import PackedDataset

Item = TypeVar("Item")


class SampleError(RuntimeError):
    """A sample that could not be read or decoded; names its shard and key and the command that checks the shards."""

    def __init__(self, dataset: PackedDataset, sample_id: int, reason: object):
        shard = dataset.shard_path(dataset.shards[sample_id])
        super().__init__(
            f"{shard}, sample {dataset.key(sample_id)}: {reason}; "
            f"check the shards with: python -m sharding verify {dataset.directory} --decode"
        )


def read_media(dataset: PackedDataset, sample_id: int) -> bytes:
    """The stored video of one sample, straight out of its shard.

    The shard is opened anew each time: that costs some ten microseconds, and however many shards a dataset has, no
    limit on open files is ever met.

    Raises:
        SampleError: the shard cannot be read or is shorter than its table says.
    """
    path = dataset.shard_path(dataset.shards[sample_id])
    try:
        return read_range(path, int(dataset.media_offsets[sample_id]), int(dataset.media_bytes[sample_id]))
    except OSError as error:
        raise SampleError(dataset, sample_id, error) from error


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) of a file.

    Raises:
        OSError: the file cannot be read or ends before.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, length, offset)
        while len(data) < length:  # one call returns at most 2 GiB
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                raise OSError(f"the file ends at byte {offset + len(data)}, {length - len(data)} bytes early")
            data += more
        return data
    finally:
        os.close(descriptor)


class ReadAhead(Generic[Item]):
    """Batches of `read(item)`, in order, from a pool of threads that is at most `ahead` batches ahead.

    Calling it gives the next (items, results), or raises StopIteration at the end; an error of `read` is raised where
    the batch it belongs to is asked for.
    """

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

    def __call__(self) -> tuple[Sequence[Item], list]:
        if not self._pending:
            raise StopIteration
        items, futures = self._pending.popleft()
        self._submit()
        return items, [future.result() for future in futures]

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
