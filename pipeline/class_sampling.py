"""Class-balanced sampling: which samples an epoch draws, and how often, where classes do not come as they are stored.

Of N samples in classes of n_c, an epoch has N draws, and class c the expected number

    N p_c,    p_c = n_c^q / sum_k n_k^q

of them, q being data.class_sampling_exponent: 1 takes the dataset as it is, 0 every class equally often, 1/2 is the
square root between them (Kang et al., 2020, Decoupling Representation and Classifier, Eq. 1). Within a class all
samples are equal: each is expected N p_c / n_c times. These expectations are exact, and no draw wanders from them: a
class gets N p_c rounded up or down, and each of its samples its part of that rounded up or down.
"""

import numpy as np

_BITS = 32
"""A draw is an int64: the sample id below, and above it how often the sample came before in its epoch."""


def draw_samples(
    labels: np.ndarray, sample_ids: np.ndarray, exponent: float, generator: np.random.Generator
) -> np.ndarray:
    """Return as many draws (N,) int64 as there are `sample_ids` (N,), in the order of these; see `sample_ids_of`.

    Args:
        labels: class ids of all samples of the dataset.
        sample_ids: those that may be drawn, rising.
        exponent: q as above.
    """
    _, members, sizes = np.unique(labels[sample_ids], return_inverse=True, return_counts=True)
    counts = _round_at_random(len(sample_ids) * class_shares(sizes, exponent), generator)
    # Each sample the same number of times, and of what is left once each of the first in a random order.
    shuffled = generator.permutation(len(sample_ids))
    shuffled = shuffled[np.argsort(members[shuffled], kind="stable")]
    rank = np.empty(len(sample_ids), np.int64)
    rank[shuffled] = np.arange(len(sample_ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    times = (counts // np.maximum(sizes, 1))[members] + (rank < (counts % np.maximum(sizes, 1))[members])
    repeats = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    return np.repeat(sample_ids, times).astype(np.int64) | repeats << _BITS


def class_shares(sizes: np.ndarray, exponent: float) -> np.ndarray:
    """Return p_c (C,) of classes of `sizes` (C,) samples; a class without any has none.

    >>> class_shares(np.array([1, 4, 0]), 0.5).round(3).tolist()
    [0.333, 0.667, 0.0]
    """
    powers = np.where(sizes > 0, np.power(sizes, exponent, where=sizes > 0, out=np.zeros(len(sizes))), 0.0)
    return powers / max(powers.sum(), 1e-300)


def _round_at_random(expected: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return whole numbers (C,): `expected` rounded up or down, so that it is their mean. Their sum is that of
    `expected`, which is whole (systematic sampling, in a random order of the classes)."""
    turn = generator.permutation(len(expected))
    ends = np.cumsum(expected[turn])
    if len(ends):
        ends[-1] = round(ends[-1])
    marks = np.floor(ends + generator.random()).astype(np.int64)
    counts = np.empty(len(expected), np.int64)
    counts[turn] = np.diff(marks, prepend=0)
    return counts


def sample_ids_of(draws: np.ndarray | int) -> np.ndarray:
    """Return the sample ids (N,) int64 of draws (N,); sample ids are draws of samples that did not come before.

    >>> sample_ids_of(np.array([7, 7 | 1 << 32, 7 | 2 << 32])).tolist()
    [7, 7, 7]
    """
    return np.asarray(draws, np.int64) & ((1 << _BITS) - 1)


def sample_and_epoch(draw: int, epoch: int) -> tuple[int, int]:
    """Return a draw's sample id, and an epoch for its frames, crop and flip that no other draw of the sample has.

    >>> sample_and_epoch(7 | 1 << 32, 3)
    (7, 4294967299)
    """
    return draw & ((1 << _BITS) - 1), epoch + (draw >> _BITS << _BITS)
