"""Packs one split of a dataset: annotations -> plan -> shards, by any number of workers -> table -> manifest."""

import contextlib
import errno
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib

from sharding.datasets import find_reader
from sharding.datasets.common import is_number
from sharding.datasets.flip_pairs import mirrored_pairs
from sharding.errors import UserError, WorkerKilledError, redacted
from sharding.manifest import Manifest
from sharding.objects.inputs import local_files
from sharding.objects.split import ObjectDestination, recorded_settings_at
from sharding.objects.work_folder import split_folder, work_folder
from sharding.pack_config import PackConfig
from sharding.packing.destination import Destination, FolderDestination
from sharding.packing.measure import samples_for_bytes
from sharding.packing.partition import default_samples_per_shard, plan_shards
from sharding.packing.progress import with_progress
from sharding.packing.sandbox import close_thread_sandbox
from sharding.packing.shard import LabelIds, ShardTask
from sharding.packing.split_folder import PackPlan, recorded_settings
from sharding.packing.streamed import encode_streamed
from sharding.packing.video_store import VideoStore, open_store
from sharding.records import Annotations, check_inside, check_records, read_classes, with_classes

log = logging.getLogger("sharding.pack")

LISTINGS = ".listings"
"""Folder in --out for what was found to be in archives."""


@dataclass(frozen=True)
class PackResult:
    """What `pack` made, or found complete."""

    directory: Path
    """Folder of the split; of one in object storage, where it was until it was uploaded."""
    samples: int
    shards: int
    bytes: int
    """Of all shards together."""
    failures: int
    """Videos that could not be packed; failures.jsonl lists each with its reason."""
    fingerprint: str
    already_complete: bool
    """Whether the split was complete before, so that nothing was done."""
    url: str = ""
    """Where the split is, if that is object storage."""

    @property
    def location(self) -> str:
        """The folder or URL of the split, as `open_dataset` takes it."""
        return self.url or str(self.directory)


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
        _check_listing(config)
    _check_files(config)
    store = _open_store(config)
    annotations = read_annotations(config, annotations, store)
    plan = make_plan(config, annotations, store)
    destination = _destination(config, plan)
    try:
        with destination.claim() as manifest:
            if manifest:
                return _result(destination, manifest, already_complete=True)
            num_failures = _run(config, plan, store, destination)
            failures = destination.write_failures()
            _check_failures(config, failures, num_failures, len(annotations.records))
            return _result(destination, destination.complete(), already_complete=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise IncompleteError(
            f"no space left for {destination.directory}; free some and run it again: it resumes from here"
        ) from error
    except WorkerKilledError as error:
        raise IncompleteError(str(error)) from error


def _open_store(config: PackConfig) -> VideoStore:
    """Open the videos; listings of archives are kept, in a folder that is this user's alone. Raises UserError."""
    if not isinstance(config.out, str):
        return open_store(config.videos, config.scratch / LISTINGS)
    folder = work_folder(config.work_dir, config.out)
    try:
        return open_store(config.videos, folder / LISTINGS)
    finally:
        with contextlib.suppress(OSError):  # not empty: with listings, or shards of an earlier run
            folder.rmdir()


def _destination(config: PackConfig, plan: PackPlan) -> Destination:
    if config.url is None:
        return FolderDestination(config.directory, plan, config.retry_failed)
    directory = split_folder(config.url, config.work_dir)
    return ObjectDestination(config.url, directory, config.work_dir, plan, config.retry_failed)


def _check_failures(config: PackConfig, failures: str, num_failures: int, num_records: int) -> None:
    if num_failures > math.ceil(config.max_failures * num_records):
        raise IncompleteError(
            f"{num_failures} of {num_records} videos failed, more than --max-failures {config.max_failures:g}; "
            f"{failures} says why. Not declared complete: mend the videos or the paths and "
            "run it again with --retry-failed, or raise --max-failures"
        )


def _result(destination: Destination, manifest: Manifest, already_complete: bool) -> PackResult:
    return PackResult(
        directory=destination.directory,
        url=destination.url,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=manifest.bytes,
        failures=manifest.failures,
        fingerprint=manifest.fingerprint,
        already_complete=already_complete,
    )


def _check_apart(config: PackConfig) -> None:
    """Raise UserError if what is packed would be among the videos that are read, the next time if not now."""
    if isinstance(config.videos, str) or isinstance(config.out, str):
        videos, out = str(config.videos).rstrip("/"), str(config.out).rstrip("/")
        if f"{out}/".startswith(f"{videos}/"):
            raise UserError(f"--out {out}: inside --videos {redacted(videos)}; give a URL outside of it")
        return
    videos, out = (Path(os.path.realpath(path)) for path in (config.videos, config.out))  # whatever links there are
    if videos != Path(videos.anchor) and out.is_relative_to(videos):  # lists may name files from the root on
        raise UserError(f"--out {config.out}: inside --videos {config.videos}; give a folder outside of it")


def _check_listing(config: PackConfig) -> None:
    """Raise UserError if class folders are to be found where none can be listed."""
    videos = str(config.videos)
    if config.dataset == "folder" and videos.startswith(("http://", "https://")):
        raise UserError(
            f"--videos {redacted(videos)}: a web server does not list its class folders; give --dataset list with "
            "--annotations"
        )


def _check_files(config: PackConfig) -> None:
    for path in (*config.annotations, *([config.classes] if config.classes else [])):
        if isinstance(path, Path) and not path.is_file():
            raise UserError(f"{path}: no such file")


def read_annotations(
    config: PackConfig, given: Annotations | None = None, store: VideoStore | None = None
) -> Annotations:
    """Return the records and classes of the split, checked: those `given`, else what the reader `config.dataset` lists.

    Raises:
        UserError: no such reader, folder or file, no videos for the split, or records that contradict each other.
    """
    read = find_reader(config.dataset) if given is None else lambda *_: given
    store = store or _open_store(config)
    _check_files(config)
    with store.as_folder() as videos, local_files(config.annotations) as files:
        annotations = read(videos, files, config.split)
    if not isinstance(annotations, Annotations):
        kind = type(annotations).__name__
        raise UserError(f"--dataset {config.dataset}: it returned a {kind}, not sharding.records.Annotations")
    if config.classes:
        with local_files([config.classes]) as [classes]:
            annotations = _with_names(annotations, read_classes(classes))
    if not annotations.records:
        raise UserError(f"--split {config.split}: no videos are listed for it")
    if annotations.passed_over:
        log.warning("sharding pack: %s", describe_passed_over(annotations.passed_over))
    check_records(annotations)
    if given is None:
        check_inside(annotations)
    if not annotations.has_labels:
        log.warning("sharding pack: the videos of %s have no labels; predictions alone can be made", config.split)
    return annotations


def _with_names(annotations: Annotations, classes: tuple[str, ...]) -> Annotations:
    """Return `annotations` with the classes of --classes, and the pairs of them that a mirror exchanges."""
    say_no_sides = annotations.multi_label or all(map(is_number, annotations.classes))
    annotations = with_classes(annotations, classes)
    if annotations.flip_pairs or not say_no_sides:
        return annotations
    return replace(annotations, flip_pairs=mirrored_pairs(classes))


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
        recorded = recorded_settings_at(config.url) if config.url else recorded_settings(config.directory)
        if {name: recorded.get(name) for name in settings} == settings:
            settings |= {"samples_per_shard": recorded["samples_per_shard"]}
        else:
            store = store or _open_store(config)
            how = (config.profile_settings, config.limits, config.seed)
            settings |= {"samples_per_shard": samples_for_bytes(config.shard_bytes, store, annotations.records, *how)}
    else:
        settings |= {"samples_per_shard": config.samples_per_shard or default_samples_per_shard(num_records)}
    shards = plan_shards(num_records, settings["samples_per_shard"], config.seed)
    return PackPlan(config.dataset, config.split, annotations, shards, settings)


def _run(config: PackConfig, plan: PackPlan, store: VideoStore, destination: Destination) -> int:
    """Pack all shards that are not finished; return the number of failed videos."""
    on_cluster = config.backend == "dask"
    unfinished = destination.unfinished(_tasks(config, plan, store, destination))
    encode_streamed(store, unfinished, config.workers, on_cluster=on_cluster)
    with _backend(config):
        workers = -1 if on_cluster else min(config.workers, len(plan.shards))
        results = destination.pack(_tasks(config, plan, store, destination), workers)
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


def _tasks(config: PackConfig, plan: PackPlan, store: VideoStore, destination: Destination) -> Iterator[ShardTask]:
    annotations = plan.annotations
    label_ids = LabelIds(annotations)
    for number, members in enumerate(plan.shards):
        records = tuple(annotations.records[i] for i in members)
        yield ShardTask(
            directory=destination.directory.absolute(),
            shard=number,
            videos=store.subset(record.source for record in records),
            records=records,
            labels=tuple(map(label_ids.of_class, records)),
            level_labels=tuple(map(label_ids.of_levels, records)),
            settings=config.profile_settings,
            limits=config.limits,
            retry_failed=config.retry_failed,
        )
