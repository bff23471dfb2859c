"""Encodes the videos of archives that can only be read in their own order: one reads, several encode, all is spooled.

The plan says in which shards the videos belong, whatever their order here. What is spooled already is passed over, so
that a run that begins again reads an archive again, but encodes nothing twice.
"""

import contextlib
import posixpath
import queue
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sharding.errors import MediaError, UserError
from sharding.packing.progress import with_progress
from sharding.packing.sandbox import Request, Sandbox
from sharding.packing.shard import ShardResult, ShardTask, records_left
from sharding.packing.spool import PARTS, read_spooled, write_spooled
from sharding.packing.video_store import VideoStore
from sharding.records import VideoRecord

Job = tuple[ShardTask, VideoRecord]


def encode_streamed(store: VideoStore, tasks: Iterable[ShardTask], workers: int, on_cluster: bool = False) -> None:
    """Encode and spool what is streamed of the videos of unfinished shards.

    Raises:
        UserError: an archive is damaged, or not the one that was listed; or workers `on_cluster` are to encode.
        OSError: the disk is full.
    """
    jobs = _jobs(store, tasks)
    if jobs and on_cluster:
        raise UserError("--backend dask: a .tar.gz is read by one machine; pack without it, or unpack the archives")
    if jobs:
        with contextlib.closing(_results(store, jobs, workers)) as results:
            for _ in with_progress(results, sum(map(len, jobs.values()))):
                pass


def _jobs(store: VideoStore, tasks: Iterable[ShardTask]) -> dict[str, list[Job]]:
    """Return what is to be encoded of each video that is streamed, for shards that are not finished."""
    jobs: dict[str, list[Job]] = defaultdict(list)
    for task in tasks:
        if not any(store.is_streamed(record.source) for record in task.records):
            continue
        for record in records_left(task):
            if not store.is_streamed(record.source):
                continue
            known = read_spooled(task.directory, task.shard, record.key)
            if known is None or (isinstance(known, MediaError) and task.retry_failed):
                jobs[posixpath.normpath(record.source)].append((task, record))
    return dict(jobs)


def _results(store: VideoStore, jobs: Mapping[str, Sequence[Job]], workers: int) -> Generator[ShardResult, None, None]:
    """Read the archives once and spool what becomes of the videos; yield what became of each.

    At most `workers` + 2 videos are unpacked at a time.
    """
    task, _ = next(iter(jobs.values()))[0]
    work = Path(tempfile.mkdtemp(prefix="work-stream-", dir=task.directory / PARTS))
    boxes = [Sandbox(task.limits) for _ in range(workers)]
    idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
    for box in boxes:
        idle.put(box)
    free, stopping = threading.Semaphore(workers + 1), threading.Event()

    def encode(copy: Path | MediaError, wanted: Sequence[Job]) -> list[ShardResult]:
        box = idle.get()
        try:
            return list(_encode(box, copy, wanted, stopping))
        finally:
            idle.put(box)
            free.release()

    running: set[Future[list[ShardResult]]] = set()
    pool = ThreadPoolExecutor(workers)
    try:
        for source, copy in store.stream(list(jobs), work):
            free.acquire()
            running.add(pool.submit(encode, copy, jobs[source]))
            done = {future for future in running if future.done()}
            running -= done
            for future in done:
                yield from future.result()
        for future in running:
            yield from future.result()
    finally:
        stopping.set()
        for box in boxes:
            box.interrupt()
        pool.shutdown(cancel_futures=True)
        for box in boxes:
            box.close()
        shutil.rmtree(work, ignore_errors=True)


def _encode(
    box: Sandbox, copy: Path | MediaError, wanted: Sequence[Job], stopping: threading.Event
) -> Iterator[ShardResult]:
    """Spool each sample that a video gives, then remove its copy."""
    for number, (task, record) in enumerate(wanted, 1):
        if isinstance(copy, MediaError):
            outcome = copy
        else:
            request = Request(copy.parent, replace(record, source=copy.name), task.settings, copy.parent / "encoded")
            [outcome] = box.encode_all([request])
        if stopping.is_set():  # it was not the video's fault if it failed
            return
        is_source = not isinstance(outcome, MediaError) and outcome.media == copy
        keep_source = is_source and number < len(wanted)
        write_spooled(task.directory, task.shard, record.key, outcome, keep_source)
        failed = isinstance(outcome, MediaError)
        yield ShardResult(task.shard, samples=int(not failed), failures=int(failed), kept=False)
    if isinstance(copy, Path):
        shutil.rmtree(copy.parent, ignore_errors=True)
