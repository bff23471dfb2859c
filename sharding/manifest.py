"""A packed dataset as its readers see it: manifest.json (the whole) and samples.parquet (one row a sample).

    dataset = load_dataset(Path("data/k400/train"))
    dataset.shard_path(dataset.shards[7]), dataset.media_offsets[7], dataset.media_bytes[7]    # where sample 7 lies

The number of a row is the sample's id. Anything here needs no PyAV.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharding.commandline import UserError

FORMAT_VERSION = 1
MANIFEST, TABLE, FAILURES, QUARANTINE = "manifest.json", "samples.parquet", "failures.jsonl", "quarantine.jsonl"

_COLUMNS = {
    "key": pa.string(),
    "label": pa.int32(),
    "num_frames": pa.int32(),
    "fps": pa.float64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "suffix": pa.string(),
    "shard": pa.int32(),
    "media_offset": pa.int64(),
    "media_bytes": pa.int64(),
    "index_offset": pa.int64(),
    "index_bytes": pa.int64(),
    "cls_offset": pa.int64(),
    "cls_bytes": pa.int64(),
    "json_offset": pa.int64(),
    "json_bytes": pa.int64(),
    "source": pa.string(),
    "sha256": pa.string(),
}


@dataclass(frozen=True)
class Shard:
    """One tar file: how many samples it holds, its size in bytes, and its SHA-256."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The whole of a packed split. It is written last, so that its presence means that the split is complete."""

    dataset: str
    split: str
    profile: str
    classes: tuple[str, ...]
    """Class names; the place of a name is its label id."""
    flip_pairs: tuple[tuple[int, int], ...]
    """Pairs of label ids that change places when a video is mirrored."""
    shards: tuple[Shard, ...]
    samples: int
    bytes: int
    settings: Mapping[str, Any]
    """Every option of packing that shapes the bytes."""
    fingerprint: str
    """SHA-256 over all of the above, so over the content of every shard."""
    plan: str
    """SHA-256 of the plan it was packed by: the records, their order and the settings."""
    failures: int = 0
    """Number of lines in failures.jsonl."""
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class names on further levels of labels; the table has a column `label_<level>` for each."""
    table_sha256: str = ""
    """SHA-256 of samples.parquet, or empty where it was not recorded; not part of the fingerprint."""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Raises ValueError, KeyError or TypeError for what is no manifest."""
        values = json.loads(text)
        values["classes"] = tuple(values["classes"])
        values["flip_pairs"] = tuple((a, b) for a, b in values["flip_pairs"])
        values["shards"] = tuple(Shard(**shard) for shard in values["shards"])
        values["levels"] = {name: tuple(classes) for name, classes in values.get("levels", {}).items()}
        return cls(**values)


def fingerprint_of(manifest_values: Mapping[str, Any]) -> str:
    """SHA-256 over all fields of a manifest that make the content: not the plan, the failures, and the hashes."""
    content = {
        name: [asdict(shard) for shard in value] if name == "shards" else value
        for name, value in manifest_values.items()
        if name not in ("fingerprint", "plan", "failures", "table_sha256")
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ShardSource(Protocol):
    """Where the shards come from that need not lie in the folder of their table."""

    location: str
    """What messages call the dataset, such as a URL."""

    def open(self, shard: int) -> int:
        """A new file descriptor of a whole shard, to be closed by the caller."""

    def prefetch(self, order: np.ndarray, then: np.ndarray | None = None) -> None:
        """Gets shards before they are needed; see PackedDataset.prefetch."""

    def close(self) -> None:
        """Ends what is being fetched."""


@dataclass(frozen=True, eq=False, repr=False)
class PackedDataset:
    """A packed split, its table as NumPy columns of one row a sample.

    Byte ranges [offset, offset + bytes) lie in the tar file `shard_path(shards[sample_id])`; `index_offsets` and
    `index_bytes` tell where KEY.offsets of the jpeg profile lies, and are 0 under the other profiles.
    """

    directory: Path
    manifest: Manifest
    labels: np.ndarray
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
    shard_source: ShardSource | None = None
    """None if the shards lie in `directory`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        m = self.manifest
        return f"PackedDataset({m.dataset} {m.split}, {m.profile}, {len(self)} samples, {len(m.classes)} classes)"

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
        """A new file descriptor of a shard, to be closed by the caller; a remote shard is fetched if need be.

        Raises:
            OSError: it cannot be opened.
            UserError: it cannot be fetched.
        """
        if self.shard_source:
            return self.shard_source.open(shard)
        return os.open(self.shard_path(shard), os.O_RDONLY | os.O_CLOEXEC)

    def prefetch(self, sample_ids: np.ndarray, then: np.ndarray | None = None) -> None:
        """Says in which order samples (N,) are going to be read, and which (M,) after them; replaces what was said.

        Remote shards are fetched ahead accordingly; of local ones nothing is done.
        """
        if self.shard_source:
            self.shard_source.prefetch(self.shards[sample_ids], None if then is None else self.shards[then])

    def close(self) -> None:
        """Ends the fetching of remote shards, for which threads may wait; for when nothing is read any more."""
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

    def suffix(self, sample_id: int) -> str:
        return self.suffixes[sample_id]

    def column(self, name: str) -> np.ndarray:
        """Any column of samples.parquet, read anew."""
        return _column(pq.read_table(self.directory / TABLE, columns=[name]), name)

    @cached_property
    def quarantined(self) -> np.ndarray:
        """Sample ids (int64, sorted) whose keys are listed in quarantine.jsonl: a plan leaves them out."""
        listed = {line["key"] for line in read_json_lines(self.directory / QUARANTINE)}
        if not listed:
            return np.empty(0, np.int64)
        return np.array([i for i, key in enumerate(self.keys) if key in listed], np.int64)


def load_dataset(directory: Path | str) -> PackedDataset:
    """Opens a packed split and makes the cheap checks: complete, readable by this version, all files there and in size.

    Raises UserError.
    """
    dataset = load_table(directory)
    _check_shards(dataset)
    return dataset


def load_table(directory: Path | str) -> PackedDataset:
    """As `load_dataset`, but the shards need not be there. Raises UserError."""
    directory = Path(directory)
    manifest = load_manifest(directory)
    levels = tuple(manifest.levels)
    try:
        table = pq.read_table(directory / TABLE, memory_map=True, columns=_numeric_columns(levels))
    except (OSError, pa.ArrowException, KeyError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{directory / TABLE}: {problem}; pack this split again") from error
    columns = {name: _column(table, name) for name in table.column_names}
    dataset = PackedDataset(
        directory=directory,
        manifest=manifest,
        labels=columns["label"],
        num_frames=columns["num_frames"],
        fps=columns["fps"],
        widths=columns["width"],
        heights=columns["height"],
        shards=columns["shard"],
        media_offsets=columns["media_offset"],
        media_bytes=columns["media_bytes"],
        index_offsets=columns["index_offset"],
        index_bytes=columns["index_bytes"],
        level_labels={level: columns[f"label_{level}"] for level in levels},
    )
    _check_table(dataset)
    recorded = manifest.table_sha256
    if recorded and hashlib.sha256((directory / TABLE).read_bytes()).hexdigest() != recorded:
        raise UserError(f"{directory / TABLE}: changed since it was packed; copy it here again, or pack again")
    return dataset


def load_manifest(directory: Path) -> Manifest:
    """Raises UserError if there is none, or none that this version reads."""
    path = directory / MANIFEST
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder; give the folder of a packed split, such as data/k400/train")
    if not path.is_file():
        parts = [child.name for child in sorted(directory.iterdir()) if (child / MANIFEST).is_file()]
        if parts:
            raise UserError(
                f"{directory}: holds the splits {', '.join(parts)}; give one, such as {directory / parts[0]}"
            )
        raise UserError(f"{path}: not there, so this split is not completely packed; run its pack command again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; mend that, or pack this split again") from error
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: object) -> Manifest:
    """The manifest in a file's content; errors name the file by `path`. Raises UserError."""
    try:
        values = json.loads(content)
        version = values["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(f"{path}: format {version}, but this version reads up to {FORMAT_VERSION}; update vpsn")
        return Manifest.from_json(content)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest ({error!r}); pack this split again") from error


def table_schema(levels: Iterable[str]) -> pa.Schema:
    """The columns of samples.parquet, with one more for each further level of labels."""
    columns = _COLUMNS | {f"label_{level}": pa.int32() for level in levels}
    return pa.schema(list(columns.items()))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects, each with a key, of a JSON-lines file; none without a file. Raises UserError for any other line."""
    if not path.is_file():
        return []
    lines = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or "key" not in value:
                raise ValueError("no object with a 'key'")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; remove the line") from error
        lines.append(value)
    return lines


def _numeric_columns(levels: Iterable[str]) -> list[str]:
    schema = table_schema(levels)
    return [column.name for column in schema if column.type != pa.string()]


def _column(table: pa.Table, name: str) -> np.ndarray:
    chunks = table.column(name)
    array = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    return array.to_numpy(zero_copy_only=False)


def _check_table(dataset: PackedDataset) -> None:
    manifest, directory = dataset.manifest, dataset.directory
    again = "pack this split again"
    if len(dataset) != manifest.samples:
        raise UserError(f"{directory / TABLE}: {len(dataset)} rows, but {manifest.samples} in the manifest; {again}")
    counts = np.bincount(dataset.shards, minlength=len(manifest.shards)) if len(dataset) else np.zeros(0, int)
    if counts.tolist() != [shard.samples for shard in manifest.shards] and len(dataset):
        raise UserError(f"{directory / TABLE}: its samples per shard differ from the manifest's; {again}")
    for name, labels, classes in [
        ("label", dataset.labels, manifest.classes),
        *((f"label_{level}", dataset.level_labels[level], names) for level, names in manifest.levels.items()),
    ]:
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
            raise UserError(f"{directory / TABLE}: {name} outside the {len(classes)} classes; {again}")


def _check_shards(dataset: PackedDataset) -> None:
    again = "pack this split again"
    for number, shard in enumerate(dataset.manifest.shards):
        path = dataset.shard_path(number)
        if not path.is_file():
            raise UserError(f"{path}: missing; copy it here again, or {again}")
        if path.stat().st_size != shard.bytes:
            size = path.stat().st_size
            raise UserError(f"{path}: {size} bytes, but {shard.bytes} in the manifest; copy it here again, or {again}")
