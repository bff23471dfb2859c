"""Reads one shard that somebody else made: the task that a worker process of `index` runs.

The tar is read once, forwards. Each video is written to a working file, decoded in the sandbox while the next one is
read, and forgotten; what stays is its row of the table.
"""

import hashlib
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sharding.archives.locations import FileAt, open_file
from sharding.archives.tar_reader import TarMember, TarReader
from sharding.datasets.common import has_video_suffix
from sharding.errors import MediaError, UserError
from sharding.files import parse_json, printable
from sharding.packing.profiles import INSPECT, EncodedSample, ProfileSettings
from sharding.packing.sandbox import Limits, Request, thread_sandbox
from sharding.packing.shard import PARTS, ShardResult, read_part, write_part
from sharding.packing.tar import Component, format_index, split_name
from sharding.records import VideoRecord

_MAX_TEXT_BYTES = 16 << 20  # of a label or a description, which are held in memory
_TEXTS = ("cls", "json", "txt")
_SHOWN_FIELDS = 12
_REMEDY = "; write the shard again without it, or take the shard away"


@dataclass(frozen=True)
class LabelRule:
    """Where the label of a sample is."""

    field: str | None = None
    """Of its .json, with dots into objects in it; None: .cls, or without one .txt if `text_is_label`."""
    text_is_label: bool = False


@dataclass(frozen=True)
class ForeignShardTask:
    """Everything a worker needs to read shard number `shard`, whose part goes to the split in `directory`."""

    directory: Path
    shard: int
    file: FileAt
    rule: LabelRule
    limits: Limits


@dataclass
class _Sample:
    """The components of one sample, as they pass."""

    key: str
    components: list[Component] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    media: list[Component] = field(default_factory=list)
    copy: Path = Path()
    """The video, in a file of ours."""

    def range_of(self, extension: str) -> tuple[int, int]:
        found = (c for c in self.components if split_name(c.name)[1] == extension)
        return next(((c.offset, c.size) for c in found), (0, 0))


def read_foreign_shard(task: ForeignShardTask) -> ShardResult:
    """Write the part file of the shard, unless there is one of this very tar and rule.

    Raises:
        UserError: the tar is damaged, or its samples are not ones of videos with labels.
        OSError: the disk is full or cannot be written.
    """
    wanted = {"name": task.file.name, "stamp": task.file.stamp, "rule": [task.rule.field, task.rule.text_is_label]}
    part = read_part(task.directory, task.shard)
    kept = part is not None and {name: part.get(name) for name in wanted} == wanted
    if part is None or not kept:
        work = Path(tempfile.mkdtemp(prefix=f"work-{task.shard:06d}-", dir=task.directory / PARTS))
        try:
            part = _read(task, work) | wanted
        finally:
            shutil.rmtree(work, ignore_errors=True)
        write_part(task.directory, task.shard, part)
    return ShardResult(task.shard, len(part["rows"]), len(part["failures"]), kept)


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.sha256, self.size = stream, hashlib.sha256(), 0

    def seekable(self) -> bool:
        return False

    def read(self, num_bytes: int) -> bytes:
        data = self._stream.read(num_bytes)
        self.sha256.update(data)
        self.size += len(data)
        return data


def _read(task: ForeignShardTask, work: Path) -> dict[str, Any]:
    rows, failures, components = [], [], []
    with open_file(task.file) as stream:
        hashed: Any = _Hashed(stream)
        waiting: deque[_Sample] = deque()
        settings = ProfileSettings(profile=INSPECT)

        def requests() -> Iterator[Request]:
            for sample in _samples(TarReader(hashed, task.file.shown), task.file.shown, work):
                waiting.append(sample)
                yield Request(work, VideoRecord(sample.key, sample.copy.name, ""), settings, work / "unused")

        for outcome in thread_sandbox(task.limits).encode_all(requests()):
            sample = waiting.popleft()
            label = _label(sample, task.rule, task.file.shown)
            components += sample.components
            if isinstance(outcome, MediaError):
                failures.append(_failure(sample, label, outcome))
            else:
                rows.append(_row(task.shard, sample, label, outcome))
        while hashed.read(1 << 20):  # behind the end of the tar
            pass
    if not components:
        raise UserError(f"{task.file.shown}: no samples in it; take it away")
    found = {"name": task.file.name, "bytes": hashed.size, "sha256": hashed.sha256.hexdigest()}
    return found | {"index": format_index(components), "rows": rows, "failures": failures}


def _samples(reader: TarReader, where: str, work: Path) -> Iterator[_Sample]:
    """Yield the samples of a shard when all their members have passed; the video of each is in a file of `work`.

    There are two such files, so that one can be decoded while the other is written.
    """
    sample: _Sample | None = None
    keys: set[str] = set()
    names: set[str] = set()
    for member in reader:
        key, extension = split_name(member.name)
        if member.kind == "folder" or not key or key.endswith("/"):
            continue
        _check_member(member, extension, names, where)
        if sample is None or sample.key != key:
            if sample is not None:
                yield _checked(sample, where)
            if key in keys:
                raise UserError(
                    f"{where}: the members of sample {key!r} are not together, so that readers take them for two "
                    f"samples; write the shard again, sample by sample"
                )
            keys.add(key)
            sample = _Sample(key, copy=work / f"video-{len(keys) % 2}")
        _add(sample, member, extension, reader, where)
    if sample is not None:
        yield _checked(sample, where)


def _check_member(member: TarMember, extension: str, names: set[str], where: str) -> None:
    if member.kind != "file":
        raise UserError(f"{where}: member {member.name!r} is no file but a {member.kind}{_REMEDY}")
    if ".." in PurePosixPath(member.name).parts or member.name.startswith("/"):
        raise UserError(f"{where}: member {member.name!r}: a path that leads out of its folder{_REMEDY}")
    if len(member.name.split()) != 1 or not member.name.isprintable():
        raise UserError(
            f"{where}: member {member.name!r}: an index of DALI can hold no blanks; write the shard again with "
            "other names"
        )
    if not extension:
        raise UserError(f"{where}: member {member.name!r}: no extension, so it is of no sample{_REMEDY}")
    if member.name in names:
        raise UserError(f"{where}: two members are named {member.name!r}; write the shard again with one of them")
    names.add(member.name)


def _add(sample: _Sample, member: TarMember, extension: str, reader: TarReader, where: str) -> None:
    """Read what is of use of a member."""
    digest = hashlib.sha256()
    if has_video_suffix(member.name):
        if not sample.media:
            sample.copy = sample.copy.with_suffix(PurePosixPath(member.name).suffix)
            sample.copy.unlink(missing_ok=True)
            with sample.copy.open("xb") as file:
                reader.copy_to(file, digest)
        sample.media.append(Component(member.name, member.offset, member.size, digest.hexdigest()))
    elif extension in _TEXTS:
        if member.size > _MAX_TEXT_BYTES:
            raise UserError(f"{where}: member {member.name!r} has {member.size:,} bytes, but labels are read of it")
        sample.texts[extension] = reader.read(member.size)
    sample.components.append(Component(member.name, member.offset, member.size, ""))


def _checked(sample: _Sample, where: str) -> _Sample:
    """Return a sample that has one video; raise UserError otherwise."""
    if not sample.media:
        others = ", ".join(f".{split_name(c.name)[1]}" for c in sample.components)
        raise UserError(f"{where}: sample {sample.key!r} has no video, only {others}{_REMEDY}")
    if len(sample.media) > 1:
        names = " and ".join(PurePosixPath(c.name).name for c in sample.media[:2])
        raise UserError(
            f"{where}: sample {sample.key!r} has {len(sample.media)} videos, {names}; one is expected: write the shard "
            "again with the one to train on"
        )
    return sample


def _label(sample: _Sample, rule: LabelRule, where: str) -> str:
    """Return the label of a sample as text: a name, or the digits of a number."""
    here = f"{where}: sample {sample.key!r}"
    if rule.field is not None:
        if "json" not in sample.texts:
            raise UserError(f"{here} has no .json to take --label-field {rule.field} from{_REMEDY}")
        return _label_in_json(sample.texts["json"], rule.field, here)
    extension = "cls" if "cls" in sample.texts else "txt" if rule.text_is_label else ""
    if extension not in sample.texts:
        held = ", ".join(f".{split_name(c.name)[1]}" for c in sample.components)
        raise UserError(
            f"{here} has no label in .cls (it has {held}); give --label-field NAME for a field of its .json, or "
            "--classes FILE with the names that its .txt may have"
        )
    try:
        text = sample.texts[extension].decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or "\n" in text:
        raise UserError(f"{here}: its .{extension} holds no label; a number or a name is expected")
    return text


def _label_in_json(content: bytes, name: str, here: str) -> str:
    try:
        values = value = parse_json(content)
    except ValueError as error:
        raise UserError(f"{here}: its .json is none: {error}{_REMEDY}") from error
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            fields = list(values)[:_SHOWN_FIELDS] if isinstance(values, dict) else []
            known = ", ".join(fields) + (", ..." if isinstance(values, dict) and len(values) > _SHOWN_FIELDS else "")
            raise UserError(f"{here}: no field {name!r} in its .json; --label-field: there are {known or 'none'}")
        value = value[part]
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    shown = json.dumps(value)
    raise UserError(f"{here}: {name!r} in its .json is {shown[:60]}; one label is expected, a name or a number from 0")


def _row(shard: int, sample: _Sample, label: str, found: EncodedSample) -> dict[str, Any]:
    [media] = sample.media
    (cls_offset, cls_bytes), (json_offset, json_bytes) = sample.range_of("cls"), sample.range_of("json")
    return {
        "key": sample.key,
        "label": label,
        "num_frames": found.num_frames,
        "fps": found.fps,
        "width": found.width,
        "height": found.height,
        "suffix": split_name(media.name)[1].lower(),
        "shard": shard,
        "media_offset": media.offset,
        "media_bytes": media.size,
        "index_offset": 0,
        "index_bytes": 0,
        "cls_offset": cls_offset,
        "cls_bytes": cls_bytes,
        "json_offset": json_offset,
        "json_bytes": json_bytes,
        "source": media.name,
        "sha256": media.sha256,
        "notes": found.notes,
        "frame_offsets": None if found.offsets is None else found.offsets.tolist(),
        "codec_parameters": found.codec_parameters,
    }


def _failure(sample: _Sample, label: str, error: MediaError) -> dict[str, str]:
    [media] = sample.media
    message = printable(error.message)
    return {"key": sample.key, "label": label, "source": media.name, "kind": error.kind, "error": message}
