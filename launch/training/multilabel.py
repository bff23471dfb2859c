"""Evaluation where a sample has any number of labels: the average precision of each class, and their mean, mAP."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from launch.training.average_precision import average_precisions, mean_over_known
from launch.training.distributed import gather_over_ranks
from launch.training.forward import compute_logits
from model import Network
from pipeline.loader import VideoBatch


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Results of an evaluation."""

    average_precision: np.ndarray
    """(num_classes,) float64 over the samples of all ranks; nan for a class of which there is no sample."""
    positives: np.ndarray
    """(num_classes,) int64: samples of each class, of all ranks."""
    samples: int
    """Samples seen, over all ranks."""
    clips_per_second: float
    """Speed of this rank."""
    sample_ids: torch.Tensor
    """(N,) int64 ids of the samples of all ranks."""
    scores: torch.Tensor
    """(N, num_classes) float32: probability of each class, the mean over the views."""

    @property
    def mean_average_precision(self) -> float:
        """mAP: the mean over the classes of which there are samples; nan without any."""
        return mean_over_known(self.average_precision)

    @property
    def of_guessing(self) -> float:
        """The mAP of random scores: the mean over the same classes of the fraction of samples that are theirs."""
        known = self.positives[self.positives > 0]
        return float(known.mean() / self.samples) if len(known) else float("nan")

    def __str__(self) -> str:
        num_classes, known = len(self.positives), int((self.positives > 0).sum())
        classes = (
            f"{num_classes} classes" if known == num_classes else f"the {known} of {num_classes} classes that occur"
        )
        return (
            f"mAP {self.mean_average_precision:.2%} (guessing {self.of_guessing:.2%}) over {classes}, "
            f"{self.samples} samples, {self.clips_per_second:.1f} clips/s"
        )

    def figures(self) -> dict[str, float]:
        """Return the single numbers, for logs."""
        return {
            "map": self.mean_average_precision,
            "map_of_guessing": self.of_guessing,
            "samples": self.samples,
            "clips_per_second": self.clips_per_second,
        }


def evaluate_multilabel(
    net: Network, batches: Iterable[VideoBatch], num_classes: int, precision: str
) -> MultiLabelEvaluation:
    """Run `net` over this rank's batches and join the scores of all ranks. Leaves the network in eval mode."""
    net.eval()
    begin, num_clips = time.perf_counter(), 0
    ids, scores = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, num_classes)]
    labels = [torch.empty(0, num_classes, dtype=torch.bool)]
    for batch in batches:
        probabilities = compute_logits(net, batch.clips, precision).sigmoid()
        scores.append(probabilities.view(len(batch.labels), batch.num_views, -1).mean(1).cpu())
        labels.append(batch.labels.bool().cpu())
        ids.append(batch.sample_ids.cpu())
        num_clips += len(batch.clips)
    seconds = time.perf_counter() - begin
    found = torch.cat(ids), torch.cat(scores), torch.cat(labels)
    all_ids, all_scores, all_labels = (torch.cat(part) for part in zip(*gather_over_ranks(found)))
    values, truths = all_scores.numpy(), all_labels.numpy()
    return MultiLabelEvaluation(
        average_precision=average_precisions(values, truths),
        positives=truths.sum(0),
        samples=len(all_labels),
        clips_per_second=num_clips / seconds,
        sample_ids=all_ids,
        scores=all_scores,
    )
