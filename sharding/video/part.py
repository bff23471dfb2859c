"""A part [start, end) of a video: which of the frames read belong to it, and whether the video goes that far."""

import numpy as np

from sharding.errors import MediaError

EPSILON = 1e-6  # seconds; times in files are rounded


def cut_part(
    times: np.ndarray, start: float | None, end: float | None, fps: float, by_number: bool = False
) -> tuple[np.ndarray, float]:
    """Return which of `times` (seconds, sorted) are in [start, end), and how many seconds of it are beyond the video.

    Args:
        times: of the frames read, which go beyond `end` unless the video ends before.
        fps: frames per second, for how long the last frame is on show.
        by_number: whether messages name places by the numbers of frames, from 0, not by seconds.

    Raises:
        MediaError: ("decode") not one frame is in the part, or more than half of it is beyond the end of the video.

    >>> part, lacking = cut_part(np.arange(25) / 25, 0.9, 1.1, fps=25)
    >>> part.tolist(), round(lacking, 3)
    ([0.92, 0.96], 0.1)
    """
    if not len(times) or (start is None and end is None):
        return times, 0.0
    low = -np.inf if start is None else start - EPSILON
    high = np.inf if end is None else end - EPSILON
    part = times[(times >= low) & (times < high)]
    video_end = float(times[-1]) + 1 / fps
    begin = start or 0.0

    def place(seconds: float) -> str:
        return f"frame {round(seconds * fps)}" if by_number else f"{seconds:g} s"

    if begin >= video_end - EPSILON:
        raise MediaError("decode", f"its part begins at {place(begin)}, but the video ends at {place(video_end)}")
    if not len(part):
        raise MediaError("decode", f"not one frame is shown from {place(begin)} on and before {place(end or begin)}")
    lacking = 0.0 if end is None else max(0.0, end - video_end)
    if end is not None and lacking > (end - begin) / 2 + EPSILON:
        message = f"its part is from {place(begin)} to {place(end)}, but the video ends at {place(video_end)}"
        raise MediaError("decode", message)
    return part, lacking
