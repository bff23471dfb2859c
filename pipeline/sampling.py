"""Which frames of a video make a clip. Pure functions; indices are those of the stored frames, from 0.

Of 10 frames in 4 segments [0, 2.5) [2.5, 5) [5, 7.5) [7.5, 10), training takes a random frame of each and a test their
middles, 1 3 6 8; two test clips take the first and the third quarter of each, 0 3 5 8 and 1 4 6 9.
"""

import numpy as np


def random_frames(num_frames: int, draws: np.ndarray) -> np.ndarray:
    """A random frame of each segment: floor((i + u_i) * n / S) for `draws` u (S,) from [0, 1), as TSN trains.

    >>> random_frames(10, np.array([0.0, 0.9, 0.5, 0.99]))
    array([0, 4, 6, 9], dtype=int32)
    """
    segments, num_segments = np.arange(len(draws), dtype=np.int64), len(draws)
    frames = np.floor((segments + draws) * num_frames / num_segments).astype(np.int64)
    last = ((segments + 1) * num_frames - 1) // num_segments  # rounding may carry u close to 1 beyond its segment
    return np.minimum(frames, last).astype(np.int32)


def middle_frames(num_frames: int, num_segments: int, clip: int = 0, num_clips: int = 1) -> np.ndarray:
    """The test clip number `clip` of K: floor((i + (clip + 1/2) / K) * n / S); of one clip the middles, as TSN tests.

    >>> middle_frames(10, 4)
    array([1, 3, 6, 8], dtype=int32)
    >>> middle_frames(3, 4)  # fewer frames than segments: repeated, in order
    array([0, 1, 1, 2], dtype=int32)
    >>> middle_frames(10, 4, clip=1, num_clips=2)
    array([1, 4, 6, 9], dtype=int32)
    """
    segments = np.arange(num_segments, dtype=np.int64)
    places = 2 * (num_clips * segments + clip) + 1
    return (places * num_frames // (2 * num_clips * num_segments)).astype(np.int32)


def dense_frames(num_frames: int, length: int, stride: int, start: int) -> np.ndarray:
    """`length` frames that lie `stride` apart, beginning at `start`; a video too short for them begins anew.

    >>> dense_frames(10, 4, 2, 1)
    array([1, 3, 5, 7], dtype=int32)
    >>> dense_frames(5, 4, 2, 0)
    array([0, 2, 4, 1], dtype=int32)
    """
    return ((start + stride * np.arange(length, dtype=np.int64)) % num_frames).astype(np.int32)


def random_start(num_frames: int, length: int, stride: int, draw: float) -> int:
    """Where a dense training clip begins: anywhere that leaves room for `length` times `stride` frames."""
    return int(draw * (_last_start(num_frames, length, stride) + 1))


def even_start(num_frames: int, length: int, stride: int, clip: int, num_clips: int) -> int:
    """Where the dense test clip number `clip` of K begins: evenly from the first to the last start; one in the middle.

    >>> [even_start(70, 8, 8, clip, 3) for clip in range(3)]
    [0, 3, 6]
    """
    last = _last_start(num_frames, length, stride)
    return last // 2 if num_clips == 1 else clip * last // (num_clips - 1)


def _last_start(num_frames: int, length: int, stride: int) -> int:
    return max(0, num_frames - length * stride)
