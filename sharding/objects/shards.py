"""Packs one shard and uploads it: the task that a worker process runs where --out is in object storage.

URL/.parts/shard-000000.json is written after the tar and its index, with the tags that the store gave those: a shard
counts as finished while the store still says them. Nothing but the URL is shared by the workers.
"""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharding.files import parse_json
from sharding.objects.folder import ObjectFolder, StoredFile, open_folder
from sharding.objects.transport import MissingError
from sharding.objects.work_folder import split_folder
from sharding.packing.shard import ShardResult, ShardTask, pack_shard, part_path, read_part, write_part
from sharding.packing.spool import PARTS

_MAX_PART_BYTES = 1 << 30  # some 1,500 bytes a sample
_STAMPS = "stamps"


@dataclass(frozen=True)
class UploadTask:
    """Everything a worker needs to pack a shard and upload it below `url`."""

    task: ShardTask
    url: str
    work_dir: Path | None = None
    """Folder, on the machine of the worker, for the folder that the shard is in until it is uploaded."""
    finished: dict[str, Any] | None = None
    """Its part, if it is there already and the videos that failed are to be tried again."""


@dataclass(frozen=True)
class UploadResult:
    """What comes back to the main process, which may share no folder with the worker."""

    result: ShardResult
    part: dict[str, Any]


def pack_and_upload(upload: UploadTask) -> UploadResult:
    """Pack a shard, unless it is here from a run that was killed, and upload it.

    Raises:
        RemoteError: the store does not take it.
        OSError: the disk is full or cannot be written.
    """
    folder = open_folder(upload.url)
    task = replace(upload.task, directory=split_folder(upload.url, upload.work_dir))
    (task.directory / PARTS).mkdir(parents=True, exist_ok=True)
    tar = task.directory / task.name
    if upload.finished:
        _fetch_finished(folder, tar, upload.finished)
        write_part(task.directory, task.shard, upload.finished)
    result = pack_shard(task)
    part = read_part(task.directory, task.shard)
    assert part is not None, "it was just written"
    stamps = {path.name: folder.upload(path, path.name).stamp for path in (tar.with_suffix(".idx"), tar)}
    part = {name: value for name, value in part.items() if name != _STAMPS} | {_STAMPS: stamps}
    write_part(task.directory, task.shard, part)
    path = part_path(task.directory, task.shard)
    folder.upload(path, f"{PARTS}/{path.name}")
    for uploaded in (tar, tar.with_suffix(".idx"), path):
        uploaded.unlink()
    return UploadResult(replace(result, kept=False), part)


def read_finished(
    folder: ObjectFolder, name: str, files: dict[str, StoredFile], work: Path
) -> tuple[int, dict[str, Any]] | None:
    """Return number and part of a shard whose files are there as they were uploaded; else None.

    Args:
        name: of the part file, below the folder.
        files: all that the folder holds.
        work: a folder for its copy.
    """
    number = int(Path(name).stem.removeprefix("shard-"))
    copy = work / f"work-{number:06d}.json"
    try:
        folder.fetch(name, copy, files[name], _MAX_PART_BYTES)
        part = parse_json(copy.read_bytes())
        tar = f"shard-{number:06d}.tar"
        expected = {path: part[_STAMPS][path] for path in (tar, f"shard-{number:06d}.idx")}
        is_here = all(path in files and files[path].stamp == stamp for path, stamp in expected.items())
        if is_here and part["name"] == tar and files[tar].bytes == part["bytes"] and part["rows"] is not None:
            return number, part
    except (MissingError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, MissingError) and "not found" not in str(error):
            raise
    finally:
        copy.unlink(missing_ok=True)
    return None


def _fetch_finished(folder: ObjectFolder, tar: Path, part: dict[str, Any]) -> None:
    """Bring back a shard whose good samples are to be taken over; one that is not whole is packed from nothing."""
    for path in (tar, tar.with_suffix(".idx")):
        with contextlib.suppress(MissingError):
            folder.fetch(path.name, path, folder.info(path.name), max(part["bytes"], _MAX_PART_BYTES))
