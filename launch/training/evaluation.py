"""Accuracy of a network on a packed split, over all ranks, each sample exactly once."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from launch.training.forward import compute_level_logits
from model import Network
from pipeline.loader import VideoBatch


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    top1: float
    top3: float
    """Share of samples whose class is among the three highest scores (or all, with fewer classes)."""
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
    level_confusions: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The same as `confusion` for each coarser level of labels that the network predicts."""

    def __str__(self) -> str:
        levels = "".join(
            f"; {level}: top-1 {accuracy(confusion):.2%}, mean class {mean_class_accuracy(confusion):.2%}"
            for level, confusion in self.level_confusions.items()
        )
        return (
            f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, mean class {self.mean_class:.2%} "
            f"of {self.samples} samples, {self.clips_per_second:.1f} clips/s{levels}"
        )

    def figures(self) -> dict[str, float]:
        """The single numbers, for logs."""
        figures = {
            "top1": self.top1,
            "top3": self.top3,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "samples": self.samples,
            "clips_per_second": self.clips_per_second,
        }
        for level, confusion in self.level_confusions.items():
            figures[f"top1/{level}"] = accuracy(confusion)
            figures[f"mean_class/{level}"] = mean_class_accuracy(confusion)
        return figures


def accuracy(confusion: torch.Tensor) -> float:
    """Share of samples that are right; nan without any."""
    return float(confusion.diag().sum() / confusion.sum())


def mean_class_accuracy(confusion: torch.Tensor) -> float:
    """Mean over classes that occur of the share of their samples that are right."""
    counts = confusion.sum(1)
    return float((confusion.diag()[counts > 0] / counts[counts > 0]).mean())


def compute_scores(
    net: Network, batch: VideoBatch, precision: str, given_levels: tuple[str, ...] = ()
) -> dict[str, torch.Tensor]:
    """Probabilities (B, classes of the level) float32 of the samples of a batch, the mean of those of their views: on
    each coarser level that the network predicts, and under "" of the classes."""
    given = [labels.repeat_interleave(batch.num_views) for labels in batch.labels_of(given_levels).values()]
    return {
        level: logits.softmax(1).view(len(batch.labels), batch.num_views, -1).mean(1)
        for level, logits in compute_level_logits(net, batch.clips, precision, given).items()
    }


def evaluate(
    net: Network,
    batches: Iterable[VideoBatch],
    num_classes: int,
    precision: str,
    levels: Iterable[tuple[str, Sequence[str]]] = (),
    tell_levels: bool = False,
) -> Evaluation:
    """Runs `net` over this rank's batches and adds up the counts of all ranks. Leaves the network in eval mode.

    Args:
        levels: names and classes of the coarser levels of labels; those that the network predicts are counted too.
        tell_levels: tell the network the true labels of the levels that it may be told; otherwise it predicts them.
    """
    sizes = {level: len(classes) for level, classes in levels}
    given_levels = net.given_levels if tell_levels else ()
    device = next(net.parameters()).device
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro"),
            "top3": MulticlassAccuracy(num_classes, average="micro", top_k=min(3, num_classes)),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            "confusion": MulticlassConfusionMatrix(num_classes),
        },
        compute_groups=False,
    ).to(device)
    confusions = {level: MulticlassConfusionMatrix(sizes[level]).to(device) for level in net.level_names}
    net.eval()
    begin, num_clips = time.perf_counter(), 0
    sample_ids, all_scores = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, num_classes)]
    for batch in batches:
        scores = compute_scores(net, batch, precision, given_levels)
        metrics.update(scores[""], batch.labels)
        for level, labels in batch.labels_of(net.level_names).items():
            confusions[level].update(scores[level], labels)
        sample_ids.append(batch.sample_ids.cpu())
        all_scores.append(scores[""].cpu())
        num_clips += len(batch.clips)
    seconds = time.perf_counter() - begin
    results = metrics.compute()
    confusion = results["confusion"].cpu()
    return Evaluation(
        top1=float(results["top1"]),
        top3=float(results["top3"]),
        top5=float(results["top5"]),
        mean_class=mean_class_accuracy(confusion),
        samples=int(confusion.sum()),
        clips_per_second=num_clips / seconds,
        confusion=confusion,
        sample_ids=torch.cat(sample_ids),
        scores=torch.cat(all_scores),
        level_confusions={level: metric.compute().cpu() for level, metric in confusions.items()},
    )
