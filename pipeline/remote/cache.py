"""The shards of remote datasets on the local disk: fetched when or before they are needed, checked, within bounds."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.cores import ranks_of_machine
from pipeline.remote.eviction import (
    evict,
    find_entries,
    is_recorded,
    lock_of,
    partial_of,
    record_use,
    record_whole,
)
from pipeline.remote.prefetch import PrefetchWindow, peak_bytes
from pipeline.remote.transport import RemoteError, RemoteFolder
from sharding.errors import UserError
from sharding.files import file_sha256, locked
from sharding.manifest import Shard

logger = logging.getLogger(__name__)

_WAIT_FOR_ROOM_SECONDS = 0.25


class ShardCache:
    """The shards of one remote dataset, each fetched when it is first needed, or before.

    A shard in the folder is taken for complete if its size and time are those recorded when it was hashed; one without
    that record, such as one that was copied there, is hashed once. Nothing else is ever hashed again.

    Args:
        remote: where the shards are.
        directory: a folder named by the dataset's fingerprint. The folder above it is the cache, which may be shared by
            any number of datasets and processes.
        shards: of the manifest.
        cache_bytes: maximum of shards in the cache, complete and begun; what was not used for longest goes first.
        threads: that fetch ahead.

    Raises:
        UserError: the bound is smaller than a shard, or the disk has less space.
    """

    def __init__(
        self, remote: RemoteFolder, directory: Path, shards: Sequence[Shard], cache_bytes: int, threads: int = 4
    ):
        self.remote, self.directory, self.shards = remote, directory, shards
        self.cache_bytes, self.threads = cache_bytes, threads
        self._check()
        self._sizes = np.array([shard.bytes for shard in shards], np.int64)
        self._paths = [directory / shard.name for shard in shards]
        self._seen: set[int] = set()  # once complete, for this process
        self._failed: dict[int, tuple[float, RemoteError]] = {}
        self._mutex = threading.Lock()  # guards what follows
        self._window = PrefetchWindow(np.empty(0, np.int32), self._sizes, cache_bytes)
        self._queue: deque[int] = deque()
        self._num_workers = 0

    def __reduce__(self):
        return ShardCache, (self.remote, self.directory, self.shards, self.cache_bytes, self.threads)

    @property
    def location(self) -> str:
        return str(self.remote)

    def open(self, shard: int) -> int:
        """Return a new file descriptor of a shard, which is fetched if it is not here; the caller closes it.

        Raises:
            RemoteError: it could not be fetched.
            UserError: the cache cannot be written.
        """
        file = self._open_seen(shard)
        if file is None:
            file = self._open_new(shard)
        with self._mutex:
            self._queue.extend(self._window.advance())
            self._start_workers()
        return file

    def prefetch(self, order: np.ndarray, then: np.ndarray | None = None) -> None:
        """Begin to fetch shards ahead of the reading, as far as the cache has space; replaces what was begun.

        Each `open` from now on counts as the next sample of the order. No shard that is fetched ahead drives out one
        that is needed sooner; a shard that is needed now is fetched at once, by whoever needs it.

        Args:
            order: (N,) the shard of each sample to be read, in the order of reading.
            then: (M,) the same for what is read after that, such as the next epoch.
        """
        self.remote.restart()  # another loader of this dataset may have been closed
        peak, room = peak_bytes(order, self._sizes), self._room_of_rank()
        if peak > room:
            logger.warning(
                "%s: the order of reading needs %.3g GB of shards at a time, but the cache holds %.3g GB for it, so "
                "shards are fetched again and again; shuffle in blocks, or let the cache be larger",
                *(self.location, peak / 1e9, room / 1e9),
            )
        order = order if then is None else np.concatenate([order, then])
        with self._mutex:
            self._window = PrefetchWindow(order, self._sizes, room)
            self._queue = deque(self._window.extend())
            self._start_workers()

    def close(self) -> None:
        """End what is being fetched, at its next block; what was fetched stays."""
        self.remote.stop()

    def _room_of_rank(self) -> int:
        """Return the bytes of the cache that this rank may fill: all where the dataset fits, else its share of them, as
        the ranks of a machine read different shards and would drive out each other's."""
        if self._sizes.sum() <= self.cache_bytes:
            return self.cache_bytes
        return max(self.cache_bytes // ranks_of_machine(), int(self._sizes.max(initial=0)))

    def _check(self) -> None:
        largest = max((shard.bytes for shard in self.shards), default=0)
        if self.cache_bytes < largest:
            raise UserError(
                f"{self.remote}: a cache of {self.cache_bytes:,} bytes cannot hold a shard of {largest:,}; "
                "let the cache be larger"
            )
        root = self.directory.parent
        with locked(root / ".lock"):
            evict(root, 0, self.cache_bytes, keep=(), sparing=False)  # the bound may have been larger before
        held = sum(entry.num_bytes for entry in find_entries(root))
        disk = os.statvfs(root)
        room, wanted = held + disk.f_bavail * disk.f_frsize, sum(shard.bytes for shard in self.shards)
        if min(wanted, self.cache_bytes) > room:
            raise UserError(
                f"{root}: the disk has room for {room:,} bytes of shards, but the cache may take {self.cache_bytes:,} "
                f"and the dataset {wanted:,}; let the cache be smaller, or put it on another disk"
            )

    def _open_seen(self, shard: int) -> int | None:
        """Open a shard that was complete before, unless it has been removed since."""
        if shard not in self._seen:
            return None
        path = self._paths[shard]
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        record_use(path)
        return file

    def _open_new(self, shard: int) -> int:
        """Open a shard after completing it."""
        asked, path = time.monotonic(), self._paths[shard]
        with self._cache_errors(shard), locked(lock_of(path)):
            failed, error = self._failed.get(shard, (0.0, None))
            if error is not None and failed > asked:  # while this thread waited for the lock
                raise type(error)(str(error))
            self._make_whole(shard, ahead=False)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # while it is locked it is not removed

    def _fetch_ahead(self, shard: int) -> bool:
        """Complete a shard, unless others do just now; False if there is no space for it yet."""
        with self._cache_errors(shard), locked(lock_of(self._paths[shard]), wait=False) as free:
            return not free or self._make_whole(shard, ahead=True)

    @contextlib.contextmanager
    def _cache_errors(self, shard: int) -> Iterator[None]:
        """Let no error of the cache's disk look like one of a sample."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{error.filename or self._paths[shard]}: {error.strerror}; the cache must be on a disk that can be "
                f"written and has room for {self.cache_bytes:,} bytes"
            ) from error

    def _make_whole(self, shard: int, *, ahead: bool) -> bool:
        """Fetch a shard, which the caller has locked, if it is not here; False if there is no space yet."""
        if not self._is_whole(shard):
            partial = self._reserve(shard, ahead)
            if partial is None:
                return False
            try:
                self._fetch(shard, partial)
            except RemoteError as error:
                self._failed[shard] = time.monotonic(), error
                raise
        self._seen.add(shard)
        record_use(self._paths[shard])
        return True

    def _is_whole(self, shard: int) -> bool:
        """Return whether a shard is here and as the manifest says; if it is here and is not, it is removed."""
        path, expected = self._paths[shard], self.shards[shard]
        try:
            num_bytes = path.stat().st_size
        except FileNotFoundError:
            return False
        if num_bytes == expected.bytes:
            if is_recorded(path, expected):
                return True
            if file_sha256(path) == expected.sha256:
                record_whole(path, expected)
                return True
        path.unlink()
        return False

    def _reserve(self, shard: int, ahead: bool) -> Path | None:
        """Return the file to fetch a shard into, empty or begun, when there is space for all of it."""
        path, num_bytes = self._paths[shard], self.shards[shard].bytes
        partial = partial_of(path, num_bytes)
        root = self.directory.parent
        while True:
            with self._mutex:
                keep = {self._paths[needed] for needed in self._window.needed()}
            with locked(root / ".lock"):
                if partial.exists() or evict(root, num_bytes, self.cache_bytes, keep, sparing=ahead):
                    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
                    return partial
            if ahead:
                return None
            # All else in the cache is being fetched just now; what is finished first can be removed.
            if self.remote.is_stopped(_WAIT_FOR_ROOM_SECONDS):
                raise RemoteError(f"{self.remote.name_of(path.name)}: not fetched, because this run ends")

    def _fetch(self, shard: int, partial: Path) -> None:
        path, expected = self._paths[shard], self.shards[shard]
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "r+b") as file:
            self.remote.download(expected.name, file, num_bytes=expected.bytes, digest=expected.sha256)
            file.flush()
            os.fsync(file.fileno())  # the record must not outlive the bytes in a power failure
        with locked(self.directory.parent / ".lock"):  # who counts what is there finds it under one of the two names
            partial.replace(path)
        record_whole(path, expected)

    def _start_workers(self) -> None:
        while self._num_workers < min(self.threads, len(self._queue)):
            self._num_workers += 1
            # A daemon, so that no process has to wait for shards that it will not read; the next one continues.
            threading.Thread(target=self._work, name="prefetching", daemon=True).start()

    def _work(self) -> None:
        """Fetch what is queued, and end when nothing is."""
        while True:
            with self._mutex:
                if not self._queue or self.remote.is_stopped():
                    self._num_workers -= 1
                    return
                shard = self._queue.popleft()
                if shard not in self._window.needed():
                    continue
            try:
                if self._fetch_ahead(shard):
                    continue
            except UserError as error:
                logger.info("not fetched ahead: %s", error)  # whoever reads the shard tries again, and says so
                continue
            with self._mutex:
                self._queue.appendleft(shard)
            self.remote.is_stopped(_WAIT_FOR_ROOM_SECONDS)
