"""What a split is packed from, in what form, and by whom: the options of `python -m sharding pack`."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from sharding.archives.locations import is_url
from sharding.cores import available_cores
from sharding.errors import UserError
from sharding.objects.folder import check_writable_url
from sharding.objects.work_folder import work_path
from sharding.packing.profiles import PROFILES, ProfileSettings
from sharding.packing.sandbox import LIMITS, Limits
from sharding.records import check_text
from sharding.video.frame_folder import check_template


@dataclass(frozen=True)
class PackConfig:
    """What to pack, in what form, and by whom."""

    dataset: str
    """How videos and annotations are laid out: folder (a folder for each class), list (lines of `path label`),
    list-multilabel (lines of `path label label …`), or as one of the published datasets (docs/datasets.md); or a reader
    of your own, as MODULE:FUNCTION (docs/extending.md)."""
    videos: str | Path
    """Folder that holds the videos; or archives that do: a .tar, .tar.gz, .tgz or .zip, a folder in one
    (UCF101.zip/UCF-101), or a folder with nothing but such archives, which are not unpacked; or the URL of a folder in
    object storage (s3://, gs://, abfs://) or, where annotations name the videos, on a web server (https://)."""
    out: str | Path
    """Folder for the packed dataset, or its URL (s3://, gs://, abfs://); the split gets its own folder in it."""
    split: str = "train"
    """Split to pack; names the folder in --out."""
    annotations: tuple[str | Path, ...] = ()
    """Annotation files or their URLs, as published with the dataset. With those of all splits, classes are numbered
    alike."""
    classes: str | Path | None = None
    """File, or its URL, with a class name a line, in the order of the label ids. Default: as the dataset orders
    them."""
    profile: str = "h264"
    """In what form frames are stored: h264 (at most --max-frames frames, each a keyframe), jpeg (the same frames as a
    row of JPEGs: twice the bytes, up to 1.6 times the speed of loading), dense (all frames, every 8th a keyframe), copy
    (the original bytes, checked by decoding)."""
    max_frames: int = 64
    """h264, jpeg: at most this many frames of a video are kept, evenly spaced in time."""
    short_side: int = 256
    """h264, jpeg, dense: longer short sides are scaled down to this many pixels; nothing is enlarged."""
    quality: int | None = None
    """h264, dense: the constant rate factor of x264, 0 (best) to 51, default 23. jpeg: 1 to 95 (best), default 85."""
    decode_check: bool = True
    """Decode what is stored as it came (copy, and JPEG files under jpeg). Without it, damage is found in training."""
    frame_template: str | None = None
    """Name of the frames in folders of pictures, such as img_{:05d}.jpg; files named otherwise are left out. Default:
    all JPEG or PNG files, which must then be named alike but for their numbers."""
    samples_per_shard: int | None = None
    """Videos in a shard. Default: a 64th of the dataset, at least 16, at most 1,024."""
    shard_bytes: int | None = None
    """Instead: about this many bytes in a shard, estimated from the first 32 videos of the order."""
    seed: int = 0
    """Seed of the order in which videos are in the shards."""
    max_failures: float = 0.05
    """Fraction of the videos that may fail, rounded up to a full video; with more, the split is not complete."""
    retry_failed: bool = False
    """Try the videos again that failed in finished shards, even if the split is complete."""
    time_limit: float = 120.0
    """Seconds for decoding and encoding one video, and one more for each MB of its file; then it has failed."""
    memory_limit: float = 4.0
    """Gigabytes that decoding and encoding one video may need; a video that wants more has failed."""
    workers: int = field(default_factory=available_cores)
    """Videos that are encoded at the same time. The bytes do not depend on it."""
    backend: str = "loky"
    """Who runs the workers: loky (processes on this machine) or dask (a cluster that shares the folders)."""
    scheduler: str | None = None
    """Address of the Dask scheduler, such as tcp://10.0.0.1:8786, for the backend dask."""
    work_dir: Path | None = None
    """Folder on this machine, and with dask on those of the workers, for shards until they are uploaded, where --out is
    a URL. Default: the folder of temporary files, $TMPDIR."""

    def __post_init__(self):
        for name in ("videos", "out", "classes"):
            object.__setattr__(self, name, _to_location(getattr(self, name)))
        object.__setattr__(self, "annotations", tuple(map(_to_location, self.annotations)))
        if is_url(self.out):
            check_writable_url(str(self.out))
        elif self.work_dir is not None:
            raise UserError(f"--work-dir {self.work_dir}: only for an --out that is a URL; leave it out")
        if self.profile not in PROFILES:
            raise UserError(f"--profile {self.profile}: known are {', '.join(PROFILES)}")
        quality = PROFILES[self.profile].quality
        if quality is None and self.quality is not None:
            raise UserError(f"--quality {self.quality}: the profile {self.profile} has none; leave it out")
        for name, low, high in [
            ("max_frames", 1, 1 << 20),
            ("short_side", 16, 8192),
            ("quality", *(quality or (0, 0))[:2]),
            ("samples_per_shard", 1, 1 << 20),
            ("shard_bytes", 1 << 10, 1 << 40),
            ("workers", 1, 4096),
            ("max_failures", 0, 1),
            ("seed", 0, (1 << 63) - 1),
            *((name, low, high) for name, (low, high) in LIMITS.items()),
        ]:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"--{name.replace('_', '-')} {value}: {low} to {high} is possible")
        if self.frame_template is not None:
            check_template(self.frame_template)
        if self.samples_per_shard and self.shard_bytes:
            raise UserError("--samples-per-shard and --shard-bytes: give only one of them")
        if not self.split or "/" in self.split or self.split.startswith("."):
            raise UserError(f"--split {self.split!r}: a plain name such as train is expected")
        for name in ("dataset", "split", "out"):
            check_text(str(getattr(self, name)), f"--{name}")
        if self.backend not in ("loky", "dask"):
            raise UserError(f"--backend {self.backend}: known are loky, dask")
        if (self.backend == "dask") != bool(self.scheduler):
            raise UserError("--backend dask and --scheduler tcp://HOST:PORT: one needs the other")

    @property
    def directory(self) -> Path:
        """The folder of the split, of an --out that is one."""
        assert isinstance(self.out, Path), "it is at self.url"
        return self.out / self.split

    @property
    def url(self) -> str | None:
        """The URL of the split, of an --out that is one."""
        return f"{self.out.rstrip('/')}/{self.split}" if isinstance(self.out, str) else None

    @property
    def scratch(self) -> Path:
        """Where what is not part of the dataset is kept: next to it, or on this machine."""
        return self.out if isinstance(self.out, Path) else work_path(self.work_dir, str(self.out))

    @property
    def profile_settings(self) -> ProfileSettings:
        quality = PROFILES[self.profile].quality
        chosen = (quality[2] if quality else 0) if self.quality is None else self.quality
        return ProfileSettings(
            self.profile, self.max_frames, self.short_side, chosen, self.decode_check, self.frame_template
        )

    @property
    def limits(self) -> Limits:
        return Limits(self.time_limit, int(self.memory_limit * 2**30))


def _to_location(given: str | Path | None) -> str | Path | None:
    """Return a URL as text, and all else as a path."""
    if isinstance(given, Path) and re.match("[a-z][a-z0-9]*:/[^/]", str(given)):
        raise UserError(f"{given}: a URL that was made a path, which loses a slash; give it as text")
    if given == "":
        raise UserError("an empty path, as of a variable that is not set; give a folder")
    return given if given is None or is_url(given) else Path(given)
