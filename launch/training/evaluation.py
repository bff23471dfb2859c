"""Accuracy of a network on a packed split, over all ranks, each sample exactly once."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist

from launch.training.distributed import sum_over_ranks
from launch.training.forward import compute_level_logits
from model import Network
from pipeline.loader import VideoBatch

_TOPS = (1, 3, 5)


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation."""

    top1: float
    top3: float
    """Fraction of samples whose class is among the three highest scores (or all, with fewer classes)."""
    top5: float
    """Fraction of samples whose class is among the five highest scores (or all, with fewer classes)."""
    mean_class: float
    """Mean over classes that occur of the fraction of their samples that are right."""
    samples: int
    """Samples seen, over all ranks."""
    clips_per_second: float
    """Speed of this rank."""
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
        top5 = f"top-5 {self.top5:.2%}, " if len(self.confusion) > 5 else ""  # of five classes or fewer it says nothing
        return (
            f"top-1 {self.top1:.2%}, {top5}mean class {self.mean_class:.2%} "
            f"of {self.samples} samples, {self.clips_per_second:.1f} clips/s{levels}"
        )

    def figures(self) -> dict[str, float]:
        """Return the single numbers, for logs."""
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
    """Return fraction of samples that are right; nan without any."""
    return float(confusion.diag().sum() / confusion.sum())


def mean_class_accuracy(confusion: torch.Tensor) -> float:
    """Return mean over classes that occur of the fraction of their samples that are right."""
    counts = confusion.sum(1)
    return float((confusion.diag()[counts > 0] / counts[counts > 0]).mean())


class _Counts:
    """How many of the samples are right, by how many of the highest scores count, and what each is taken for."""

    def __init__(self, num_classes: int, device: torch.device):
        self._hits = torch.zeros(len(_TOPS), dtype=torch.int64, device=device)
        self._confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def add(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch: scores (B, num_classes) and labels (B,); does not wait for the device."""
        num_classes = scores.shape[1]
        predicted = scores.argmax(1)
        cells = labels.long() * num_classes + predicted
        self._confusion.view(-1).scatter_add_(0, cells, torch.ones_like(cells))
        for place, top in enumerate(_TOPS):
            best = predicted[:, None] if top == 1 else scores.topk(min(top, num_classes), 1).indices
            self._hits[place] += (best == labels[:, None]).sum()

    def sum_over_ranks(self) -> tuple[list[float], torch.Tensor]:
        """Return the accuracies of _TOPS, 0 without samples, and the confusion matrix on the CPU, of all ranks."""
        if dist.is_initialized():
            sum_over_ranks(self._hits)
            sum_over_ranks(self._confusion)
        accuracies = self._hits.float() / self._confusion.sum().clamp(min=1).float()
        return accuracies.tolist(), self._confusion.cpu()


def compute_scores(
    net: Network,
    batch: VideoBatch,
    precision: str,
    given_levels: tuple[str, ...] = (),
    allowed: torch.Tensor | None = None,
    multi_label: bool = False,
) -> dict[str, torch.Tensor]:
    """Return probabilities (B, classes of the level) float32 of the samples of a batch, the mean of those of their
    views: on each coarser level that the network predicts, and under "" of the classes, where those that are not
    `allowed` (num_classes,) bool have none. With `multi_label` the probability of each class is one by itself."""
    given = [labels.repeat_interleave(batch.num_views) for labels in batch.labels_of(given_levels).values()]
    all_logits = compute_level_logits(net, batch.clips, precision, given)
    if allowed is not None:
        all_logits[""] = all_logits[""].masked_fill(~allowed.to(batch.clips.device), -torch.inf)
    activate = torch.sigmoid if multi_label else partial(torch.softmax, dim=1)
    return {
        level: activate(logits).view(len(batch.labels), batch.num_views, -1).mean(1)
        for level, logits in all_logits.items()
    }


def evaluate(
    net: Network,
    batches: Iterable[VideoBatch],
    num_classes: int,
    precision: str,
    levels: Iterable[tuple[str, Sequence[str]]] = (),
    tell_levels: bool = False,
    allowed: torch.Tensor | None = None,
) -> Evaluation:
    """Run `net` over this rank's batches and add up the counts of all ranks. Leaves the network in eval mode.

    Args:
        levels: names and classes of the coarser levels of labels; those that the network predicts are counted too.
        tell_levels: give the network the true labels of the levels that it may read; otherwise it predicts them.
        allowed: (num_classes,) bool, the classes that may be predicted; by default all.
    """
    sizes = {level: len(classes) for level, classes in levels}
    given_levels = net.given_levels if tell_levels else ()
    device = next(net.parameters()).device
    counts = _Counts(num_classes, device)
    level_counts = {level: _Counts(sizes[level], device) for level in net.level_names}
    net.eval()
    begin, num_clips = time.perf_counter(), 0
    sample_ids, all_scores = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, num_classes)]
    for batch in batches:
        scores = compute_scores(net, batch, precision, given_levels, allowed)
        counts.add(scores[""], batch.labels)
        for level, labels in batch.labels_of(net.level_names).items():
            level_counts[level].add(scores[level], labels)
        sample_ids.append(batch.sample_ids.cpu())
        all_scores.append(scores[""].cpu())
        num_clips += len(batch.clips)
    seconds = time.perf_counter() - begin
    (top1, top3, top5), confusion = counts.sum_over_ranks()
    return Evaluation(
        top1=top1,
        top3=top3,
        top5=top5,
        mean_class=mean_class_accuracy(confusion),
        samples=int(confusion.sum()),
        clips_per_second=num_clips / seconds,
        confusion=confusion,
        sample_ids=torch.cat(sample_ids),
        scores=torch.cat(all_scores),
        level_confusions={level: counts.sum_over_ranks()[1] for level, counts in level_counts.items()},
    )
