"""Options of `launch/benchmark.py`, a class for each of its commands; each is checked when it is made."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model.config import Depth
from sharding.cores import available_cores
from sharding.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
"""What holds the packages: a checkout, or the folder that they are installed in."""


def find_recipe(path: Path) -> Path:
    """Return a recipe, which may be named from here or as this project names it."""
    return path if path.exists() else ROOT / path


if TYPE_CHECKING:
    Positive = float
    PositiveInt = NonNegativeInt = int
else:
    from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

    Positive = restricted_number_type("Positive", float, [(">", 0), ("<", math.inf)])

CORES = available_cores()
KINETICS = {"Kinetics-400": (240_000, 20_000), "Kinetics-700": (545_000, 35_000)}


@dataclass(frozen=True)
class Options:
    """Options whose numbers are finite, not below 0, and 0 only where that is the default."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if not 0 <= value < math.inf or (value == 0 and each.default != 0):
                allowed = "0 or more" if each.default == 0 else "more than 0"
                finite = "" if math.isfinite(value) else ", and finite"
                raise UserError(f"--{each.name.replace('_', '-')} {value:g}: use {allowed}{finite}")


@dataclass(frozen=True)
class AdviseOptions(Options):
    """Pack a sample of your videos under every profile, load it as training does, and recommend a profile."""

    videos: Path
    """Folder that holds the videos, at any depth."""
    sample: int = 24
    """How many of them to try, chosen at random."""
    workers: int = CORES
    """Processes that pack."""
    num_segments: int = 8
    """Frames per clip."""
    crop_size: int = 224
    """Side of the crop in pixels."""
    seconds: float = 10.0
    """How long to load each."""
    batch_size: int = 8
    """Clips per batch."""
    num_videos: int | None = None
    """Videos in the complete dataset; by default as many as are found."""
    clips_per_second: float | None = None
    """Clips that the network takes in training; by default VPSN-50 is measured on this device."""


@dataclass(frozen=True)
class PackOptions(Options):
    """Pack videos, and let ffmpeg and tar do the same work, interleaved; also planning, and memory."""

    videos: Path
    """Folder that holds the videos, at any depth."""
    workers: int = CORES
    """Processes, ours and ffmpeg's."""
    copies: int = 1
    """Take each video so many times."""
    rounds: int = 3
    """How often to measure each."""
    records: int = 1_000_000
    """Videos in the list whose planning is measured."""


@dataclass(frozen=True)
class ArchivesOptions(Options):
    """Pack videos from archives, and from and to S3 on loopback, next to their folder; index shards of them."""

    videos: Path
    """Folder that holds the videos, at any depth."""
    workers: int = CORES
    """Processes that pack, index or decode."""
    copies: int = 1
    """Take each video so many times."""
    rounds: int = 3
    """How often to measure each."""
    only: Literal["tar", "tar.gz", "zip", "s3", "index"] | None = None
    """The only one to measure; default: all of them."""


@dataclass(frozen=True)
class LoaderOptions(Options):
    """Load a packed split as training does, stage by stage and together, and name the stage that binds."""

    data: str | None = None
    """Folder or URL of the packed split; default: data.train of --config."""
    config: Path | None = None
    """Recipe whose clips, batches and network are taken where the options below do not say otherwise."""
    num_segments: int | None = None
    """Frames per clip; default: as in --config, else 8."""
    crop_size: int | None = None
    """Side of the crop in pixels; default: as in --config, else 224."""
    short_side: int | None = None
    """Short side before cropping; default: as in --config, else 256, or the crop's side if that is larger."""
    batch_size: int | None = None
    """Clips per batch; default: as in --config, else 8."""
    seconds: float = 5.0
    """How long to measure each stage."""
    threads: int = 0
    """Workers, and threads of the other loaders; 0 takes one per core, or what --config says."""
    clips_per_second: float | None = None
    """Clips that the network takes in training; by default that of --config, else VPSN-50, is measured here."""
    compare_with: tuple[str, ...] = ()
    """Other loaders to compare with, interleaved: decord, torchcodec, pyav on the original files; frames, on all frames
    of them extracted as JPEGs."""
    videos: Path | None = None
    """Folder of the original files, as when packing; for --compare-with."""
    rounds: int = 3
    """How often to measure ours and the others, and each number of workers."""
    scaling: bool = False
    """Also measure the workers alone, from one to as many as there are cores, each on a core."""
    epochs: int = 0
    """Load so many epochs more, and report by how much memory grew from the second to the last."""


@dataclass(frozen=True)
class ScaleOptions(Options):
    """Plan an epoch for more samples and ranks than are at hand, and measure what a block shuffle costs in
    randomness."""

    samples: int = 10_000_000
    """Samples of the dataset."""
    ranks: int = 1024
    """Ranks that divide it among them."""
    batch_per_rank: int = 8
    """Clips of a rank in a step."""
    data: Path | None = None
    """A small packed split. With it, also how long a dataset of its shards over and over takes to its first batch."""
    first_batch_samples: int = 1_000_000
    """Samples of that dataset."""


@dataclass(frozen=True)
class StepOptions(Options):
    """Training steps on random clips, of several architectures interleaved; the first is the measure of the others."""

    archs: tuple[str, ...] = ("tsn", "vpsn")
    """Architectures."""
    depth: Depth = 50
    """Layers of the ResNet."""
    num_segments: int = 8
    """Frames per clip."""
    size: int = 224
    """Side of the frames in pixels."""
    batch_size: int = 2
    """Clips per step."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Arithmetic: bf16, fp16 or fp32."""
    rounds: int = 5
    """Measured steps of each."""
    usual: bool = False
    """Also tsn and vpsn as they are usually written, on volumes with channels first."""


@dataclass(frozen=True)
class RanksOptions(Options):
    """Train an epoch with each number of ranks on this machine, and compare their speeds."""

    data: Path
    """A packed training split."""
    config: Path = Path("launch/configs/demo/demo.yaml")
    """Recipe to train."""
    numbers: tuple[PositiveInt, ...] = (1, 2)
    """Numbers of ranks. On a CPU each rank gets as many of the cores as it has with the largest."""
    rounds: int = 1
    """How often to train with each."""


@dataclass(frozen=True)
class CostOptions(Options):
    """Estimate what training on Kinetics costs: GB, hours of packing, GPU-hours, loader cores."""

    config: Path = Path("launch/configs/kinetics/kinetics400_8f.yaml")
    """Recipe: epochs, batch size, network, clips, precision."""
    datasets: dict[str, tuple[PositiveInt, NonNegativeInt]] = field(default_factory=lambda: dict(KINETICS))
    """Training and validation videos by name, as {mine: [5000, 500]}; default: Kinetics-400 and Kinetics-700, the
    latter without its 70,000 test videos."""
    clips_per_second: tuple[Positive, ...] = ()
    """Clips that one GPU trains on, as measured by `step` on it; by default 100 to 800 are assumed."""
    loader_clips_per_second: dict[str, Positive] = field(default_factory=dict)
    """Clips that one core loads by profile, as {h264: 95}, in place of what was measured."""
    gpus: tuple[PositiveInt, ...] = (8, 64)
    """Numbers of GPUs to train on."""


@dataclass(frozen=True)
class GpuOptions(Options):
    """Check all that a GPU can show of this project, in under seven minutes, as one JSON."""

    videos: Path
    """Class folders with a few videos; they are packed again and again."""
    out: Path = Path("gpu.json")
    """File of the report."""
    work: Path = Path("data/gpu_check")
    """Folder for what the parts make; it can be removed afterwards."""
    seconds: float = 410.0
    """Time for all parts together; what does not fit is skipped."""
    only: tuple[str, ...] = ()
    """Only parts whose names begin like this, such as feed or train."""
    num_videos: int = 96
    """Samples to pack."""
    batch_size: int = 64
    """Clips per batch."""
    loader_seconds: float = 4.0
    """How long to measure each loader."""
    depth: Depth = 50
    """Layers of the networks that are measured."""
    num_steps: int = 200
    """Steps of each training."""
    patience: float = 1.0
    """What the parts' own limits of time are multiplied by."""


@dataclass(frozen=True)
class LongOptions(Options):
    """Classify a long video window by window, and compare with decoding each window by itself, as is usual."""

    video: Path | None = None
    """Clip that is repeated to make the long video; default: a generated one."""
    minutes: float = 2.0
    """Length of the long video."""
    width: int = 640
    """Width in pixels of the long video."""
    height: int = 360
    """Height in pixels."""
    window: float = 2.0
    """Seconds in a window."""
    stride: float = 1.0
    """Seconds from one window to the next."""
    num_segments: int = 8
    """Frames of each window."""
    crop_size: int = 112
    """Side of the crop in pixels."""
    short_side: int = 128
    """Short side before cropping."""
    depth: Depth = 18
    """Of the ResNet that classifies."""
    threads: int = CORES
    """Threads that decode, ours and the others'."""
    compare_with: tuple[str, ...] = ("pyav",)
    """What decodes each window by itself: pyav, decord, torchcodec."""
    compare_minutes: float = 1.0
    """How much of the video the others get, as they are slow."""
    scratch: Path | None = None
    """Folder for the long video; default: a temporary one."""
