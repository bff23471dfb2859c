"""Accuracies from counts, against torchmetrics: the same numbers, bit for bit."""

import pytest
import torch

from launch.training.evaluation import _Counts

metrics = pytest.importorskip("torchmetrics.classification")


@pytest.mark.parametrize("num_classes", [2, 4, 6, 50])
def test_counts_are_torchmetrics(num_classes):
    generator = torch.Generator().manual_seed(num_classes)
    counts = _Counts(num_classes, torch.device("cpu"))
    tops = [metrics.MulticlassAccuracy(num_classes, average="micro", top_k=min(top, num_classes)) for top in (1, 3, 5)]
    confusion = metrics.MulticlassConfusionMatrix(num_classes)
    for size in (1, 7, 64):
        scores = torch.rand(size, num_classes, generator=generator).softmax(1)
        labels = torch.randint(num_classes, (size,), generator=generator)
        counts.add(scores, labels)
        for metric in (*tops, confusion):
            metric.update(scores, labels)
    accuracies, matrix = counts.sum_over_ranks()
    assert accuracies == [float(metric.compute()) for metric in tops]
    assert torch.equal(matrix, confusion.compute())
