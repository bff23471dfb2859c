"""Worker processes, from the side of the one that wants the batches: who has which task, and what if one dies."""

import collections
import contextlib
import json
import logging
import mmap
import os
import select
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np

from pipeline.class_sampling import sample_ids_of
from pipeline.worker import HEAD, MAX_MESSAGE_BYTES, share_columns
from pipeline.workers import Batch, Batches, BatchReader, ReaderSettings
from sharding.errors import UserError
from sharding.modules import module_command, module_environment

log = logging.getLogger("pipeline.workers")

_MAX_DEATHS = 20  # that no sample is to blame for; how many of those a run bears, data.max_bad_samples says
_MAX_TASK_SAMPLES = 8
_TASKS_HELD = 2  # by a worker: one that it works on, and one that it finds when it is done


@dataclass
class _Task:
    """Samples of a batch at positions from `first` on, for one worker."""

    batch: Batch
    first: int
    sample_ids: list[int]
    files: list[int] = field(default_factory=list)
    """Open files of their shards, if this process opens them."""


class _Worker:
    """A worker process and the tasks that it holds."""

    def __init__(self, number: int, process: subprocess.Popen, tasks: socket.socket):
        self.number, self.process, self.socket = number, process, tasks
        self.held: collections.deque[_Task] = collections.deque()
        self.since = time.monotonic()
        """When it began with the first of them."""


class ProcessReader(BatchReader):
    """Reads in worker processes, which put what they read into memory shared with this one.

    One thread hands out tasks and takes replies; of a remote dataset, another opens the shards, which may have to be
    fetched. A worker that dies, or takes longer than `data.worker_timeout_seconds` for a sample, is named with the
    sample it was at, which then counts as bad; another worker takes its place.

    Raises:
        OSError: there is no memory to share.
    """

    def __init__(self, settings: ReaderSettings):
        self._settings = settings
        layout, num_slots, dataset = settings.layout, settings.num_slots, settings.dataset
        self._slot_bytes = -(-layout.num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory_file = os.memfd_create("vpsn-batches")
        # Pages take memory when they are first written: a bound that no window reaches costs nothing.
        os.ftruncate(self._memory_file, self._slot_bytes * num_slots)
        memory = mmap.mmap(self._memory_file, 0)
        self._slots = [layout.views(memory, number * self._slot_bytes) for number in range(num_slots)]
        self._status_file = os.memfd_create("vpsn-status")
        os.ftruncate(self._status_file, 8 * settings.num_workers)
        self._status = np.ndarray(settings.num_workers, "i8", mmap.mmap(self._status_file, 0))
        """Of each worker the sample that it is at, plus one, or zero."""
        self._table_file, self._columns = share_columns(dataset)
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._workers: list[_Worker] = []
        self._deaths = self._generation = 0
        self._deadly: set[int] = set()
        """Samples at which a worker has died."""
        self._closed = False
        self._changed = threading.Condition(threading.RLock())
        """Held for whatever follows."""
        self._free: list[int] = []
        self._order: collections.deque[Batch] = collections.deque()
        """Batches begun, in the order in which they are wanted."""
        self._tasks: collections.deque[_Task] = collections.deque()
        """Not given to a worker yet."""
        self._batches: Batches | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="opening") if dataset.shard_source else None
        self._may_open = threading.Semaphore(2 * settings.num_workers + 2)
        """Tasks whose shards may be open at a time."""

    def start(self, batches: Batches) -> None:
        with self._changed:
            self._generation += 1
            self._drop_tasks()
            busy = {task.batch.slot for worker in self._workers for task in worker.held}
            self._order.clear()
            self._free = [slot for slot in range(self._settings.num_slots) if slot not in busy]
            self._batches, self._error = batches, None
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="workers", daemon=True)
            self._thread.start()
        self._signal()

    def next(self) -> Batch:
        with self._changed:
            while True:
                if self._order and not self._order[0].missing:
                    return self._order.popleft()
                if self._error is not None:
                    raise self._error
                if not self._order and self._batches is None:
                    raise StopIteration
                self._changed.wait()

    def release(self, batch: Batch) -> None:
        with self._changed:
            if batch.generation == self._generation:
                self._free.append(batch.slot)
        self._signal()

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._drop_tasks()
            self._error = self._error or RuntimeError("the loader was closed")
            self._changed.notify_all()
        self._signal()
        if self._opener is not None:
            self._opener.shutdown(cancel_futures=True)
        if self._thread is not None:
            self._thread.join()
        for worker in self._workers:
            self._end(worker)
        self._workers.clear()
        with self._changed:  # whoever still releases a batch finds them closed
            woken, self._woken = self._woken, -1
            for file in (self._memory_file, self._status_file, self._table_file, self._wake, woken):
                os.close(file)

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def _run(self) -> None:
        """Hand out tasks and take replies, in a thread, until closed."""
        try:
            if not self._workers:
                self._workers = [self._spawn(number) for number in range(self._settings.num_workers)]
            while not self._closed:
                with self._changed:
                    self._begin_batches()
                self._give_tasks()
                self._wait()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _begin_batches(self) -> None:
        """Cut into tasks what fits into the free slots."""
        while self._free and self._batches is not None:
            following = next(self._batches, None)
            if following is None:
                self._batches = None
                self._changed.notify_all()
                return
            epoch, sample_ids = following
            slot, ids = self._free.pop(), sample_ids.tolist()
            arrays = self._slots[slot]
            arrays["done"][:] = 0
            batch = Batch(epoch, sample_ids, slot, arrays, self._generation, missing=len(ids))
            self._order.append(batch)
            size = min(_MAX_TASK_SAMPLES, max(1, len(ids) // (2 * self._settings.num_workers)))
            for first in range(0, len(ids), size):
                self._queue(_Task(batch, first, ids[first : first + size]))

    def _queue(self, task: _Task, first: bool = False) -> None:
        """Let a task wait for a worker, behind the others or before them."""
        if self._opener is not None:
            self._opener.submit(self._open, task)
        elif first:
            self._tasks.appendleft(task)
        else:
            self._tasks.append(task)

    def _open(self, task: _Task) -> None:
        """Open the shards of a task of a remote dataset; the cache fetches those that it has not got."""
        dataset = self._settings.dataset
        self._may_open.acquire()
        try:
            for draw in task.sample_ids if task.batch.generation == self._generation else ():
                task.files.append(dataset.open_shard(int(dataset.shards[sample_ids_of(draw)])))
        except Exception as error:
            self._forget(task)
            if task.batch.generation == self._generation and not self._closed:
                words = f"{dataset.location}: a shard cannot be opened: {error}"
                self._fail(UserError(words) if isinstance(error, OSError) else error)
            return
        with self._changed:
            if task.batch.generation == self._generation and not self._closed:
                self._tasks.append(task)
            else:
                self._forget(task)
        self._signal()

    def _give_tasks(self) -> None:
        """Hand tasks to the workers that hold the fewest."""
        while True:
            worker = min(self._workers, key=lambda worker: len(worker.held))
            with self._changed:
                if not self._tasks or len(worker.held) >= _TASKS_HELD:
                    return
                task = self._tasks.popleft()
                if not worker.held:
                    worker.since = time.monotonic()
                worker.held.append(task)
            numbers = [task.batch.slot, task.batch.generation, task.batch.epoch, task.first, *task.sample_ids]
            try:
                socket.send_fds(worker.socket, [np.array(numbers, "i8").tobytes()], task.files)
                dead = False
            except ConnectionError:
                dead = True
            self._forget(task)
            if dead:
                self._bury(worker)

    def _wait(self) -> None:
        """Wait for replies, for something new to do, or for a worker to take too long."""
        for file, _ in self._poll.poll(1000):
            if file == self._wake:
                os.read(self._wake, 4096)
            elif worker := next((each for each in self._workers if each.socket.fileno() == file), None):
                self._take_reply(worker)
        limit, now = self._settings.config.worker_timeout_seconds, time.monotonic()
        for worker in list(self._workers):
            if worker.held and now - worker.since > limit * len(worker.held[0].sample_ids):
                worker.process.kill()
                self._bury(worker, f"took longer than data.worker_timeout_seconds={limit:g}")

    def _take_reply(self, worker: _Worker) -> None:
        try:
            data = worker.socket.recv(MAX_MESSAGE_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            self._bury(worker)
            return
        count = int(np.frombuffer(data[: 8 * (HEAD + 1)], "i8")[HEAD])
        with self._changed:
            worker.since = time.monotonic()
            self._settle(worker.held.popleft(), count, data[8 * (HEAD + 1) :].decode(errors="replace"))

    def _settle(self, task: _Task, count: int, words: str) -> None:
        """Note what came of a task: `count` samples, and what was wrong with the one after them, if it is not all."""
        batch = task.batch
        if batch.generation != self._generation:  # of a stream that was dropped: only its slot counts
            held = any(held.batch.slot == batch.slot for worker in self._workers for held in worker.held)
            if not held and batch.slot not in self._free:  # a worker that died may have held two tasks of it
                self._free.append(batch.slot)
            return
        batch.missing -= count
        if count < len(task.sample_ids):
            batch.missing -= 1
            batch.errors[task.first + count] = words
            if rest := task.sample_ids[count + 1 :]:
                self._queue(_Task(batch, task.first + count + 1, rest), first=True)
        if not batch.missing:
            self._changed.notify_all()

    def _bury(self, worker: _Worker, why: str = "") -> None:
        """Replace a worker that has died; the sample it was at is bad, the others that it held go to others."""
        code = worker.process.wait()
        why = why or (f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}")
        draw = int(self._status[worker.number]) - 1
        self._status[worker.number] = 0
        self._end(worker)
        self._workers.remove(worker)
        sample_id = int(sample_ids_of(draw)) if draw >= 0 else -1
        self._deaths += sample_id < 0 or sample_id in self._deadly
        self._deadly.add(sample_id)
        at = f"at sample {self._settings.dataset.key(sample_id)}" if draw >= 0 else "between samples"
        log.error("loader worker %d (process %d) %s, %s", worker.number, worker.process.pid, why, at)
        if self._deaths > _MAX_DEATHS:
            raise RuntimeError(f"loader worker {worker.number} {why}, {at}; {self._deaths} have ended so far")
        with self._changed:
            held, worker.held = list(worker.held), collections.deque()
            for number, task in reversed(list(enumerate(held))):
                done = task.batch.arrays["done"][task.first : task.first + len(task.sample_ids)]
                count = int(np.append(done, 0).argmin())
                at_work = number == 0 and count < len(done) and task.sample_ids[count] == draw
                if at_work or task.batch.generation != self._generation:
                    self._settle(task, count, f"the worker process that read it {why}")
                else:
                    self._queue(_Task(task.batch, task.first, task.sample_ids), first=True)
        self._workers.append(self._spawn(worker.number))

    def _spawn(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s = self._settings
        files = {"memory": self._memory_file, "status": self._status_file, "table": self._table_file}
        files["socket"] = theirs.fileno()
        setup = files | {
            "layout": s.layout.to_dict(),
            "slot_bytes": self._slot_bytes,
            "num_slots": s.num_slots,
            "worker": number,
            "columns": self._columns,
            "directory": str(s.dataset.directory.absolute()),
            "config": asdict(s.config),
            "decoder": s.decoder,
            "training": s.training,
            "seed": s.seed,
        }
        environment = module_environment() | {"OMP_NUM_THREADS": "1"}  # it keeps to one core
        command = module_command("pipeline.worker")
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=tuple(files.values()), env=environment)
        theirs.close()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # its end is noticed by its socket
            pipe.write(json.dumps(setup).encode() + b"\n")
        self._poll.register(ours, select.POLLIN)
        return _Worker(number, process, ours)

    def _end(self, worker: _Worker) -> None:
        self._poll.unregister(worker.socket)
        worker.socket.close()
        worker.process.kill()
        worker.process.wait()

    def _drop_tasks(self) -> None:
        while self._tasks:
            self._forget(self._tasks.popleft())

    def _forget(self, task: _Task) -> None:
        """Close the files of a task that were opened for it."""
        if self._opener is None:
            return
        for file in task.files:
            os.close(file)
        task.files = []
        self._may_open.release()

    def _signal(self) -> None:
        with self._changed, contextlib.suppress(BlockingIOError):  # it has not even read those before
            if self._woken >= 0:
                os.write(self._woken, b"x")
