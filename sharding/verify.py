"""Checks a packed split against itself: bytes, hashes, index, table, labels; and, if asked, decodes every sample.

It needs nothing but the folder, so whoever got a copy can check it.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sharding.archives.tar_reader import TarReader
from sharding.dataset import PackedDataset, load_dataset, load_table
from sharding.errors import MediaError, UserError
from sharding.files import file_sha256, hash_rest, parse_json, write_atomically
from sharding.manifest import (
    KEYFRAME_INTERVALS,
    LABELS,
    MANIFEST,
    NO_LABEL,
    QUARANTINE,
    TABLE,
    Shard,
    read_json_lines,
)
from sharding.packing.tar import Component, format_index, split_name
from sharding.parallel import run_in_workers
from sharding.table import read_rows
from sharding.video.decode import decode_all, decode_frames, open_video
from sharding.video.frame_folder import open_jpeg
from sharding.video.frame_packets import PacketDecoder, packets_to_read
from sharding.video.orientation import orientation_of

_FRAMES_BY_NUMBER = 8


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file, or with one sample in it (`key` is then not None)."""

    where: str
    message: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.where}{f', sample {self.key}' if self.key else ''}: {self.message}"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found."""

    directory: Path
    samples: int
    shards: int
    problems: tuple[Problem, ...]
    """In the order of the shards, those of the table first."""
    num_quarantined: int | None = None
    """Samples that were added to quarantine.jsonl; None if that was not asked for, or none is bad."""
    num_labels: int | None = None
    """Labels of all samples together, where a sample may have several; else None."""
    has_labels: bool = True
    """Whether its samples have labels; without them, a split is for predictions alone."""

    @property
    def bad_samples(self) -> dict[str, str]:
        """Key -> what is wrong with the sample."""
        return {problem.key: problem.message for problem in self.problems if problem.key}

    @property
    def other_problems(self) -> tuple[Problem, ...]:
        """The problems that concern no single sample."""
        return tuple(problem for problem in self.problems if not problem.key)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or only samples that are now in quarantine."""
        return not self.problems if self.num_quarantined is None else not self.other_problems


def verify(directory: Path | str, decode: bool = False, quarantine: bool = False, workers: int = 1) -> VerifyReport:
    """Check a packed split against itself.

    Args:
        directory: folder of the split.
        decode: decode every frame of every sample, as in training.
        quarantine: add the keys of bad samples to quarantine.jsonl; plans leave those samples out.
        workers: processes that check shards at the same time.

    Raises:
        WorkerKilledError: a worker process was killed.
        UserError: the split cannot even be opened, or a number of workers that cannot be.
    """
    if not 1 <= workers <= 4096:
        raise UserError(f"--workers {workers}: 1 to 4096 is possible")
    directory = Path(directory)
    dataset = load_dataset(directory)
    for name in ("key", "suffix", "sha256"):
        dataset.column(name)  # else the rows of no shard could be checked
    shards = dataset.manifest.shards
    problems = [*check_table(dataset), *_check_quarantine(dataset)]
    tasks = ((directory, number, shard, decode) for number, shard in enumerate(shards))
    found = run_in_workers(_check_shard_of, tasks, min(workers, len(shards) or 1))
    for of_shard in tqdm(found, total=len(shards), unit=" shards", disable=None):
        problems += of_shard
    num_labels = None if dataset.label_sets is None else len(dataset.label_sets.ids)
    labels = {"num_labels": num_labels, "has_labels": dataset.has_labels}
    report = VerifyReport(directory, len(dataset), len(shards), tuple(problems), **labels)
    if quarantine and report.bad_samples:
        report = replace(report, num_quarantined=add_to_quarantine(directory, report.bad_samples))
    return report


def add_to_quarantine(directory: Path, reasons: dict[str, str]) -> int:
    """Add {key: reason} to quarantine.jsonl, as far as the keys are not in it; return how many were added."""
    path = directory / QUARANTINE
    listed = read_json_lines(path)
    known = {line["key"] for line in listed}
    new = [{"key": key, "reason": message} for key, message in sorted(reasons.items()) if key not in known]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in [*listed, *new]))
    return len(new)


def _check_quarantine(dataset: PackedDataset) -> Iterator[Problem]:
    """Yield the lines of quarantine.jsonl that name no sample. Raises UserError for what is no line of it."""
    for key in sorted({line["key"] for line in read_json_lines(dataset.directory / QUARANTINE)} - set(dataset.keys)):
        yield Problem(QUARANTINE, f"{key!r} is no sample of this split; correct the key, or remove the line")


def check_table(dataset: PackedDataset) -> Iterator[Problem]:
    """Check what must hold in the table, and between it and the manifest, beyond the checks of load_dataset."""
    where = str(dataset.directory / TABLE)
    keys = dataset.keys
    if len(set(keys)) != len(keys):
        yield Problem(where, "a key appears twice")
    if np.any(np.diff(dataset.shards) < 0):
        yield Problem(where, "the rows are not in the order of the shards")
    ends = dataset.media_offsets + dataset.media_bytes
    sizes = np.array([shard.bytes for shard in dataset.manifest.shards], np.int64)
    for row in np.flatnonzero((dataset.media_offsets < 512) | (ends > sizes[dataset.shards])):
        yield Problem(where, "its bytes lie outside its shard", keys[row])
    for row in np.flatnonzero((dataset.num_frames < 1) | (dataset.widths < 1) | (dataset.heights < 1)):
        yield Problem(where, "no frames, or frames without pixels", keys[row])


def _check_shard_of(task: tuple[Path, int, Shard, bool]) -> list[Problem]:
    return check_shard(*task)


@lru_cache(maxsize=1)
def _table_of(directory: Path, *times_of_change: int) -> PackedDataset:
    """Return the table for all shards of a split that a process checks."""
    return load_table(directory, check_hashes=False)


def check_shard(directory: Path, number: int, shard: Shard, decode: bool) -> list[Problem]:
    """Compare one tar with its hash, its index and its rows of the table; decode its samples if asked."""
    path = directory / shard.name
    try:
        components = list(read_components(path))
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return [Problem(shard.name, f"not a readable tar: {reason}")]
    except OSError as error:
        return [Problem(shard.name, f"not readable: {error.strerror}")]
    problems = []
    index = path.with_suffix(".idx")
    if not index.is_file():
        problems.append(Problem(index.name, "missing"))
    elif index.read_bytes() != format_index(components).encode(errors="surrogateescape"):
        problems.append(Problem(index.name, "does not describe its tar"))
    rows = read_rows(directory, number)
    dataset = _table_of(directory, *((directory / name).stat().st_mtime_ns for name in (MANIFEST, TABLE)))
    first = int(np.searchsorted(dataset.shards, number))
    by_name = {component.name: component for component in components}
    indexed = "indexed" in dataset.manifest.settings  # made by others: keys and descriptions are theirs
    if not indexed and [row["key"] for row in rows] != list(dict.fromkeys(split_name(c.name)[0] for c in components)):
        problems.append(Problem(shard.name, "its samples are not those of the table"))
    with path.open("rb") as file:
        for sample_id, row in enumerate(rows, first):
            check = _check_foreign_sample if indexed else _check_sample
            message = check(file, row, by_name, dataset.manifest.classes) or (
                _check_decoding(file, row) if decode else None
            )
            message = message or _check_index(file, row, dataset, sample_id, decode)
            if message:
                problems.append(Problem(shard.name, message, row["key"]))
    if not problems and file_sha256(path) != shard.sha256:  # a bad sample would explain it
        problems.append(Problem(shard.name, "its SHA-256 is not the manifest's; bytes outside the samples changed"))
    return problems


def read_components(path: Path) -> Iterator[Component]:
    """Yield the components of a tar, which may come from anybody, as its own headers list them; hashes are left empty.

    Raises:
        UserError: it is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for member in TarReader(file, str(path)):
            if member.kind == "file":
                yield Component(member.name, member.offset, member.size, "")


def _check_sample(file, row: dict, by_name: dict[str, Component], classes: Sequence[str]) -> str | None:
    for part, suffix in [("media", row["suffix"]), ("index", "offsets"), ("cls", "cls"), ("json", "json")]:
        offset, size = row[f"{part}_offset"], row[f"{part}_bytes"]
        without = part == "index" or (part == "cls" and row.get("label", NO_LABEL) == NO_LABEL)
        if without and not size:
            continue
        component = by_name.get(f"{row['key']}.{suffix}")
        if component is None or (component.offset, component.size) != (offset, size):
            return f"its .{suffix} is not where the table says"
    file.seek(row["media_offset"])
    if hash_rest(file, row["media_bytes"]).hexdigest() != row["sha256"]:
        return f"the bytes of its .{row['suffix']} have changed"
    label = "" if row.get("label", NO_LABEL) == NO_LABEL else str(row["label"])
    if _read(file, row["cls_offset"], row["cls_bytes"]) != label.encode():
        return "its .cls is not the label of the table"
    try:
        about = parse_json(_read(file, row["json_offset"], row["json_bytes"]))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        return "its .json is no JSON of an object"
    if LABELS in row and LABELS not in about:
        return "its .json has no labels"
    differing = [name for name in about if name in row and about[name] != row[name]]
    if differing:
        return f"its .json and the table differ in {', '.join(differing)}"
    return _check_label_names(about, row, classes)


def _check_label_names(about: dict, row: dict, classes: Sequence[str]) -> str | None:
    """Compare the names of labels in KEY.json with those that the manifest has for the label ids of the table."""
    if LABELS in row:
        named, expected = about.get("label_names"), sorted(str(classes[label]) for label in row[LABELS])
        named = (
            sorted(map(str, named)) if isinstance(named, list) else named
        )  # they are in the order of the annotations
    else:
        named, expected = about.get("label_name"), None if row["label"] == NO_LABEL else classes[row["label"]]
    if named is None or named == expected:
        return None
    return f"its .json names the label {named!a}, but the manifest {expected!a}"


def _check_foreign_sample(file, row: dict, by_name: dict[str, Component], _classes: Sequence[str]) -> str | None:
    media = by_name.get(row["source"])
    if media is None or (media.offset, media.size) != (row["media_offset"], row["media_bytes"]):
        return f"its {row['source']} is not where the table says"
    file.seek(row["media_offset"])
    if hash_rest(file, row["media_bytes"]).hexdigest() != row["sha256"]:
        return f"the bytes of its {row['source']} have changed"
    return None


def _check_decoding(file, row: dict) -> str | None:
    media = _read(file, row["media_offset"], row["media_bytes"])
    num_frames, size = row["num_frames"], (row["width"], row["height"])
    try:
        if row["suffix"] == "jpgs":
            index = _read(file, row["index_offset"], row["index_bytes"])
            offsets = np.frombuffer(index[: len(index) // 4 * 4], "<i4")
            return _check_jpegs(media, offsets, num_frames, size)
        return _check_video(media, num_frames, size)
    except MediaError as error:
        return f"does not decode: {error.message}"


def _check_video(media: bytes, num_frames: int, size: tuple[int, int]) -> str | None:
    """Decode every frame in order, and then some by number, as training does."""
    with open_video(media) as (container, stream):
        num_decoded = 0
        for frame in decode_all(container, stream):
            num_decoded += 1
            width, height = frame.width, frame.height
            if orientation_of(frame).swaps_sides:
                width, height = height, width
            if (width, height) != size:
                return f"frames of {width} x {height} pixels, not as the table says"
    if num_decoded != num_frames:
        return f"{num_decoded} frames, but {num_frames} in the table"
    some = np.linspace(0, num_frames - 1, _FRAMES_BY_NUMBER).round().astype(int)
    shape = decode_frames(media, some).shape
    expected = (len(some), size[1], size[0], 3)
    return None if shape == expected else f"frames of shape {shape} come out, not {expected}"


def _check_jpegs(media: bytes, offsets: np.ndarray, num_frames: int, size: tuple[int, int]) -> str | None:
    if len(offsets) != num_frames + 1 or offsets[0] != 0 or offsets[-1] != len(media) or np.any(np.diff(offsets) <= 0):
        return "its .offsets do not divide its .jpgs into frames"
    for number, (start, stop) in enumerate(pairwise(offsets)):
        with open_jpeg(io.BytesIO(media[start:stop]), f"frame {number}") as image:
            if image.size != size:
                return f"frame {number} of {image.size[0]} x {image.size[1]} pixels, not as the table says"
    return None


def _check_index(file, row: dict, dataset: PackedDataset, sample_id: int, decode: bool) -> str | None:
    """Compare what frames.npy says of a sample with its media; with `decode`, the same frames must come out."""
    offsets = dataset.frame_offsets(sample_id)
    if offsets is None:
        return None
    if offsets[0] < 0 or np.any(np.diff(offsets) <= 0) or offsets[-1] > row["media_bytes"]:
        return "frames.npy does not divide its media into frames"
    if row["suffix"] == "jpgs" or not decode:
        return None
    media, size = _read(file, row["media_offset"], row["media_bytes"]), (row["height"], row["width"])
    some = np.unique(np.linspace(0, row["num_frames"] - 1, _FRAMES_BY_NUMBER).round().astype(int))
    wanted = dict(zip(some.tolist(), decode_frames(media, some)))
    differing: list[int] = []

    def compare(number: int, picture: np.ndarray) -> None:
        if number in wanted and not np.array_equal(picture, wanted.pop(number)):
            differing.append(number)

    interval = KEYFRAME_INTERVALS.get(dataset.manifest.profile, 1)
    numbers = [n for begin, end in packets_to_read(offsets, some, interval) for n in range(begin, end)]
    packets = [(n, media[offsets[n] : offsets[n + 1]]) for n in numbers]
    try:
        PacketDecoder().decode(dataset.codec_parameters(sample_id), packets, size, compare)
    except MediaError as error:
        return f"does not decode by frames.npy: {error.message}"
    return f"frames.npy gives other frames than its container, first {differing[0]}" if differing else None


def _read(file, offset: int, size: int) -> bytes:
    """Return a range that was found to be that of a component; where there is none, its offset may be any number."""
    return os.pread(file.fileno(), size, offset) if size else b""
