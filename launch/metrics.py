"""Accuracy of a network on a packed split, over all ranks, each sample exactly once."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from launch.inference import compute_logits
from pipeline.loader import VideoBatch


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    top1: float
    top5: float
    """Share of samples whose class is among the five highest scores (or all, with fewer classes)."""
    mean_class: float
    """Mean over classes that occur of the share of their samples that are right."""
    samples: int
    """Samples seen, over all ranks."""
    clips_per_second: float
    """Of this rank."""
    confusion: torch.Tensor
    """(num_classes, num_classes) int64: rows are true classes, columns predicted ones."""
    sample_ids: torch.Tensor
    """(N,) int64 ids of the samples of this rank."""
    scores: torch.Tensor
    """(N, num_classes) float32 of this rank's samples: probabilities, the mean over the views."""

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, mean class {self.mean_class:.2%} "
            f"of {self.samples} samples, {self.clips_per_second:.1f} clips/s"
        )

    def figures(self) -> dict[str, float]:
        """The single numbers, for logs."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "samples": self.samples,
            "clips_per_second": self.clips_per_second,
        }


def compute_scores(net: nn.Module, batch: VideoBatch, precision: str) -> torch.Tensor:
    """Probabilities (B, num_classes) float32 of the samples of a batch: the mean of those of their views."""
    probabilities = compute_logits(net, batch.clips, precision).softmax(1)
    return probabilities.view(len(batch.labels), batch.num_views, -1).mean(1)


def evaluate(net: nn.Module, batches: Iterable[VideoBatch], num_classes: int, precision: str) -> Evaluation:
    """Runs `net` over this rank's batches and adds up the counts of all ranks. Leaves the network in eval mode."""
    device = next(net.parameters()).device
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro"),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            "confusion": MulticlassConfusionMatrix(num_classes),
        },
        compute_groups=False,
    ).to(device)
    net.eval()
    begin, num_clips = time.perf_counter(), 0
    sample_ids, all_scores = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, num_classes)]
    for batch in batches:
        scores = compute_scores(net, batch, precision)
        metrics.update(scores, batch.labels)
        sample_ids.append(batch.sample_ids.cpu())
        all_scores.append(scores.cpu())
        num_clips += len(batch.clips)
    seconds = time.perf_counter() - begin
    results = metrics.compute()
    confusion = results["confusion"].cpu()
    counts = confusion.sum(1)
    per_class = confusion.diag()[counts > 0] / counts[counts > 0]
    return Evaluation(
        top1=float(results["top1"]),
        top5=float(results["top5"]),
        mean_class=float(per_class.mean()),
        samples=int(counts.sum()),
        clips_per_second=num_clips / seconds,
        confusion=confusion,
        sample_ids=torch.cat(sample_ids),
        scores=torch.cat(all_scores),
    )
