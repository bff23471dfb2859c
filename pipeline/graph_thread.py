"""Runs the graph a batch ahead, in a thread, so that the thread that trains only takes what is ready."""

import queue
import threading
from collections.abc import Callable
from typing import Any


class GraphThread:
    """Calls `run` again and again, at most one result ahead of what was taken.

    Args:
        run: gives a result; raises StopIteration at the end, or what is to be raised where the result would be taken.
    """

    def __init__(self, run: Callable[[], Any]):
        self._run = run
        self._results: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(1)
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="graph", daemon=True)
        self._thread.start()

    def next(self) -> Any:
        """Return the next result, or raise what `run` raised; after that there is none."""
        result, error = self._results.get()
        if error is not None:
            self._results.put((None, error))
            raise error
        return result

    def stop(self) -> None:
        """End the thread, which may be in `run` for a while yet; what it gives is dropped."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._results.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _work(self) -> None:
        while not self._stopped:
            try:
                self._results.put((self._run(), None))
            except BaseException as error:
                self._results.put((None, error))
                return
