"""How sure an accuracy is, and a difference between two networks on the same clips.

The unit is the clip: what is known of one in several ways (forward and reversed, with several seeds) is averaged first,
since it is one performance by the same people. Intervals are then rather too wide than too narrow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from launch.inference.class_table import Z, wilson_interval

Scores = Mapping[str, float]
"""Clip -> fraction of its predictions that are right."""

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Accuracy:
    """A fraction of clips, with its 95 % interval (Wilson)."""

    right: float
    clips: int

    @property
    def value(self) -> float:
        return self.right / self.clips

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.clips)


def accuracy_of(scores: Scores) -> Accuracy:
    """Return the accuracy over clips, of which there is one at least."""
    return Accuracy(sum(scores.values()), len(scores))


@dataclass(frozen=True)
class Difference:
    """What one network has more than another on the same clips."""

    value: float
    """Of the accuracies."""
    margin: float
    """Half of its 95 % interval: 1.96 standard errors of the clips' differences."""
    better: int
    """Clips that the one has more often right."""
    worse: int
    """Clips that the other has."""

    @property
    def p(self) -> float:
        return sign_test(self.better, self.worse)

    @property
    def is_found(self) -> bool:
        """Whether it is more than chance, in either direction."""
        return self.p < SIGNIFICANT


def compare(one: Scores, other: Scores) -> Difference:
    """Return the difference on the clips that both have, of which there must be some."""
    differences = np.array([one[clip] - other[clip] for clip in sorted(one.keys() & other.keys())])
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else math.inf
    return Difference(
        value=float(differences.mean()),
        margin=Z * spread / math.sqrt(len(differences)),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
    )


def sign_test(better: int, worse: int) -> float:
    """Return the two-sided probability of so uneven a division by chance. Where each clip has one prediction this is
    McNemar's exact test (McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 1947).

    >>> round(sign_test(9, 1), 6), sign_test(3, 3)
    (0.021484, 1.0)
    """
    total, most = better + worse, max(better, worse)
    return min(1.0, 2 * sum(math.comb(total, count) for count in range(most, total + 1)) / 2**total)
