"""What the loader yields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, repr=False)
class VideoBatch:
    """What the network sees."""

    clips: torch.Tensor
    """(B * V, T, 3, H, W) float32, normalised, the V views of a sample together; a view of channels-last memory."""
    labels: torch.Tensor
    """(B,) int64 class ids, or (B, num_classes) float32 ones and zeros where samples have several labels; on the device
    of the clips."""
    sample_ids: torch.Tensor
    """(B,) int64 row numbers in samples.parquet, on the CPU."""
    is_last_micro_batch: bool = True
    """Whether this is the last of the micro-batches of an optimizer step."""
    num_views: int = 1
    """V: 1 in training."""
    level_labels: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """(B,) int64 class ids on each further level of labels; they do not change sides with a mirrored clip."""

    def __post_init__(self) -> None:
        size = len(self.sample_ids)
        assert self.clips.ndim == 5 and self.clips.shape[2] == 3, self.clips.shape
        assert len(self.clips) == size * self.num_views and self.sample_ids.shape == (size,), self
        assert self.labels.ndim in (1, 2) and len(self.labels) == size, self
        assert all(labels.shape == (size,) for labels in self.level_labels.values()), self

    def labels_of(self, levels: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the labels of these further levels, each (B,), in this order."""
        return {level: self.level_labels[level] for level in levels}

    def __repr__(self) -> str:
        return f"VideoBatch(clips={tuple(self.clips.shape)}, labels={tuple(self.labels.shape)}, {self.clips.device})"


def to_device(values, device: torch.device) -> torch.Tensor:
    """Return values on a device, without waiting for what the device is doing: float32 (B, C) as they are, (B,) as
    int64."""
    tensor = torch.as_tensor(values)
    tensor = tensor if tensor.ndim > 1 else tensor.long()
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
