"""Who reads and decodes ahead of the graph: worker processes, or threads where there can be none.

    reader = open_reader("process", dataset, config, ...)
    reader.start(batches)           # (epoch, sample ids) of each batch, in order
    batch = reader.next()           # waits; batch.arrays are views of memory that stays as it is until
    reader.release(batch)           # this

Batches are put together in a ring of slots, so memory is bounded: when all slots are taken, nothing is read ahead.
"""

import collections
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pipeline.buffers import BatchLayout
from pipeline.clip_reader import ClipReader
from pipeline.config import DataConfig
from sharding.dataset import PackedDataset
from sharding.errors import MediaError

Batches = Iterator[tuple[int, np.ndarray]]
"""Of each batch the epoch and its sample ids, or draws of samples (`pipeline.class_sampling`)."""


@dataclass
class Batch:
    """A batch on its way: `arrays` hold all of its samples but those with `errors`."""

    epoch: int
    sample_ids: np.ndarray
    slot: int
    arrays: dict[str, np.ndarray]
    generation: int = 0
    """Which stream of batches it belongs to: counts the calls of `start`."""
    errors: dict[int, str] = field(default_factory=dict)
    """By position in the batch, why a sample is not there."""
    missing: int = 0
    """Samples that have neither come nor failed yet."""


@dataclass(frozen=True)
class ReaderSettings:
    """What batches are read by.

    Args:
        decoder, training, seed: as ClipReader takes them.
        layout: of a slot, which holds a batch.
        num_workers: processes or threads.
        num_slots: batches in memory at a time.
    """

    dataset: PackedDataset
    config: DataConfig
    decoder: str
    training: bool
    seed: int
    layout: BatchLayout
    num_workers: int
    num_slots: int


class BatchReader(ABC):
    """Reads batches ahead, into a ring of slots of memory."""

    @abstractmethod
    def start(self, batches: Batches) -> None:
        """Begin to read these batches, in order; those of before are dropped."""

    @abstractmethod
    def next(self) -> Batch:
        """Return the next batch when it is there.

        Raises:
            StopIteration: there is none left.
            UserError: such as a server that gives no shards.
        """

    @abstractmethod
    def release(self, batch: Batch) -> None:
        """Say that the arrays of a batch are not needed any more."""

    @abstractmethod
    def close(self) -> None:
        """Stop reading, and end what reads."""

    @property
    def process_ids(self) -> list[int]:
        """The processes that read; none where threads of this one do."""
        return []


class ThreadReader(BatchReader):
    """Reads in threads of this process, which share its interpreter lock."""

    def __init__(self, settings: ReaderSettings):
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.num_workers, thread_name_prefix="reading")
        self._local = threading.local()
        layout, num_slots = settings.layout, settings.num_slots
        memory = np.empty(num_slots * layout.num_bytes, np.uint8)
        self._slots = [layout.views(memory.data, number * layout.num_bytes) for number in range(num_slots)]
        self._free: list[int] = []
        self._pending: collections.deque[tuple[Batch, list[Future]]] = collections.deque()
        self._batches: Batches = iter(())

    def start(self, batches: Batches) -> None:
        self._drop()
        self._batches, self._free = batches, list(range(self._settings.num_slots))
        self._submit()

    def next(self) -> Batch:
        if not self._pending:
            raise StopIteration
        batch, futures = self._pending.popleft()
        for position, future in enumerate(futures):
            try:
                future.result()
            except (OSError, MediaError) as error:
                batch.errors[position] = str(error)
        return batch

    def release(self, batch: Batch) -> None:
        self._free.append(batch.slot)
        self._submit()

    def close(self) -> None:
        self._drop()
        self._pool.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        while self._free and (following := next(self._batches, None)) is not None:
            epoch, sample_ids = following
            slot = self._free.pop()
            futures = [
                self._pool.submit(self._read, sample_id, epoch, slot, position)
                for position, sample_id in enumerate(sample_ids.tolist())
            ]
            self._pending.append((Batch(epoch, sample_ids, slot, self._slots[slot]), futures))

    def _read(self, sample_id: int, epoch: int, slot: int, position: int) -> None:
        reader = getattr(self._local, "reader", None)
        if reader is None:
            s = self._settings
            reader = self._local.reader = ClipReader(s.dataset, s.config, s.decoder, s.training, s.seed)
        reader.read(sample_id, epoch, self._slots[slot], position)

    def _drop(self) -> None:
        """Wait until nothing writes into the slots."""
        futures = [future for _, futures in self._pending for future in futures]
        for future in futures:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                future.exception()
        self._pending.clear()
