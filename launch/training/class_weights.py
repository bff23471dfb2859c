"""Weights of the classes in the cross-entropy."""

import numpy as np

from launch.training.config import Config
from pipeline.class_sampling import class_shares
from sharding.dataset import PackedDataset
from sharding.errors import UserError


def find_class_weights(config: Config, train_set: PackedDataset) -> list[float] | None:
    """Return a weight for each class as loss.class_weights says; None if it says nothing.

    Raises:
        UserError: there are more or fewer weights than classes.
    """
    weights, num_classes = config.loss.class_weights, len(train_set.manifest.classes)
    if weights is None:
        return None
    if weights == "balanced":
        return balanced_weights(class_frequencies(config, train_set)).tolist()
    if len(weights) != num_classes:
        raise UserError(
            f"loss.class_weights: {len(weights)} weights for the {num_classes} classes of {train_set.location}; give "
            "one for each, in the order of its manifest, or balanced"
        )
    return list(weights)


def class_frequencies(config: Config, train_set: PackedDataset) -> np.ndarray:
    """Return the fraction of training clips (num_classes,) that are of each class: as they are drawn, and as mirroring
    exchanges them."""
    counts = np.bincount(train_set.labels[train_set.kept], minlength=len(train_set.manifest.classes))
    shares = class_shares(counts, config.data.class_sampling_exponent)
    for pair in train_set.manifest.flip_pairs if config.data.flip else ():
        shares[list(pair)] = shares[list(pair)].mean()
    return shares


def balanced_weights(shares: np.ndarray) -> np.ndarray:
    """Return weights (C,) that make up for the shares (C,) of the classes; a class that never comes has weight 0.

    >>> balanced_weights(np.array([0.5, 0.25, 0.25, 0])).round(3).tolist()
    [0.667, 1.333, 1.333, 0.0]
    """
    num_present = np.count_nonzero(shares)
    return np.divide(1.0, shares * num_present, where=shares > 0, out=np.zeros(len(shares)))
