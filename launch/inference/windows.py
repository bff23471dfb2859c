"""Windows of a long video: when they begin, and which frames a network sees of each. Pure functions.

A window is treated as evaluation treats a video: it is what packing the part [start, end) of the file, and reading that
as the run's evaluation does, would give.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.config import DataConfig
from pipeline.plan import evaluation_frames
from sharding.errors import UserError
from sharding.video.encode import choose_frames

_EPSILON = 1e-6
_MOST_WINDOWS = 1_000_000
"""Seconds; times in files are rounded."""


@dataclass(frozen=True)
class WindowOptions:
    """How a video is cut into windows."""

    window: float
    """Length in seconds."""
    stride: float
    """Seconds from the beginning of a window to that of the next."""
    cover_end: bool = True
    """Whether a last window that would reach over the end is moved back to end there; else it is left out."""

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UserError(f"--{name} {value:g}: use seconds, more than 0")


@dataclass(frozen=True)
class Window:
    """A part [start, end) of a video, in seconds, and the frames that are seen of it."""

    start: float
    end: float
    frames: np.ndarray
    """(K * T,) int32 frame numbers of its K clips, one after the other."""


def window_starts(duration: float, options: WindowOptions) -> np.ndarray:
    """Return the seconds at which the windows of a video begin, sorted.

    They are 0, stride, 2 stride, …, as long as a window begins before the end. The first that would reach over the end
    is the last: with `cover_end` it is moved back to end with the video, without it is left out.

    >>> window_starts(4.5, WindowOptions(window=2, stride=1))
    array([0. , 1. , 2. , 2.5])
    >>> window_starts(4.0, WindowOptions(window=2, stride=1))
    array([0., 1., 2.])
    >>> window_starts(4.5, WindowOptions(window=2, stride=1, cover_end=False))
    array([0., 1., 2.])

    Raises:
        UserError: the video is shorter than a window.
    """
    space = duration - options.window
    if space < -_EPSILON:
        raise UserError(
            f"it lasts {duration:.2f} s, less than --window {options.window:g}; use a shorter window, or leave out "
            "--window to see the video as one"
        )
    if space / options.stride > _MOST_WINDOWS:
        count = f"more than {_MOST_WINDOWS:,} windows in {duration:.0f} s"
        raise UserError(f"--stride {options.stride:g}: {count}; use a longer one")
    starts = np.arange(int((space + _EPSILON) / options.stride) + 1) * float(options.stride)
    following = starts[-1] + options.stride
    if options.cover_end and space - starts[-1] > _EPSILON and following < duration - _EPSILON:
        starts = np.append(starts, space)
    return starts


def plan_windows(
    times: np.ndarray, duration: float, options: WindowOptions | None, data: DataConfig, max_frames: int | None
) -> list[Window]:
    """Return the windows of a video whose frames are shown at `times` (N,), seconds, sorted; without options one.

    The frames of a window are those that begin to be shown in it: of more than `max_frames`, as of a packed video, so
    many evenly spaced ones; of these the run's evaluation sampling takes its own. Where none begins, the one on show
    counts.

    Args:
        duration: the end of the last frame, in seconds.
        max_frames: as when packing; None keeps all.

    Raises:
        UserError: the video is shorter than a window.
    """
    windows = []
    starts, length = ([0.0], duration) if options is None else (window_starts(duration, options), options.window)
    for start in map(float, starts):
        end = start + length
        first, last = np.searchsorted(times, [start - _EPSILON, end - _EPSILON]).tolist()
        if first == last:
            first = max(0, first - 1)
            last = first + 1
        stored = first + choose_frames(times[first:last], max_frames)
        frames = stored[evaluation_frames(len(stored), data)].astype(np.int32)
        windows.append(Window(start, end, frames))
    return windows
