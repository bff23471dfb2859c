"""Whether a network's probabilities can be believed: calibration, in bins of confidence."""

from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_BINS = 15
"""As in Guo et al. (2017)."""


@dataclass(frozen=True)
class Calibration:
    """The predictions of an evaluation by their confidence, the highest of a sample's probabilities.

    Bin m of M holds the confidences in (m/M, (m+1)/M], m = 0 .. M - 1.
    """

    counts: np.ndarray
    """(M,) samples in each bin."""
    accuracies: np.ndarray
    """(M,) fraction of them that is right; 0 where there are none."""
    confidences: np.ndarray
    """(M,) their mean confidence; 0 where there are none."""

    @property
    def error(self) -> float:
        """The expected calibration error, the sum over the bins of |B_m| / n * |acc(B_m) - conf(B_m)|: Guo et al., On
        Calibration of Modern Neural Networks, ICML 2017, Eq. 3. It depends on the number of bins, and few samples in a
        bin make it larger. nan without samples.
        """
        gaps = self.counts * np.abs(self.accuracies - self.confidences)
        return float(gaps.sum() / self.counts.sum()) if self.counts.any() else float("nan")

    @property
    def bias(self) -> float:
        """Mean confidence less accuracy: above 0 the network is over-confident. nan without samples."""
        gaps = self.counts * (self.confidences - self.accuracies)
        return float(gaps.sum() / self.counts.sum()) if self.counts.any() else float("nan")

    def __str__(self) -> str:
        how = "over-confident" if self.bias > 0 else "under-confident"
        return (
            f"expected calibration error {self.error:.2%} in {len(self.counts)} bins; "
            f"{how} by {abs(self.bias):.2%} on average"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what evaluation.json holds of it."""
        return {
            "expected_calibration_error": self.error,
            "mean_confidence_less_accuracy": self.bias,
            "bins": len(self.counts),
            "counts": self.counts.tolist(),
            "accuracies": self.accuracies.tolist(),
            "confidences": self.confidences.tolist(),
        }


def measure_calibration(scores: np.ndarray, labels: np.ndarray, num_bins: int = DEFAULT_BINS) -> Calibration:
    """Return the calibration of probabilities (N, C) for class ids (N,).

    >>> half = measure_calibration(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), 2)
    >>> half.counts.tolist(), half.accuracies.tolist(), round(half.error, 6)
    ([0, 2], [0.0, 0.5], 0.35)
    """
    confidences = scores.max(1, initial=0).astype(float)
    right = scores.argmax(1) == labels if len(labels) else np.zeros(0, bool)
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    some = np.maximum(counts, 1)
    return Calibration(
        counts,
        np.bincount(bins, right, num_bins) / some,
        np.bincount(bins, confidences, num_bins) / some,
    )
