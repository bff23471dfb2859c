"""From scored windows to segments of one class each. Pure functions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_EPSILON = 1e-6


@dataclass(frozen=True)
class ScoredWindow:
    """A window [start, end) of a video, in seconds, and what the network says of it."""

    start: float
    end: float
    scores: np.ndarray = field(repr=False)
    """(num_classes,) float32 probabilities."""

    def top(self, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
        """Return the `count` likeliest classes as (name, probability), the likeliest first."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return [(classes[int(index)], float(self.scores[index])) for index in best]


@dataclass(frozen=True)
class Segment:
    """A part [start, end) of a video, in seconds, that is of one class."""

    start: float
    end: float
    label: str
    score: float
    """Mean of the class's probability over its windows."""


def merge_windows(windows: Sequence[ScoredWindow], classes: Sequence[str]) -> list[Segment]:
    """Join neighbouring windows of one class to segments, which do not overlap.

    Each window speaks for what is nearer to its middle than to that of any other, within the window: of windows
    [0, 2), [1, 3) and [2, 4), the first for [0, 1.5), the second for [1.5, 2.5), the third for [2.5, 4). Windows that
    leave something between them are not joined.

    >>> likes_a, likes_b = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    >>> windows = [ScoredWindow(0, 2, likes_a), ScoredWindow(1, 3, likes_a), ScoredWindow(2, 4, likes_b)]
    >>> [(each.start, each.end, each.label) for each in merge_windows(windows, "ab")]
    [(0, 2.5, 'a'), (2.5, 4, 'b')]
    """
    middles = [(window.start + window.end) / 2 for window in windows]
    borders = [(one + other) / 2 for one, other in itertools.pairwise(middles)]
    starts = [max(window.start, border) for window, border in zip(windows, [-np.inf, *borders])]
    ends = [min(window.end, border) for window, border in zip(windows, [*borders, np.inf])]
    best = [int(window.scores.argmax()) for window in windows]
    segments: list[Segment] = []
    first = 0
    for place in range(1, len(windows) + 1):
        if place < len(windows) and best[place] == best[first] and starts[place] - ends[place - 1] <= _EPSILON:
            continue
        scores = [float(window.scores[best[first]]) for window in windows[first:place]]
        segments.append(Segment(starts[first], ends[place - 1], classes[best[first]], sum(scores) / len(scores)))
        first = place
    return segments
