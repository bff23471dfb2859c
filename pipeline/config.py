"""What a run reads and how: the dataset folders, the sampling of frames, the crop, the decode node."""

from dataclasses import dataclass
from typing import Literal

Decoder = Literal["auto", "pyav", "nvdec", "jpeg"]


@dataclass(frozen=True)
class DataConfig:
    """The data: packed datasets, frame sampling, cropping and decoding."""

    train: str | None = None
    """Folder of the packed training split: the one that holds manifest.json."""
    val: str | None = None
    """Folder of the packed validation split; its classes must be those of the training split."""
    num_segments: int = 8
    """Frames per clip: the video is cut into this many equal segments and one frame is taken from each."""
    short_side: int = 256
    """Short side in pixels to which frames are scaled before cropping."""
    crop_size: int = 224
    """Side in pixels of the square crop, random in training and central in evaluation; at most short_side."""
    flip: bool = True
    """In training mirror half of the clips; labels listed as flip pairs in the manifest change sides with them."""
    decoder: Decoder = "auto"
    """Decode node: jpeg for shards of the jpeg profile; for the others pyav (CPU, in the reading threads) or nvdec
    (GPU); auto takes the one that fits, and nvdec where there is a GPU."""
    reading_threads: int = 0
    """Threads per process that read and, with pyav, decode; 0 takes one per CPU core."""
    read_ahead: int = 4
    """Batches that the reading threads may be ahead of the network."""

    def __post_init__(self) -> None:
        for name in ("num_segments", "short_side", "crop_size", "read_ahead"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: use 1 or more")
        if self.crop_size > self.short_side:
            raise ValueError(
                f"data.crop_size={self.crop_size} is larger than data.short_side={self.short_side}: "
                "lower the one or raise the other"
            )
        if self.reading_threads < 0:
            raise ValueError(f"data.reading_threads={self.reading_threads}: use 0 (one per core) or more")
