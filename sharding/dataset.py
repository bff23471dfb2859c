"""A packed split as its readers see it: the manifest and the table of samples, as NumPy columns."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from sharding.errors import UserError
from sharding.files import file_sha256
from sharding.label_sets import LabelSets
from sharding.manifest import (
    FRAMES,
    KEYFRAME_INTERVALS,
    MANIFEST,
    NO_LABEL,
    QUARANTINE,
    TABLE,
    Manifest,
    load_manifest,
    read_json_lines,
)
from sharding.objects.folder import WRITABLE
from sharding.table import read_column, read_column_names, read_columns, read_label_sets

SHARDS_URL = "shards.url"
"""Of a split whose shards are in object storage or on a web server: the URL of their folder, on a line."""
_MAX_HEADER_BYTES = 1 << 16  # of a file of NumPy; ours have 128


class ShardSource(Protocol):
    """Where shards come from that need not be in the folder of their table."""

    location: str
    """What messages call the dataset, such as a URL."""

    def open(self, shard: int) -> int:
        """Return a new file descriptor of a complete shard, to be closed by the caller."""
        ...

    def prefetch(self, order: np.ndarray, then: np.ndarray | None = None) -> None:
        """Fetch shards before they are needed; see PackedDataset.prefetch."""

    def close(self) -> None:
        """End what is being fetched."""


@dataclass(frozen=True, eq=False, repr=False)
class PackedDataset:
    """A packed split, its table as NumPy columns of one row a sample.

    Byte ranges [offset, offset + bytes) are in the tar file `shard_path(shards[sample_id])`; `index_offsets` and
    `index_bytes` say where KEY.offsets of the jpeg profile is, and are 0 under the other profiles.
    """

    directory: Path
    manifest: Manifest
    labels: np.ndarray
    """(N,) label ids; -1 throughout where samples have several labels, which are in `label_sets`."""
    num_frames: np.ndarray
    fps: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    shards: np.ndarray
    media_offsets: np.ndarray
    media_bytes: np.ndarray
    index_offsets: np.ndarray
    index_bytes: np.ndarray
    level_labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    frame_starts: np.ndarray | None = None
    """(N,) int64: where in frames.npy the numbers of a sample begin; None if the split has no index of frames."""
    shard_source: ShardSource | None = None
    """None if the shards are in `directory`."""
    label_sets: LabelSets | None = None
    """The labels of a split whose samples have any number of them; None if each has one."""
    excluded: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Sample ids that whoever reads the split leaves out, as those whose class a network does not know; they are not
    counted among `quarantined`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        m = self.manifest
        return f"PackedDataset({m.dataset} {m.split}, {m.profile}, {len(self)} samples, {len(m.classes)} classes)"

    @property
    def has_labels(self) -> bool:
        """Whether its samples have labels; without, as of a benchmark's test split, all of `labels` are NO_LABEL."""
        return self.label_sets is not None or not len(self.labels) or int(self.labels[0]) != NO_LABEL

    def label_names(self, sample_id: int) -> tuple[str, ...]:
        """Return the names of a sample's classes: one, several, or none where it has no label."""
        if self.label_sets is not None:
            return tuple(self.manifest.classes[label] for label in self.label_sets.of(sample_id))
        label = int(self.labels[sample_id])
        return () if label == NO_LABEL else (self.manifest.classes[label],)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def shard_path(self, shard: int) -> Path:
        return self.directory / self.manifest.shards[shard].name

    @property
    def location(self) -> str:
        """The folder or URL that the user gave for it."""
        return self.shard_source.location if self.shard_source else str(self.directory)

    def open_shard(self, shard: int) -> int:
        """Return a new file descriptor of a shard, to be closed by the caller; a remote shard is fetched if need be.

        Raises:
            OSError: it cannot be opened.
            UserError: it cannot be fetched.
        """
        if self.shard_source:
            return self.shard_source.open(shard)
        return os.open(self.shard_path(shard), os.O_RDONLY | os.O_CLOEXEC)

    def frame_offsets(self, sample_id: int) -> np.ndarray | None:
        """Return where each frame is in the sample's media: int32 (num_frames + 1); None if there is no index of it."""
        found = self._index_row(sample_id)
        return None if found is None else found[1:]

    def codec_parameters(self, sample_id: int) -> bytes:
        """Return the codec's parameter sets of a sample that has an index of frames; empty for JPEGs."""
        row = self._index_row(sample_id)
        assert row is not None, sample_id
        return self._parameters[int(row[0])]

    @property
    def all_codec_parameters(self) -> list[bytes] | None:
        """The distinct parameter sets of its videos; None if it has no index of frames that knows them all."""
        if self.frame_starts is None or self.manifest.profile not in KEYFRAME_INTERVALS:
            return None
        return [parameters for parameters in self._parameters if parameters]

    def _index_row(self, sample_id: int) -> np.ndarray | None:
        if self.frame_starts is None:
            return None
        start = int(self.frame_starts[sample_id])
        row = self._frames[start : start + int(self.num_frames[sample_id]) + 2]
        return None if row[0] < 0 else row

    @cached_property
    def _frames(self) -> np.ndarray:
        return np.load(self.directory / FRAMES, mmap_mode="r", allow_pickle=False)

    @cached_property
    def _parameters(self) -> list[bytes]:
        return [bytes.fromhex(parameters) for parameters in self.manifest.codec_parameters]

    def prefetch(self, sample_ids: np.ndarray, then: np.ndarray | None = None) -> None:
        """Announce in which order samples (N,) will be read, and which (M,) after them; replaces what was announced.

        Remote shards are fetched ahead accordingly; of local ones nothing is done.
        """
        if self.shard_source:
            self.shard_source.prefetch(self.shards[sample_ids], None if then is None else self.shards[then])

    def close(self) -> None:
        """End the fetching of remote shards, for which threads may wait; for when nothing is read any more."""
        if self.shard_source:
            self.shard_source.close()

    @cached_property
    def keys(self) -> np.ndarray:
        """Object array of str."""
        return self.column("key")

    def key(self, sample_id: int) -> str:
        return self.keys[sample_id]

    @cached_property
    def suffixes(self) -> np.ndarray:
        """Object array of str: mp4, webm, jpgs, ..."""
        return self.column("suffix")

    @property
    def column_names(self) -> list[str]:
        """The columns of samples.parquet, which depend on the version that packed it."""
        return read_column_names(self.directory)

    def column(self, name: str) -> np.ndarray:
        """Return any column of samples.parquet, read again."""
        return read_column(self.directory, name)

    @cached_property
    def quarantined(self) -> np.ndarray:
        """Sample ids (int64, sorted) whose keys are listed in quarantine.jsonl: a plan leaves them out."""
        listed = {line["key"] for line in read_json_lines(self.directory / QUARANTINE)}
        if not listed:
            return np.empty(0, np.int64)
        return np.array([i for i, key in enumerate(self.keys) if key in listed], np.int64)

    @property
    def left_out(self) -> np.ndarray:
        """Sample ids (int64, sorted) that nobody is to read: the quarantined and the excluded ones."""
        return np.union1d(self.quarantined, self.excluded)

    @property
    def kept(self) -> np.ndarray:
        """All other sample ids (int64, sorted)."""
        return np.setdiff1d(np.arange(len(self)), self.left_out)


def load_dataset(directory: Path | str) -> PackedDataset:
    """Open a packed split and make the cheap checks: complete, readable by this version, all files there and in size.

    Raises UserError.
    """
    dataset = load_table(directory)
    _check_shards(dataset)
    return dataset


_SCHEMES = ("http", "https", *WRITABLE)
_MAX_URL_BYTES = 4096


def read_shards_url(directory: Path) -> str | None:
    """Return the URL of the folder of shards that shards.url names; None without such a file.

    Raises:
        UserError: it holds anything else, such as a path, or a protocol that might lead to files of this machine.
    """
    path = directory / SHARDS_URL
    if not path.is_file():
        return None
    with path.open("rb") as file:
        text = file.read(_MAX_URL_BYTES).decode("utf-8", "replace").strip()
    scheme, separator, rest = text.partition("://")
    if scheme not in _SCHEMES or not separator or not rest or len(text.split()) != 1:
        raise UserError(f"{path}: {text[:80]!a} is no URL of {', '.join(_SCHEMES)}; index the shards again")
    return text


def load_table(directory: Path | str, check_hashes: bool = True) -> PackedDataset:
    """Open a split as `load_dataset` does, but the shards need not be there. Raises UserError."""
    directory = Path(directory)
    manifest = load_manifest(directory)
    columns = read_columns(directory, manifest, check_hashes)
    several = manifest.multi_label
    dataset = PackedDataset(
        directory=directory,
        manifest=manifest,
        labels=np.full(manifest.samples, -1, np.int32) if several else columns["label"],
        num_frames=columns["num_frames"],
        fps=columns["fps"],
        widths=columns["width"],
        heights=columns["height"],
        shards=columns["shard"],
        media_offsets=columns["media_offset"],
        media_bytes=columns["media_bytes"],
        index_offsets=columns["index_offset"],
        index_bytes=columns["index_bytes"],
        level_labels={level: columns[f"label_{level}"] for level in manifest.levels},
        frame_starts=_starts(columns["num_frames"]) if manifest.frames_sha256 else None,
        label_sets=read_label_sets(directory, manifest) if several else None,
    )
    _check_frames(dataset, check_hashes)
    return dataset


def max_frames_bytes(directory: Path, manifest: Manifest) -> int:
    """Return how large frames.npy can be next to the table that is in `directory`. Raises UserError."""
    return _MAX_HEADER_BYTES + 4 * _num_numbers(read_columns(directory, manifest)["num_frames"])


def _num_numbers(num_frames: np.ndarray) -> int:
    return int(num_frames.sum(dtype=np.int64)) + 2 * len(num_frames)


def _starts(num_frames: np.ndarray) -> np.ndarray:
    lengths = num_frames.astype(np.int64) + 2
    return np.cumsum(lengths) - lengths


def _check_frames(dataset: PackedDataset, check_hash: bool) -> None:
    if dataset.frame_starts is None:
        return
    path, again = dataset.directory / FRAMES, "copy it here again, or run python -m sharding verify --upgrade"
    try:
        if check_hash and file_sha256(path) != dataset.manifest.frames_sha256:
            raise UserError(f"{path}: changed since it was written; {again}")
        numbers = dataset._frames
    except UserError:
        raise
    except Exception as error:  # NumPy reads the header with a parser of Python, whose errors are many
        raise UserError(f"{path}: {' '.join(str(error).split())[:200]}; {again}") from error
    if numbers.dtype != np.int32 or numbers.shape != (_num_numbers(dataset.num_frames),):
        raise UserError(f"{path}: does not fit {TABLE}; {again}")
    if check_hash and len(dataset):
        parameters = numbers[dataset.frame_starts]
        if parameters.min() < -1 or parameters.max() >= len(dataset.manifest.codec_parameters):
            raise UserError(f"{path}: codec parameters that are not in {MANIFEST}; {again}")


def _check_shards(dataset: PackedDataset) -> None:
    again = "pack this split again"
    if url := read_shards_url(dataset.directory):
        raise UserError(f"{dataset.directory}: its shards are at {url}; training and evaluation read them from there")
    for number, shard in enumerate(dataset.manifest.shards):
        path = dataset.shard_path(number)
        if not path.is_file():
            raise UserError(f"{path}: missing; copy it here again, or {again}")
        if path.stat().st_size != shard.bytes:
            size = path.stat().st_size
            raise UserError(f"{path}: {size} bytes, but {shard.bytes} in the manifest; copy it here again, or {again}")
