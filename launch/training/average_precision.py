"""The average precision of classes of which a sample may have several, without torch."""

import numpy as np


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the average precision of each class (C,): sum_n (R_n - R_(n-1)) P_n over all thresholds, without
    interpolation, as scikit-learn and the usual evaluations of Charades compute it; nan for a class without samples.

    Samples of equal scores count at once, so their order does not matter.

    >>> average_precisions(np.array([[0.9], [0.8], [0.7], [0.7]]), np.array([[1], [0], [1], [0]]))    # 1/2 + 1/2 * 2/4
    array([0.75])

    Args:
        scores: (N, C).
        labels: (N, C) true, or 1, where a sample is of the class.
    """
    return np.array([_average_precision(*columns) for columns in zip(scores.T, labels.T.astype(bool))])


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last sample of each score
    hits = np.cumsum(labels[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def mean_over_known(average_precision: np.ndarray) -> float:
    """Return the mean of those that are numbers; nan without any."""
    known = average_precision[~np.isnan(average_precision)]
    return float(known.mean()) if len(known) else float("nan")
