"""When training ends before its last epoch, and how right it was on its own clips."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from launch.training.distributed import sum_over_ranks
from launch.training.run_log import read_metrics


def epochs_without_gain(values: Mapping[int, float]) -> int:
    """Return how many epochs came after that which first had the highest of the `values` by epoch; nan counts for none.

    >>> [epochs_without_gain(values) for values in ({1: 0.2, 2: 0.5, 3: 0.5, 4: 0.4}, {}, {1: math.nan})]
    [2, 0, 0]
    """
    best = max((value for value in values.values() if not math.isnan(value)), default=None)
    if best is None:
        return 0
    return max(values) - min(epoch for epoch, value in values.items() if value == best)


def read_monitored(run_dir: Path, monitor: str) -> dict[int, float]:
    """Return the monitored figure by epoch, as the run has recorded it, whatever was resumed in between."""
    lines = [line for line in read_metrics(run_dir) if line["kind"] == "evaluation"]
    return {line["epoch"]: line[monitor] for line in lines if monitor in line}


class TrainingAccuracy:
    """Top-1 of the clips that were trained on, each by the network as it was then; nothing waits for the device.

    Batches of blended labels (mixup, CutMix), of which no class is the right one, are not counted.
    """

    def __init__(self, device: torch.device):
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count logits (B, num_classes) for labels (B,)."""
        if labels.ndim == 1:
            right = (logits.detach().argmax(1) == labels).sum()
            self._counts += torch.stack([right, torch.full_like(right, len(labels))])

    def take(self) -> float | None:
        """Return the accuracy since the last call over all ranks, None without clips; waits for the device."""
        right, clips = sum_over_ranks(self._counts).tolist()
        self._counts.zero_()
        return right / clips if clips else None
