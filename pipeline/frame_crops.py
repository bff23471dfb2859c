"""Single frames in, normalised crops out: the graph of the loader for frames that come one after the other.

Each frame goes through it once, however many clips it is a part of.
"""

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from pipeline.config import DataConfig
from pipeline.crops import crop_window, is_scaled, view_boxes
from pipeline.dali_graph import ClipGraph, Inputs
from pipeline.graph_thread import GraphThread

_BATCH_FRAMES = 16


@dataclass(frozen=True)
class CroppedFrame:
    """The part of a frame that its crops are taken from."""

    pixels: np.ndarray
    """(h, w, 3) uint8: the pixels of `crop_window`."""
    height: int
    width: int
    """Of the complete frame."""


def cut_frame(picture: np.ndarray, config: DataConfig) -> CroppedFrame:
    """Return a copy of the part of a frame (H, W, 3) uint8 that the crops of an evaluation look at."""
    height, width = picture.shape[:2]
    top, left, bottom, right = _place(height, width, config).window.tolist()
    return CroppedFrame(np.ascontiguousarray(picture[top:bottom, left:right]), height, width)


@dataclass(frozen=True)
class _Place:
    """What the graph is fed for frames of one size, but for their pixels."""

    window: np.ndarray
    inputs: dict[str, np.ndarray]


@lru_cache(maxsize=16)
def _place(height: int, width: int, config: DataConfig) -> _Place:
    boxes, flips = view_boxes(height, width, config)
    window = crop_window(boxes, height, width, config.crop_size)
    space = np.maximum(window[2:] - window[:2] - config.crop_size, 1)
    inputs = {"scaled": np.array(is_scaled(boxes, config.crop_size))}
    for crop, (box, flip) in enumerate(zip(boxes, flips)):
        start = (box[:2] - window[:2]).astype(np.float32)
        inputs |= {f"start_{crop}": start, f"end_{crop}": (box[2:] - window[:2]).astype(np.float32)}
        inputs |= {f"place_{crop}": np.clip(start / space, 0, 1).astype(np.float32)}
        inputs |= {f"flip_{crop}": np.array(flip, np.int32)}
    return _Place(window, inputs)


class FrameCrops:
    """Turns frames into the crops of an evaluation, a batch ahead in a thread of its own.

    Args:
        config: sizes and test_crops.
        device: where the crops are wanted.
        num_threads: threads for the pixels.
    """

    def __init__(self, config: DataConfig, device: torch.device, num_threads: int):
        self.config, self.device, self._num_threads = config, device, num_threads
        self._graph: ClipGraph | None = None
        self._frames: Iterator[tuple[int, CroppedFrame | None]] = iter(())
        self._in_flight: deque[list[tuple[int, bool]]] = deque()
        self._lost: deque[int] = deque()
        """Frames that are lost and not yet passed on."""

    def __call__(
        self, frames: Iterator[tuple[int, CroppedFrame | None]]
    ) -> Generator[tuple[int, torch.Tensor | None], None, None]:
        """Yield (number, crops) for each (number, frame), in order: crops are (C, crop, crop, 3) float32, normalised.

        A frame that is None comes out as None. `frames` is advanced in another thread.
        """
        self._frames = frames
        self._lost.clear()
        self._in_flight.clear()
        graph = self._graph or self._build()
        self._graph = None  # until it has come to its end it is of no further use
        thread = GraphThread(lambda: (graph.run(), self._in_flight.popleft()))
        try:
            while True:
                try:
                    outputs, numbers = thread.next()
                except StopIteration:
                    break
                crops = torch.stack([torch.from_dlpack(crop)[:, 0] for crop in outputs], 1)
                place = 0
                for number, is_seen in numbers:
                    yield number, crops[place] if is_seen else None
                    place += is_seen
        finally:
            thread.stop()
        graph.reset()
        self._graph = graph
        yield from ((number, None) for number in self._lost)

    def _build(self) -> ClipGraph:
        crops = self.config.test_crops
        statistics = self.config.pixel_mean, self.config.pixel_std
        size = _BATCH_FRAMES, self.config.crop_size
        return ClipGraph(self._next_inputs, "pyav", *size, *statistics, self.device, self._num_threads, crops)

    def _next_inputs(self) -> Inputs:
        """Return the next frames; the graph's source."""
        numbers: list[tuple[int, bool]] = [(number, False) for number in self._lost]
        self._lost.clear()
        seen: list[CroppedFrame] = []
        while len(seen) < _BATCH_FRAMES:
            entry = next(self._frames, None)
            if entry is None:
                break
            numbers.append((entry[0], entry[1] is not None))
            if entry[1] is not None:
                seen.append(entry[1])
        if not seen:
            self._lost.extend(number for number, _ in numbers)
            raise StopIteration
        self._in_flight.append(numbers)
        places = [_place(frame.height, frame.width, self.config).inputs for frame in seen]
        inputs: Inputs = {name: np.stack([place[name] for place in places]) for name in places[0]}
        return inputs | {"media": [frame.pixels[None] for frame in seen]}
