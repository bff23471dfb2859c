"""Brings the videos of a shard to where they are encoded, those of object storage some ahead, so that nobody waits."""

import contextlib
import shutil
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sharding.errors import MediaError
from sharding.packing.video_store import VideoStore
from sharding.records import VideoRecord

Fetched = tuple[VideoRecord, Path | MediaError]


def fetch_all(videos: VideoStore, records: Iterable[VideoRecord], work: Path) -> Generator[Fetched, None, None]:
    """Yield each record with its file, in order; a copy in `work` is gone when the second one after it is asked for.

    As many videos as `videos.num_ahead` says are fetched before they are asked for; with 0, none is.

    Raises:
        UserError: the store cannot be reached.
        OSError: the disk is full.
    """
    numbered = enumerate(records)
    with _pool(videos.num_ahead) as pool:
        waiting: deque[tuple[VideoRecord, Future[Path | MediaError]]] = deque()
        for number, record in numbered:
            shutil.rmtree(work / f"source-{number - videos.num_ahead - 2}", ignore_errors=True)
            folder = work / f"source-{number}"
            if pool is None:
                yield record, _fetch(videos, record, folder)
                continue
            waiting.append((record, pool.submit(_fetch, videos, record, folder)))
            if len(waiting) > videos.num_ahead:
                record, future = waiting.popleft()
                yield record, future.result()
        for record, future in waiting:
            yield record, future.result()


@contextlib.contextmanager
def _pool(threads: int) -> Generator[ThreadPoolExecutor | None, None, None]:
    if not threads:
        yield None
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(videos: VideoStore, record: VideoRecord, folder: Path) -> Path | MediaError:
    folder.mkdir()
    try:
        return videos.fetch(record.source, folder)
    except MediaError as error:
        return error
