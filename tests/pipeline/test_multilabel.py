"""Batches of samples with several labels each: a one for each class, sides changed where a clip is mirrored."""

import numpy as np
import pytest
import torch

from pipeline.config import DataConfig
from pipeline.loader import VideoLoader
from pipeline.plan import plan_clip
from sharding.dataset import load_dataset
from tests.conftest import labels_in_bits

CONFIG = DataConfig(num_segments=2, short_side=32, crop_size=16, num_workers=1)
OTHER_SIDE = {0: 1, 1: 0, 2: 2}


@pytest.mark.parametrize("worker_type", ["process", "thread"])
def test_batches_have_a_one_for_each_label(several_labels, worker_type):
    dataset = load_dataset(several_labels)
    config = DataConfig(num_segments=2, short_side=32, crop_size=16, num_workers=1, worker_type=worker_type)
    seen, mirrored = [], 0
    with VideoLoader(dataset, config, training=True, micro_batch_size=3, seed=1) as loader:
        for batch in loader:
            assert batch.labels.dtype == torch.float32 and batch.labels.shape == (3, 3)
            for sample_id, row in zip(batch.sample_ids.tolist(), batch.labels):
                flip = plan_clip(dataset, config, sample_id, training=True, seed=1).flips[0]
                labels = labels_in_bits(dataset.key(sample_id))
                expected = sorted(OTHER_SIDE[label] for label in labels) if flip else labels
                assert torch.equal(row, torch.eye(3)[expected].sum(0))
                mirrored += bool(flip) and expected != labels
                seen.append(sample_id)
    assert len(set(seen)) == 12 and mirrored >= 2


def test_evaluation_has_the_labels_as_they_are(several_labels):
    dataset = load_dataset(several_labels)
    with VideoLoader(dataset, CONFIG, training=False, micro_batch_size=5) as loader:
        labels = torch.cat([batch.labels for batch in loader])
    assert dataset.label_sets is not None
    assert np.array_equal(labels, dataset.label_sets.multi_hot(range(13)))


def test_both_sides_stay_both(several_labels):
    dataset = load_dataset(several_labels)
    both = next(i for i, key in enumerate(dataset.keys) if key == "video03")
    plans = [plan_clip(dataset, CONFIG, both, training=True, seed=seed) for seed in range(8)]
    assert {bool(plan.flips[0]) for plan in plans} == {True, False}
    assert {plan.labels for plan in plans} == {(0, 1)} and {plan.label for plan in plans} == {-1}
    none = next(i for i, key in enumerate(dataset.keys) if key == "video00")
    assert plan_clip(dataset, CONFIG, none, training=True).labels == ()
