"""The phases of a run: what changes from one to the next, as data; `Config.split_phases` makes a
configuration of each."""

from dataclasses import dataclass
from typing import Any, Literal

from sharding.errors import check_minimum


@dataclass(frozen=True)
class ClipConfig:
    """Clips, and the learning rate and BatchNorm that go with them; null leaves what the other sections say."""

    num_segments: int | None = None
    """In the place of data.num_segments."""
    frames_per_segment: int | None = None
    """In the place of data.frames_per_segment."""
    sampling: Literal["segments", "dense"] | None = None
    """In the place of data.sampling."""
    frame_stride: int | None = None
    """In the place of data.frame_stride."""
    learning_rate: float | None = None
    """In the place of optimizer.learning_rate, and like it scaled with the batch size."""
    batch_norm: Literal["train", "partial", "frozen"] | None = None
    """In the place of train.batch_norm."""

    def changes(self) -> dict[str, dict[str, Any]]:
        """Return what it replaces, by section of the configuration."""
        names = {
            "data": ("num_segments", "frames_per_segment", "sampling", "frame_stride"),
            "optimizer": ("learning_rate",),
            "train": ("batch_norm",),
        }
        return {
            section: {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
            for section, fields in names.items()
        }


@dataclass(frozen=True)
class PhaseConfig(ClipConfig):
    """A phase: so many epochs of these clips. It continues from the weights of the one before, with a new optimizer."""

    epochs: int = 1
    """Epochs of this phase."""

    def __post_init__(self) -> None:
        check_minimum(self, 1, "epochs", prefix="phases: ")
