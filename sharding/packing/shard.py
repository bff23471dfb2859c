"""Packs one shard: the task that a worker process runs.

A finished shard is three files: the tar, its index, and a part file in `.parts/` with its rows, failures and hashes.
The part file is written last; without it the shard counts as not begun. Encoding itself happens in a sandbox.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import MediaError
from sharding.files import file_sha256, printable, write_atomically
from sharding.manifest import LABELS, NO_LABEL
from sharding.packing.fetching import fetch_all
from sharding.packing.profiles import EncodedSample, ProfileSettings
from sharding.packing.sandbox import Limits, Outcome, Request, thread_sandbox
from sharding.packing.spool import PARTS, read_spooled, remove_spooled
from sharding.packing.tar import Component, FileRange, TarWriter, UnreadableError, format_index
from sharding.packing.video_store import VideoStore
from sharding.records import Annotations, VideoRecord


@dataclass(frozen=True)
class ShardTask:
    """Everything a worker needs to pack shard number `shard` of the split in `directory`."""

    directory: Path
    shard: int
    videos: VideoStore
    """With the videos of the records."""
    records: tuple[VideoRecord, ...]
    labels: tuple[int | tuple[int, ...], ...]
    """Label id of each record, or where records have several labels all of its ids; NO_LABEL of all of them where there
    are none."""
    level_labels: tuple[dict[str, int], ...]
    """Label ids on further levels: one {level: label id} a record."""
    settings: ProfileSettings
    limits: Limits
    retry_failed: bool = False
    """Whether the videos that failed in a finished shard are tried again."""

    @property
    def name(self) -> str:
        return f"shard-{self.shard:06d}.tar"


class LabelIds:
    """The label ids of records; NO_LABEL of those without a label."""

    def __init__(self, annotations: Annotations):
        self._classes = {name: number for number, name in enumerate(annotations.classes)}
        self._levels = {level: {name: i for i, name in enumerate(names)} for level, names in annotations.levels}

    def of_class(self, record: VideoRecord) -> int | tuple[int, ...]:
        """Return its label id, or where there are `labels` all of their ids, ascending."""
        if record.labels is not None:
            return tuple(sorted(self._classes[label] for label in record.labels))
        return NO_LABEL if record.label is None else self._classes[record.label]

    def of_levels(self, record: VideoRecord) -> dict[str, int]:
        """Return the label ids by level."""
        if record.label is None:
            return dict.fromkeys(self._levels, NO_LABEL)
        return {level: ids[label] for (level, ids), label in zip(self._levels.items(), record.level_labels)}


@dataclass(frozen=True)
class ShardResult:
    """What is reported to the main process of a shard; the rest is in its part file."""

    shard: int
    samples: int
    failures: int
    kept: bool
    """Whether it was found finished."""


def pack_shard(task: ShardTask) -> ShardResult:
    """Pack the shard, unless it is there already with the bytes that its part file records.

    A video that fails becomes a line of `failures`. Raises OSError if the disk is full or cannot be written.
    """
    part = read_part(task.directory, task.shard)
    if part is not None and not _is_whole(task.directory, part):
        part = None
    kept = part is not None and not (task.retry_failed and part["failures"])
    if part is None or not kept:
        work = Path(tempfile.mkdtemp(prefix=f"work-{task.shard:06d}-", dir=task.directory / PARTS))
        try:
            part = _write_shard(task, work, part)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return ShardResult(task.shard, len(part["rows"]), len(part["failures"]), kept)


def read_part(directory: Path, shard: int) -> dict[str, Any] | None:
    """Return a shard's part file (name, bytes, sha256, index_sha256, rows, failures); None if it is not finished."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(part_path(directory, shard).read_text())
    return None


def write_part(directory: Path, shard: int, part: dict[str, Any]) -> None:
    """Declare a shard finished."""
    write_atomically(part_path(directory, shard), json.dumps(part))


def part_path(directory: Path, shard: int) -> Path:
    return directory / PARTS / f"shard-{shard:06d}.json"


def records_left(task: ShardTask) -> Sequence[VideoRecord]:
    """Return the records that `pack_shard` would encode: none of a finished shard, or with `retry_failed` those that
    failed."""
    part = read_part(task.directory, task.shard)
    if part is None or not _is_whole(task.directory, part):
        return task.records
    failed = {failure["key"] for failure in part["failures"]} if task.retry_failed else set()
    return [record for record in task.records if record.key in failed]


def _is_whole(directory: Path, part: dict[str, Any]) -> bool:
    tar = directory / part["name"]
    index = tar.with_suffix(".idx")
    return (
        tar.is_file()
        and tar.stat().st_size == part["bytes"]
        and index.is_file()
        and file_sha256(index) == part["index_sha256"]
        and file_sha256(tar) == part["sha256"]
    )


def _write_shard(task: ShardTask, work: Path, old_part: dict[str, Any] | None) -> dict[str, Any]:
    """Write the tar, its index and its part file; samples that `old_part` has are taken from the tar that is there."""
    old_rows = {row["key"]: row for row in old_part["rows"]} if old_part else {}
    to_encode = [record for record in task.records if record.key not in old_rows]
    outcomes = thread_sandbox(task.limits).encode_all(_requests(task, to_encode, work))
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    parent = os.getppid()
    with contextlib.closing(outcomes), TarWriter(work / task.name) as tar:
        for record, label, level_labels in zip(task.records, task.labels, task.level_labels, strict=True):
            if os.getppid() != parent:
                raise RuntimeError("the process that gave this task has died")
            if record.key in old_rows:
                rows.append(_copy_sample(tar, task.directory / task.name, old_rows[record.key]))
                continue
            mark = tar.mark()
            try:
                outcome = next(outcomes)
                if isinstance(outcome, MediaError):
                    raise outcome
                rows.append(_add_sample(tar, task.shard, record, label, level_labels, outcome))
            except (MediaError, UnreadableError) as error:
                tar.back_to(mark)
                failures.append(_failure(record, error))
    index = format_index(tar.components)
    part = {
        "name": task.name,
        "bytes": tar.size,
        "sha256": tar.sha256,
        "index_sha256": hashlib.sha256(index.encode()).hexdigest(),
        "rows": rows,
        "failures": failures,
    }
    final = task.directory / task.name
    (work / task.name).replace(final)
    (work / "index").write_text(index)
    (work / "index").replace(final.with_suffix(".idx"))
    write_part(task.directory, task.shard, part)
    remove_spooled(task.directory, task.shard)
    return part


def _requests(task: ShardTask, records: Iterable[VideoRecord], work: Path) -> Iterator[Request | Outcome]:
    """Yield what is to be encoded, or was already as its archive passed by."""
    spooled = {record.key: read_spooled(task.directory, task.shard, record.key) for record in records}
    to_encode = requests_of(task.videos, (r for r in records if spooled[r.key] is None), task.settings, work)
    for record in records:
        yield spooled[record.key] or next(to_encode)


def requests_of(
    videos: VideoStore, records: Iterable[VideoRecord], settings: ProfileSettings, work: Path
) -> Iterator[Request | MediaError]:
    """Yield what is to be encoded; what `work` holds of a video is gone when the second one after it is asked for."""
    with contextlib.closing(fetch_all(videos, records, work)) as fetched:
        for number, (record, path) in enumerate(fetched):
            if isinstance(path, MediaError):
                yield path
                continue
            target = work / f"media-{number % 2}"  # one is written while the other is made
            yield Request(path.parent, replace(record, source=path.name), settings, target)


def _copy_sample(tar: TarWriter, old_tar: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Write the components of a sample that another tar holds; return its row, changed."""
    row = dict(row)
    for part, suffix in [("media", row["suffix"]), ("index", "offsets"), ("cls", "cls"), ("json", "json")]:
        if part in ("index", "cls") and not row[f"{part}_bytes"]:
            continue
        content = FileRange(old_tar, row[f"{part}_offset"], row[f"{part}_bytes"])
        row |= _range(part, tar.add(f"{row['key']}.{suffix}", content))
    return row


def _add_sample(
    tar: TarWriter,
    shard: int,
    record: VideoRecord,
    label: int | tuple[int, ...],
    level_labels: dict[str, int],
    sample: EncodedSample,
) -> dict[str, Any]:
    """Write the components of a sample and return its row of the table."""
    media = tar.add(f"{record.key}.{sample.suffix}", sample.media)
    index = None
    if sample.offsets is not None and sample.suffix == "jpgs":
        index = tar.add(f"{record.key}.offsets", np.ascontiguousarray(sample.offsets, "<i4").tobytes())
    # Of several labels there is no .cls, which readers of others take for one number; KEY.json has them.
    is_one = isinstance(label, int) and label != NO_LABEL
    cls = tar.add(f"{record.key}.cls", str(label).encode()) if is_one else None
    labels = {"label": label} if isinstance(label, int) else {LABELS: list(label)}
    labels |= {f"label_{level}": number for level, number in level_labels.items()}
    shared = {
        "key": record.key,
        "num_frames": sample.num_frames,
        "fps": sample.fps,
        "width": sample.width,
        "height": sample.height,
        "source": printable(record.source),
        "sha256": media.sha256,
    } | ({} if label == NO_LABEL else labels)
    about = shared | {
        **_label_names(record),
        "start_seconds": record.start_seconds,
        "end_seconds": record.end_seconds,
        **sample.details,
    }
    description = tar.add(f"{record.key}.json", json.dumps(about, sort_keys=True).encode())
    return (
        labels
        | shared
        | {
            "suffix": sample.suffix,
            "notes": sample.notes,
            "shard": shard,
            **_range("media", media),
            **_range("index", index),
            **_range("cls", cls),
            **_range("json", description),
            "frame_offsets": None if sample.offsets is None else sample.offsets.tolist(),
            "codec_parameters": sample.codec_parameters,
        }
    )


def _label_names(record: VideoRecord) -> dict[str, Any]:
    """Return what KEY.json says of the labels in words."""
    if record.labels is None:
        return {} if record.label is None else {"label_name": record.label}
    return {"label_names": list(record.labels), "timed_labels": [list(timed) for timed in record.timed_labels]}


def _range(name: str, component: Component | None) -> dict[str, int]:
    offset, size = (component.offset, component.size) if component else (0, 0)
    return {f"{name}_offset": offset, f"{name}_bytes": size}


def _failure(record: VideoRecord, error: MediaError | UnreadableError) -> dict[str, Any]:
    kind, message = (error.kind, error.message) if isinstance(error, MediaError) else ("open", str(error))
    source, message = printable(record.source), printable(message)
    labels = {"label": record.label} if record.labels is None else {LABELS: list(record.labels)}
    return {"key": record.key, **labels, "source": source, "kind": kind, "error": message}
