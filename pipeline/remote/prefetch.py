"""Which shards are read next, and how many of them at a time: pure functions of the order of reading."""

from collections import Counter
from collections.abc import Collection

import numpy as np

_MAX_SAMPLES_AHEAD = 1 << 17


class PrefetchWindow:
    """The shards of the samples that are read next: of as many of them as `max_bytes` hold.

    Args:
        order: (N,) the shard of each sample, in the order of reading.
        sizes: (S,) bytes of each shard.
        max_bytes: not less than the largest shard.
    """

    def __init__(self, order: np.ndarray, sizes: np.ndarray, max_bytes: int):
        self._order, self._sizes, self._max_bytes = order, sizes, max_bytes
        self._start = self._stop = self._bytes = 0
        self._samples: Counter[int] = Counter()  # of each shard within [start, stop)

    def needed(self) -> Collection[int]:
        return self._samples.keys()

    def extend(self) -> list[int]:
        """Move the end on as far as it goes; return the shards that came in, in the order in which they are needed."""
        added = []
        while self._stop < min(len(self._order), self._start + _MAX_SAMPLES_AHEAD):
            shard = int(self._order[self._stop])
            if shard not in self._samples:
                if self._bytes + self._sizes[shard] > self._max_bytes:
                    break
                self._bytes += int(self._sizes[shard])
                added.append(shard)
            self._samples[shard] += 1
            self._stop += 1
        return added

    def advance(self) -> list[int]:
        """Leave the first sample behind; return the shards that came in at the end."""
        if self._start == self._stop:
            return []
        shard = int(self._order[self._start])
        self._start += 1
        self._samples[shard] -= 1
        if not self._samples[shard]:
            del self._samples[shard]
            self._bytes -= int(self._sizes[shard])
        return self.extend()


def peak_bytes(order: np.ndarray, sizes: np.ndarray) -> int:
    """Return the maximum of bytes in use at once, if a shard (of `sizes`) is in use from its first to its last sample.

    Orders (0, 0, 1, 1) of shards of one byte each need 1, orders (0, 1, 0, 1) need 2.
    """
    if not len(order):
        return 0
    num_samples = len(order)
    first, last = np.full(len(sizes), -1), np.zeros(len(sizes), np.int64)
    last[order] = np.arange(num_samples)  # of equal indices the last one counts
    first[order[::-1]] = np.arange(num_samples)[::-1]
    used = np.flatnonzero(first >= 0)
    change = np.zeros(num_samples + 1, np.int64)
    np.add.at(change, first[used], sizes[used])
    np.add.at(change, last[used] + 1, -sizes[used])
    return int(change.cumsum().max())
