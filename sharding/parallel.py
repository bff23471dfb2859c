"""Worker processes of joblib that Ctrl-C and a killed parent end as if they were one process with it."""

import multiprocessing.resource_tracker
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import cache
from typing import Any, TypeVar, cast

import joblib
import joblib.externals.loky.backend.resource_tracker

from sharding.errors import WorkerKilledError

Task = TypeVar("Task")
Result = TypeVar("Result")

_SECONDS_BETWEEN_LOOKS = 1.0


def run_in_workers(
    function: Callable[[Task], Result], tasks: Iterable[Task], num_workers: int, ordered: bool = True
) -> Generator[Result, None, None]:
    """Return a generator of the results of `function`, whose workers are being started; errors are raised from it,
    WorkerKilledError among them.

    Args:
        function: can be pickled, as can each task and result.
        tasks: one argument each.
        num_workers: processes of the backend that is configured; with 1, this process works itself.
        ordered: give results in the order of the tasks, else as they come.
    """
    # What joblib says when it is closed early, as by Ctrl-C.
    warnings.filterwarnings("ignore", message=".*tasks which were still being processed", category=UserWarning)
    parallel = joblib.Parallel(
        n_jobs=num_workers,
        return_as="generator" if ordered else "generator_unordered",
        batch_size=1,  # pyright: ignore[reportArgumentType]  # joblib infers str from its default, "auto"
    )
    parent = os.getpid()
    with _without_ctrl_c(), _killed_workers():  # workers start here
        return _results(cast(Any, parallel(joblib.delayed(_work)(parent, function, task) for task in tasks)))


def _results(results: Generator[Result, None, None]) -> Generator[Result, None, None]:
    with _killed_workers(), closing(results):
        yield from results


@contextmanager
def _killed_workers() -> Iterator[None]:
    """Say in words that a worker was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerKilledError(
            "a worker process was killed, perhaps for want of memory; run it again, with fewer --workers"
        ) from error


def _work(parent: int, function: Callable[[Task], Result], task: Task) -> Result:
    if os.getppid() == parent:
        _end_with(parent)
    return function(task)


@cache
def _end_with(parent: int) -> None:
    """End this process when its parent has died; its own children see the end of their input."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Let processes that are started within never see Ctrl-C, which a terminal sends to all of them.

    This process learns of it afterwards, and ends them.
    """
    # They are started with the first workers, and then let signals through again.
    for tracker in (multiprocessing.resource_tracker, joblib.externals.loky.backend.resource_tracker):
        tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
