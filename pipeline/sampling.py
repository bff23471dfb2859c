"""Which frames of a video make a clip. Pure functions; indices are those of the stored frames, from 0.

Of 10 frames in 4 segments [0, 2.5) [2.5, 5) [5, 7.5) [7.5, 10), training takes a random frame of each and a test their
middles, 1 3 6 8; two test clips take the first and the third quarter of each, 0 3 5 8 and 1 4 6 9.

Where a segment gives several frames, they follow each other, and what is cut into segments are the places where they
can begin. Of 10 frames in 2 segments of 4, frames can begin at 0 to 6, [0, 3.5) and [3.5, 7): training takes a random
begin in each and a test their middles, 1 2 3 4 and 5 6 7 8.
"""

import numpy as np


def random_frames(num_frames: int, draws: np.ndarray, frames_per_segment: int = 1) -> np.ndarray:
    """Return random frames of each segment, (S * k,) int32 for `draws` u (S,) from [0, 1), as TSN trains.

    Those of segment i begin at floor((i + u_i) * m / S), m = n - k + 1 being the number of places where k frames of n
    can begin.

    >>> random_frames(10, np.array([0.0, 0.9, 0.5, 0.99]))
    array([0, 4, 6, 9], dtype=int32)
    >>> random_frames(10, np.array([0.0, 0.9]), frames_per_segment=4)
    array([0, 1, 2, 3, 6, 7, 8, 9], dtype=int32)
    """
    segments, num_segments = np.arange(len(draws), dtype=np.int64), len(draws)
    num_begins = _count_begins(num_frames, frames_per_segment)
    begins = np.floor((segments + draws) * num_begins / num_segments).astype(np.int64)
    last = ((segments + 1) * num_begins - 1) // num_segments  # rounding may carry u close to 1 beyond its segment
    return _follow(np.minimum(begins, last), num_frames, frames_per_segment)


def middle_frames(
    num_frames: int, num_segments: int, clip: int = 0, num_clips: int = 1, frames_per_segment: int = 1
) -> np.ndarray:
    """Return the test clip number `clip` of K, (S * k,) int32; of one clip the middles of the segments, as TSN tests.

    The frames of segment i begin at floor((i + (clip + 1/2) / K) * m / S), m = n - k + 1.

    >>> middle_frames(10, 4)
    array([1, 3, 6, 8], dtype=int32)
    >>> middle_frames(3, 4)  # fewer frames than segments: repeated, in order
    array([0, 1, 1, 2], dtype=int32)
    >>> middle_frames(10, 4, clip=1, num_clips=2)
    array([1, 4, 6, 9], dtype=int32)
    >>> middle_frames(10, 2, frames_per_segment=4)
    array([1, 2, 3, 4, 5, 6, 7, 8], dtype=int32)
    >>> middle_frames(3, 2, frames_per_segment=4)  # too short for one segment: its last frame is repeated
    array([0, 1, 2, 2, 0, 1, 2, 2], dtype=int32)
    """
    segments = np.arange(num_segments, dtype=np.int64)
    places = 2 * (num_clips * segments + clip) + 1
    num_begins = _count_begins(num_frames, frames_per_segment)
    return _follow(places * num_begins // (2 * num_clips * num_segments), num_frames, frames_per_segment)


def _count_begins(num_frames: int, frames_per_segment: int) -> int:
    """Return in how many places so many consecutive frames can begin; 1 in a video too short for them."""
    return max(1, num_frames - frames_per_segment + 1)


def _follow(begins: np.ndarray, num_frames: int, frames_per_segment: int) -> np.ndarray:
    """Return the frames that follow each other from each of `begins` (S,) on, (S * k,) int32."""
    frames = begins[:, None] + np.arange(frames_per_segment, dtype=np.int64)
    return np.minimum(frames, num_frames - 1).ravel().astype(np.int32)


def dense_frames(num_frames: int, length: int, stride: int, start: int) -> np.ndarray:
    """Return `length` frames, `stride` apart, from `start` on; a video too short for them begins again.

    >>> dense_frames(10, 4, 2, 1)
    array([1, 3, 5, 7], dtype=int32)
    >>> dense_frames(5, 4, 2, 0)
    array([0, 2, 4, 1], dtype=int32)
    """
    return ((start + stride * np.arange(length, dtype=np.int64)) % num_frames).astype(np.int32)


def random_start(num_frames: int, length: int, stride: int, draw: float) -> int:
    """Return where a dense training clip begins: anywhere that leaves space for `length` times `stride` frames."""
    return int(draw * (_last_start(num_frames, length, stride) + 1))


def even_start(num_frames: int, length: int, stride: int, clip: int, num_clips: int) -> int:
    """Return where the dense test clip number `clip` of K begins: evenly spread over all starts; one in the middle.

    >>> [even_start(70, 8, 8, clip, 3) for clip in range(3)]
    [0, 3, 6]
    """
    last = _last_start(num_frames, length, stride)
    return last // 2 if num_clips == 1 else clip * last // (num_clips - 1)


def _last_start(num_frames: int, length: int, stride: int) -> int:
    return max(0, num_frames - length * stride)
