"""The options of heads over a sequence of frames, as plain data; those of the transformers are in `model.config`."""

from dataclasses import dataclass
from typing import Literal

from model.field_checks import check_counts, check_plain

MOST_MAPS = 256
"""That a temporal inception may end with; every layer multiplies them by the number of kernel lengths."""


@dataclass(frozen=True)
class LSTMConfig:
    """The LSTM of the head lstm, over the frames."""

    width: int = 256
    """Hidden units of a layer."""

    layers: int = 1
    """LSTM layers, each on the outputs of the one before."""

    def __post_init__(self) -> None:
        check_plain(self, "model.lstm")
        check_counts(self, "width", "layers", prefix="model.lstm")


@dataclass(frozen=True)
class TSLSTMConfig:
    """The LSTM of the head ts_lstm, over parts of the clip."""

    segments: int = 3
    """Equal parts that the frames of a clip are divided into, each a step of the LSTM."""

    pooling: Literal["max", "mean"] = "max"
    """What is kept of the frames of a part: the largest value of each feature, or the mean."""

    width: int = 512
    """Hidden units of a layer."""

    layers: int = 1
    """LSTM layers, each on the outputs of the one before."""

    def __post_init__(self) -> None:
        check_plain(self, "model.ts_lstm")
        check_counts(self, "segments", "width", "layers", prefix="model.ts_lstm")


@dataclass(frozen=True)
class TemporalInceptionConfig:
    """The temporal convolutions of the head temporal_inception."""

    kernel_lengths: tuple[int, ...] = (5, 7)
    """Frames that the kernels of a layer see, one branch for each, odd; with a single length it is a plain temporal
    ConvNet."""

    layers: int | None = None
    """Layers of convolution and max pooling; null takes as many as halve the frames of a clip down to 2 or 3, which the
    last one joins: 3 for 8 frames, 4 for 16 or 25."""

    width: int = 1024
    """Width of the layer before the classifier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel_lengths", tuple(self.kernel_lengths))
        check_plain(self, "model.temporal_inception")
        check_counts(self, "width", prefix="model.temporal_inception")
        lengths = self.kernel_lengths
        if not lengths or not all(type(length) is int and length > 0 and length % 2 for length in lengths):
            raise ValueError(
                f"model.temporal_inception.kernel_lengths={list(lengths)}: allowed are odd numbers, at least one"
            )
        if self.layers is not None:
            check_counts(self, "layers", prefix="model.temporal_inception")

    def num_layers(self, num_frames: int) -> int:
        """Return the layers over so many frames.

        >>> [TemporalInceptionConfig().num_layers(frames) for frames in (1, 2, 3, 4, 8, 16, 25)]
        [1, 1, 1, 2, 3, 4, 4]
        """
        return self.layers or max(1, num_frames.bit_length() - 1)

    def check_frames(self, num_frames: int) -> None:
        """Raise ValueError if over so many frames there would be more than MOST_MAPS maps."""
        layers, branches = self.num_layers(num_frames), len(self.kernel_lengths)
        if branches**layers > MOST_MAPS:
            raise ValueError(
                f"model.temporal_inception.layers={layers} with {branches} kernel_lengths: makes {branches**layers} "
                f"maps, allowed are {MOST_MAPS}; use fewer layers or lengths"
            )
