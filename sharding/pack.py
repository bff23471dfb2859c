"""Packs one split of a dataset: annotations -> plan -> shards, by any number of workers -> table -> manifest."""

import contextlib
import errno
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib

from sharding.datasets import find_reader
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError
from sharding.manifest import FAILURES, Manifest
from sharding.packing.measure import samples_for_bytes
from sharding.packing.partition import default_samples_per_shard, plan_shards
from sharding.packing.profiles import PROFILES, ProfileSettings
from sharding.packing.progress import with_progress
from sharding.packing.sandbox import Limits, close_thread_sandbox
from sharding.packing.shard import LabelIds, ShardTask, pack_shard
from sharding.packing.split_folder import PackPlan, claim_folder, complete, parts_of, recorded_settings, write_failures
from sharding.packing.streamed import encode_streamed
from sharding.packing.video_store import VideoStore, open_store
from sharding.parallel import run_in_workers
from sharding.records import Annotations, check_records, read_classes, with_classes
from sharding.video.frame_folder import check_template

log = logging.getLogger("sharding.pack")

LISTINGS = ".listings"
"""Folder in --out for what was found to be in archives."""


@dataclass(frozen=True)
class PackConfig:
    """What to pack, in what form, and by whom."""

    dataset: str
    """How videos and annotations are laid out: folder (a folder for each class), list (lines of `path label`),
    list-multilabel (lines of `path label label …`), or as one of the published datasets (docs/datasets.md); or a reader
    of your own, as MODULE:FUNCTION (docs/extending.md)."""
    videos: Path
    """Folder that holds the videos; or archives that do: a .tar, .tar.gz, .tgz or .zip, a folder in one
    (UCF101.zip/UCF-101), or a folder with nothing but such archives. They are not unpacked."""
    out: Path
    """Folder for the packed dataset; the split gets its own folder in it."""
    split: str = "train"
    """Split to pack; names the folder in --out."""
    annotations: tuple[Path, ...] = ()
    """Annotation files, as published with the dataset. With those of all splits, classes are numbered alike."""
    classes: Path | None = None
    """File with a class name a line, in the order of the label ids. Default: as the dataset orders them."""
    profile: str = "h264"
    """In what form frames are stored: h264 (at most --max-frames frames, each a keyframe), jpeg (the same frames as a
    row of JPEGs: three times the bytes, twice the speed of loading), dense (all frames, every 8th a keyframe), copy
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
    workers: int = os.cpu_count() or 1
    """Videos that are encoded at the same time. The bytes do not depend on it."""
    backend: str = "loky"
    """Who runs the workers: loky (processes on this machine) or dask (a cluster that shares the folders)."""
    scheduler: str | None = None
    """Address of the Dask scheduler, such as tcp://10.0.0.1:8786, for the backend dask."""

    def __post_init__(self):
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
            ("time_limit", 1, math.inf),
            ("memory_limit", 0.01, math.inf),
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
        if self.backend not in ("loky", "dask"):
            raise UserError(f"--backend {self.backend}: known are loky, dask")
        if (self.backend == "dask") != bool(self.scheduler):
            raise UserError("--backend dask and --scheduler tcp://HOST:PORT: one needs the other")

    @property
    def directory(self) -> Path:
        return self.out / self.split

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


@dataclass(frozen=True)
class PackResult:
    """What `pack` made, or found complete."""

    directory: Path
    """Folder of the split."""
    samples: int
    shards: int
    bytes: int
    """Of all shards together."""
    failures: int
    """Videos that could not be packed; failures.jsonl lists each with its reason."""
    fingerprint: str
    already_complete: bool
    """Whether the split was complete before, so that nothing was done."""


class IncompleteError(UserError):
    """A split that could not be completed; what is finished is kept, and packing it again resumes from there."""


def pack(config: PackConfig, annotations: Annotations | None = None) -> PackResult:
    """Pack a split.

    Args:
        config: what to pack, and how.
        annotations: the videos, instead of those that the reader `config.dataset` lists; `config.dataset` is then any
            name, which the manifest records.

    Raises:
        IncompleteError: too many videos failed, the disk is full, or a worker was killed.
        UserError: the input or the output folder is not as it must be; nothing was written.
    """
    _check_apart(config)
    if annotations is None:
        find_reader(config.dataset)  # before archives are listed, which may take minutes
    _check_files(config)
    store = open_store(config.videos, config.out / LISTINGS)
    annotations = read_annotations(config, annotations, store)
    plan = make_plan(config, annotations, store)
    with claim_folder(config.directory, plan, config.retry_failed) as manifest:
        if manifest:
            return _result(config, manifest, already_complete=True)
        try:
            num_failures = _run(config, plan, store)
            write_failures(config.directory, parts_of(config.directory, len(plan.shards)))
            _check_failures(config, num_failures, len(annotations.records))
            manifest = complete(config.directory, plan, parts_of(config.directory, len(plan.shards)))
            return _result(config, manifest, already_complete=False)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise IncompleteError(
                f"no space left for {config.directory}; free some and run it again: it resumes from here"
            ) from error
        except BrokenProcessPool as error:
            raise IncompleteError(
                "a worker process was killed, perhaps for want of memory; run it again, with fewer --workers"
            ) from error


def _check_failures(config: PackConfig, num_failures: int, num_records: int) -> None:
    if num_failures > math.ceil(config.max_failures * num_records):
        raise IncompleteError(
            f"{num_failures} of {num_records} videos failed, more than --max-failures {config.max_failures:g}; "
            f"{config.directory / FAILURES} says why. Not declared complete: mend the videos or the paths and "
            "run it again with --retry-failed, or raise --max-failures"
        )


def _result(config: PackConfig, manifest: Manifest, already_complete: bool) -> PackResult:
    return PackResult(
        directory=config.directory,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=manifest.bytes,
        failures=manifest.failures,
        fingerprint=manifest.fingerprint,
        already_complete=already_complete,
    )


def _check_apart(config: PackConfig) -> None:
    """Raise UserError if what is packed would be among the videos that are read, the next time if not now."""
    videos, out = config.videos.resolve(), config.out.resolve()
    if videos != Path(videos.anchor) and out.is_relative_to(videos):  # lists may name files from the root on
        raise UserError(f"--out {config.out}: inside --videos {config.videos}; give a folder outside of it")


def _check_files(config: PackConfig) -> None:
    for path in (*config.annotations, *([config.classes] if config.classes else [])):
        if not path.is_file():
            raise UserError(f"{path}: no such file")


def read_annotations(
    config: PackConfig, given: Annotations | None = None, store: VideoStore | None = None
) -> Annotations:
    """Return the records and classes of the split, checked: those `given`, else what the reader `config.dataset` lists.

    Raises:
        UserError: no such reader, folder or file, no videos for the split, or records that contradict each other.
    """
    read = find_reader(config.dataset) if given is None else lambda *_: given
    store = store or open_store(config.videos, config.out / LISTINGS)
    _check_files(config)
    with store.as_folder() as videos:
        annotations = read(videos, config.annotations, config.split)
    if not isinstance(annotations, Annotations):
        kind = type(annotations).__name__
        raise UserError(f"--dataset {config.dataset}: it returned a {kind}, not sharding.records.Annotations")
    if config.classes:
        annotations = with_classes(annotations, read_classes(config.classes))
        if annotations.multi_label and not annotations.flip_pairs:  # labels that were numbers say nothing of sides
            annotations = replace(annotations, flip_pairs=mirrored_pairs(annotations.classes))
    if not annotations.records:
        raise UserError(f"--split {config.split}: no videos are listed for it")
    if annotations.passed_over:
        log.warning("sharding pack: %s", describe_passed_over(annotations.passed_over))
    check_records(annotations)
    if not annotations.has_labels:
        log.warning("sharding pack: the videos of %s have no labels; predictions alone can be made", config.split)
    return annotations


def describe_passed_over(paths: Sequence[str]) -> str:
    """Return one line about the files that are no videos by their names.

    >>> describe_passed_over(["a/1.nfo", "a/2.nfo", "b/x.png"])
    '3 files passed over that are no videos by their suffix: .nfo (2), .png (1), such as a/1.nfo'
    """
    suffixes = Counter(Path(path).suffix.lower() or "none" for path in paths)
    kinds = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes.most_common(5))
    more = ", ..." if len(suffixes) > 5 else ""
    return f"{len(paths)} files passed over that are no videos by their suffix: {kinds}{more}, such as {paths[0]}"


def make_plan(config: PackConfig, annotations: Annotations, store: VideoStore | None = None) -> PackPlan:
    num_records = len(annotations.records)
    settings: dict[str, Any] = asdict(config.profile_settings) | {"seed": config.seed}
    if config.frame_template is None:
        del settings["frame_template"]  # so that the fingerprint is that of versions without this option
    if config.shard_bytes:
        settings |= {"shard_bytes": config.shard_bytes}
        recorded = recorded_settings(config.directory)
        if {name: recorded.get(name) for name in settings} == settings:
            settings |= {"samples_per_shard": recorded["samples_per_shard"]}
        else:
            store = store or open_store(config.videos, config.out / LISTINGS)
            how = (config.profile_settings, config.limits, config.seed)
            settings |= {"samples_per_shard": samples_for_bytes(config.shard_bytes, store, annotations.records, *how)}
    else:
        settings |= {"samples_per_shard": config.samples_per_shard or default_samples_per_shard(num_records)}
    shards = plan_shards(num_records, settings["samples_per_shard"], config.seed)
    return PackPlan(config.dataset, config.split, annotations, shards, settings)


def _run(config: PackConfig, plan: PackPlan, store: VideoStore) -> int:
    """Pack all shards that are not finished; return the number of failed videos."""
    encode_streamed(store, _tasks(config, plan, store), config.workers, on_cluster=config.backend == "dask")
    with _backend(config):
        workers = min(config.workers, len(plan.shards)) if config.backend == "loky" else -1
        results = run_in_workers(pack_shard, _tasks(config, plan, store), workers, ordered=False)
        try:
            return sum(result.failures for result in with_progress(results, len(plan.annotations.records)))
        finally:
            close_thread_sandbox()  # where this process was its own worker


@contextlib.contextmanager
def _backend(config: PackConfig) -> Iterator[None]:
    if config.backend == "loky":
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--backend dask: not installed; run pip install 'vpsn[dask]'") from None
    try:
        client = Client(config.scheduler, timeout=5)
    except (OSError, ValueError) as error:
        raise UserError(f"--scheduler {config.scheduler}: no Dask scheduler answers there ({error})") from error
    with client, joblib.parallel_config(backend="dask", client=client, wait_for_workers_timeout=60):
        yield


def _tasks(config: PackConfig, plan: PackPlan, store: VideoStore) -> Iterator[ShardTask]:
    annotations = plan.annotations
    label_ids = LabelIds(annotations)
    for number, members in enumerate(plan.shards):
        records = tuple(annotations.records[i] for i in members)
        yield ShardTask(
            directory=config.directory.absolute(),
            shard=number,
            videos=store.subset(record.source for record in records),
            records=records,
            labels=tuple(map(label_ids.of_class, records)),
            level_labels=tuple(map(label_ids.of_levels, records)),
            settings=config.profile_settings,
            limits=config.limits,
            retry_failed=config.retry_failed,
        )
