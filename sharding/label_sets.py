"""Several labels a sample, for all samples of a split: the column `labels` of samples.parquet as NumPy arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The label ids of each sample, one sample after the other.

    >>> sets = LabelSets(np.array([0, 3, 1]), np.array([0, 2, 2, 3]), num_classes=4)    # {0, 3}, {}, {1}
    >>> sets.of(0), sets.multi_hot([1, 2])
    (array([0, 3]), array([[0., 0., 0., 0.],
           [0., 1., 0., 0.]], dtype=float32))
    """

    ids: np.ndarray
    """(M,) label ids, ascending within a sample."""
    starts: np.ndarray
    """(N + 1,): the ids of sample i are ids[starts[i] : starts[i + 1]]."""
    num_classes: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """How many labels each sample has: (N,)."""
        return np.diff(self.starts)

    def of(self, sample_id: int) -> np.ndarray:
        """Return the label ids of a sample (L,), ascending."""
        return self.ids[self.starts[sample_id] : self.starts[sample_id + 1]]

    def count_samples(self) -> np.ndarray:
        """Return how many samples have each label: (num_classes,)."""
        return np.bincount(self.ids, minlength=self.num_classes)

    def samples_with(self, label: int) -> np.ndarray:
        """Return the ids of the samples that have a label, ascending."""
        return np.searchsorted(self.starts, np.flatnonzero(self.ids == label), side="right") - 1

    def multi_hot(self, sample_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the labels of samples as (B, num_classes) float32 of ones and zeros."""
        hot = np.zeros((len(sample_ids), self.num_classes), np.float32)
        for row, sample_id in enumerate(sample_ids):
            hot[row, self.of(sample_id)] = 1
        return hot

    def problem(self) -> str | None:
        """Return what no label sets have: an id that is no class's, or twice or out of order in a sample."""
        if not len(self.ids):
            return None
        if self.ids.min() < 0 or self.ids.max() >= self.num_classes:
            return f"labels outside the {self.num_classes} classes"
        first = np.zeros(len(self.ids) + 1, bool)
        first[self.starts] = True  # where a sample begins, the one before it may end with any
        falls = np.flatnonzero((np.diff(self.ids) <= 0) & ~first[1:-1])
        return "labels that are not ascending, each once" if len(falls) else None
