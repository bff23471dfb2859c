"""What a run reads and how: the dataset folders, the sampling of frames, the crops, the decode node."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from sharding.errors import check_minimum

Decoder = Literal["auto", "pyav", "nvdec", "jpeg", "nvjpeg"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JPEG_DECODERS = ("jpeg", "nvjpeg")
"""Decode nodes that are fed single frames; the others are fed clips."""

# May differ between a run and its continuation: where the data is and how fast it comes, not what the clips are.
MUTABLE_ON_RESUME = {
    *(
        "train",
        "val",
        "cache_dir",
        "cache_gigabytes",
        "decoder",
        "num_workers",
        "prefetch_batches",
        "worker_type",
        "worker_timeout_seconds",
    ),
    *("test_clips", "test_crops", "min_frames", "on_bad_sample", "max_bad_samples"),
}


_AUGMENT_LIMITS = (("rand_augment_magnitude", 30), ("rand_augment_std", 30), ("random_erasing", 1))


@dataclass(frozen=True)
class DataConfig:
    """The data: packed datasets, frame sampling, cropping and decoding."""

    train: str | None = None
    """Folder or URL (s3://, gs://, https://) of the packed training split: the one that holds manifest.json."""
    val: str | None = None
    """Folder or URL of the packed validation split; its classes must be those of the training split."""
    cache_dir: str | None = None
    """Folder for the shards of remote splits, best on a fast local disk; default $VPSN_CACHE, else ~/.cache/vpsn."""
    cache_gigabytes: float = 100.0
    """Maximum that the shards in that folder may take."""
    num_segments: int = 8
    """Segments of a clip, each of frames_per_segment frames; of a dense clip its frames."""
    frames_per_segment: int = 1
    """Frames of a segment, which follow each other in the stored video; a clip has num_segments times as many."""
    sampling: Literal["segments", "dense"] = "segments"
    """segments: the video is cut into num_segments equal parts and frames_per_segment frames are taken from each;
    dense: num_segments frames that are frame_stride apart, from one start; beyond the end the video begins again."""
    frame_stride: int = 8
    """Frames of the stored video from one frame of a dense clip to the next."""
    min_frames: int = 1
    """Refuse a dataset in which a video has fewer frames than this."""
    short_side: int = 256
    """Short side in pixels to which frames are scaled before cropping."""
    crop_size: int = 224
    """Side in pixels of the square that the network sees; at most short_side."""
    mean: tuple[float, ...] = ()
    """Mean of red, green and blue that is subtracted from the pixels, where white is 1. By default that with which the
    weights of model.pretrained were trained, and where there are none ImageNet's: 0.485 0.456 0.406."""
    std: tuple[float, ...] = ()
    """Standard deviation that the pixels are then divided by, by default as for mean; ImageNet's: 0.229 0.224 0.225."""
    crop: Literal["random", "multi_scale", "random_resized", "center"] = "random"
    """Crop in training. random: a square of crop_size anywhere; multi_scale: as TSN, height and width 1, 0.875, 0.75 or
    0.66 of the short side, at most one step apart, at one of 13 places; random_resized: 8 to 100 % of the area,
    3:4 to 4:3; center. The latter three are scaled to crop_size."""
    flip: bool = True
    """In training mirror half of the clips; labels listed as flip pairs in the manifest change sides with them."""
    color_jitter: float = 0.0
    """In training multiply brightness, contrast and saturation of a clip by factors from [1 - x, 1 + x]."""
    hue_jitter: float = 0.0
    """In training turn the hue of a clip by up to this many degrees."""
    grayscale: float = 0.0
    """In training the fraction of clips that lose their colour."""
    rand_augment: int = 0
    """In training the number of RandAugment's operations (shear, rotate, posterize, …) on each clip, drawn once for all
    of its frames; 0 has none."""
    rand_augment_magnitude: float = 9.0
    """How strong these operations are, 0 to 30."""
    rand_augment_std: float = 0.0
    """Standard deviation by which the magnitude of each operation varies."""
    random_erasing: float = 0.0
    """In training the fraction of clips of which a box, 2 to 33 % of the crop and the same in all frames, is filled
    with the mean colour."""
    test_clips: int = 1
    """Clips of each video in evaluation, evenly shifted in time."""
    test_crops: Literal[1, 3, 10] = 1
    """Crops of each clip in evaluation. 1: the centre; 3: both ends and the middle of the longer side; 10: the corners
    and the centre, and the same mirrored. The mean of the scores of all views counts."""
    shuffle: Literal["global", "block"] = "global"
    """global: an epoch is a permutation of all samples; block: samples are shuffled within blocks of a few shards, in a
    new order of the shards each epoch, so that slow or remote disks are read nearly in sequence."""
    shuffle_block_shards: int = 4
    """Shards in a block."""
    shuffle_streams: int = 8
    """Blocks that a batch is mixed from; each rank reads its part of them. Fewer if the batch size asks for it."""
    class_sampling_exponent: float = 1.0
    """In training a class is drawn in proportion to its number of samples to this power. 1: each sample once an epoch;
    0: each class equally often, so that samples of rare ones come several times, each time with other frames and crops,
    and not all of frequent ones; 0.5, the square root, is between."""
    on_bad_sample: Literal["raise", "quarantine"] = "raise"
    """A sample that cannot be read or decoded in training. raise: end with its shard and key; quarantine: all ranks
    leave it out from there on."""
    max_bad_samples: int = 100
    """With quarantine: end when more samples than this had to be left out."""
    decoder: Decoder = "auto"
    """Decode node. For shards of the jpeg profile jpeg (CPU) or nvjpeg (GPU); for the others pyav (CPU, in the workers)
    or nvdec (GPU). auto takes the one that fits, and of two that fit on a GPU the one measured as the faster."""
    worker_type: Literal["process", "thread"] = "process"
    """process: read and decode in worker processes, which share memory with this one; thread: in threads of this
    process, which take turns at its interpreter, so that more than some four of them gain nothing."""
    num_workers: int = 0
    """Workers per rank that read and, with pyav, decode; 0 takes one for each CPU core that the rank may use."""
    prefetch_batches: int = 4
    """Batches that the workers may be ahead of the graph; they bound the loader's memory."""
    worker_timeout_seconds: float = 120.0
    """Longest time for a sample; a worker process that takes longer is ended, and the sample counts as bad."""

    def __post_init__(self) -> None:
        counts = (
            "num_segments",
            "frames_per_segment",
            "frame_stride",
            "min_frames",
            "short_side",
            "crop_size",
            "test_clips",
            "prefetch_batches",
        )
        check_minimum(self, 1, *counts, "shuffle_block_shards", "shuffle_streams", prefix="data.")
        check_minimum(self, 0, "num_workers", "max_bad_samples", "rand_augment", prefix="data.")
        if self.sampling == "dense" and self.frames_per_segment != 1:
            raise ValueError(
                f"data.frames_per_segment={self.frames_per_segment}: data.sampling=dense has no segments; use 1, and "
                "num_segments for the number of frames"
            )
        self._check_statistics()
        for name, largest in (
            *(("color_jitter", 1), ("hue_jitter", 180), ("grayscale", 1), ("class_sampling_exponent", 1)),
            *_AUGMENT_LIMITS,
        ):
            if not 0 <= getattr(self, name) <= largest:
                raise ValueError(f"data.{name}={getattr(self, name)}: use 0 to {largest}")
        if not self.worker_timeout_seconds > 0:
            raise ValueError(f"data.worker_timeout_seconds={self.worker_timeout_seconds}: use more than 0")
        if not self.cache_gigabytes > 0:
            raise ValueError(f"data.cache_gigabytes={self.cache_gigabytes}: use more than 0")
        if self.crop_size > self.short_side:
            raise ValueError(
                f"data.crop_size={self.crop_size} is larger than data.short_side={self.short_side}: "
                "lower the one or raise the other"
            )

    def _check_statistics(self) -> None:
        for name, lowest in (("mean", 0.0), ("std", 1e-6)):
            values = getattr(self, name)
            if (values and len(values) != 3) or not all(lowest <= value <= 1 for value in values):
                hint = "; divide by 255" if any(value > 1 for value in values) else ""
                raise ValueError(
                    f"data.{name}={list(values)}: use a number for each of red, green and blue, {lowest:g} to 1{hint}"
                )
            object.__setattr__(self, name, tuple(map(float, values)))

    @property
    def pixel_mean(self) -> tuple[float, ...]:
        """The mean in units of 8-bit pixels."""
        return tuple(value * 255 for value in self.mean or IMAGENET_MEAN)

    @property
    def pixel_std(self) -> tuple[float, ...]:
        """The standard deviation in units of 8-bit pixels."""
        return tuple(value * 255 for value in self.std or IMAGENET_STD)

    @property
    def frames_per_clip(self) -> int:
        """T, the frames of a clip."""
        return self.num_segments * self.frames_per_segment

    @property
    def cache_bytes(self) -> int:
        """Return the maximum of bytes that the shards of remote splits may take."""
        return round(self.cache_gigabytes * 1e9)

    @property
    def num_views(self) -> int:
        """Views of a video in evaluation: clips times crops."""
        return self.test_clips * self.test_crops

    @property
    def changes_color(self) -> bool:
        """Whether training clips are changed in colour."""
        return bool(self.color_jitter or self.hue_jitter or self.grayscale)

    def sampling_settings(self) -> dict[str, object]:
        """Return the settings that shape training clips: two runs whose batches are to be the same must share them."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        settings |= {"mean": self.mean or IMAGENET_MEAN, "std": self.std or IMAGENET_STD}
        return {name: value for name, value in settings.items() if name not in MUTABLE_ON_RESUME}


def is_remote(location: str | Path) -> bool:
    """Return whether a dataset's location is a URL."""
    return "://" in str(location)
