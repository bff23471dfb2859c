"""How long a device had nothing to do between two steps: by the clock on a CPU, by events of its stream on a GPU."""

import time

import torch


class StallTimer:
    """Time between the end of a step's work and the beginning of the next step's, added up.

    On a GPU the host runs ahead of the stream, so the host's waiting says nothing. An event is recorded behind the last
    kernel of a step and another one before the first kernel of the next. The time between them is the time in which the
    stream was idle, or waited for the batch. Only `take` reads the events, and so waits for the device.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._pairs: list[tuple] = []
        self._ended: float | torch.cuda.Event | None = None

    def step_ended(self) -> None:
        """Note that everything that the step does has been launched."""
        self._ended = self._now()

    def step_begins(self) -> None:
        """Note that the batch is at hand; what follows computes."""
        self._pairs.append((self._ended, self._now()))

    def take(self) -> float:
        """Return the seconds since the last call, and begin again."""
        pairs, self._pairs = self._pairs, []
        if not self._on_gpu:
            return sum(began - ended for ended, began in pairs)
        if pairs:
            pairs[-1][1].synchronize()
        return sum(ended.elapsed_time(began) for ended, began in pairs) / 1000  # from milliseconds

    def _now(self) -> "float | torch.cuda.Event":
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
