"""A packed dataset as its readers see it: manifest.json (all of it) and samples.parquet (one row a sample).

    dataset = load_dataset(Path("data/k400/train"))
    dataset.shard_path(dataset.shards[7]), dataset.media_offsets[7], dataset.media_bytes[7]    # where sample 7 is

The number of a row is the sample's id. Anything here needs no PyAV.
"""

import builtins
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharding.errors import UserError
from sharding.files import parse_json
from sharding.manifest_checks import problem_of

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 2
"""2 added frames.npy. The fingerprint is that of version 1: the content of a split is not changed by its index."""
NEWEST_FORMAT_VERSION = 3
"""Of splits whose samples have several labels each, or none; all others are written as version 2, byte for byte."""
NO_LABEL = -1
"""In the columns of labels in the table, of all samples of a split without labels."""
_NAMED = 5
MANIFEST, TABLE, FAILURES, QUARANTINE = "manifest.json", "samples.parquet", "failures.jsonl", "quarantine.jsonl"
MAX_MANIFEST_BYTES = 64 << 20  # of some 300,000 shards
FRAMES = "frames.npy"
"""Where each frame is in its sample's media: int32 of one dimension. Of each sample, in the order of the table, the
number of its parameter sets in the manifest's `codec_parameters` (-1: this sample has no index), then num_frames + 1
byte offsets."""

LABELS = "labels"
"""Column of samples.parquet, and entry of KEY.json, of samples that have several labels each."""

KEYFRAME_INTERVALS = {"h264": 1, "jpeg": 1, "dense": 8}
"""Frames from one keyframe to the next in the profiles that have an index of frames throughout."""

_COLUMNS = {
    "key": "string",
    "label": "int32",
    "num_frames": "int32",
    "fps": "float64",
    "width": "int32",
    "height": "int32",
    "suffix": "string",
    "shard": "int32",
    "media_offset": "int64",
    "media_bytes": "int64",
    "index_offset": "int64",
    "index_bytes": "int64",
    "cls_offset": "int64",
    "cls_bytes": "int64",
    "json_offset": "int64",
    "json_bytes": "int64",
    "source": "string",
    "sha256": "string",
    "notes": "string",
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
    """A packed split as a whole. It is written last, so that its presence means that the split is complete."""

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
    frames_sha256: str = ""
    """SHA-256 of frames.npy, or empty where there is none; not part of the fingerprint."""
    codec_parameters: tuple[str, ...] = ()
    """Parameter sets of the video codec (H.264: avcC) in hexadecimal, empty for JPEGs; not part of the fingerprint."""
    multi_label: bool = False
    """Whether a sample has any number of labels: the table then has the column `labels`, and no `label`."""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        values = asdict(self)
        if not self.multi_label:
            del values["multi_label"]  # as versions write it that do not know it
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | builtins.bytes) -> "Manifest":
        """Parse a manifest. Raises ValueError, KeyError or TypeError for what is none."""
        return cls.from_values(parse_json(text))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Manifest":
        """Build a manifest. Raises as `from_json`, of which `values` are the parsed text."""
        values = dict(values)
        values["classes"] = tuple(values["classes"])
        values["flip_pairs"] = tuple((a, b) for a, b in values["flip_pairs"])
        values["shards"] = tuple(Shard(**shard) for shard in values["shards"])
        values["codec_parameters"] = tuple(values.get("codec_parameters", ()))
        values["levels"] = {name: tuple(classes) for name, classes in values.get("levels", {}).items()}
        return cls(**values)


_NO_CONTENT = ("fingerprint", "plan", "failures", "table_sha256", "frames_sha256", "codec_parameters")


def fingerprint_of(manifest_values: Mapping[str, Any]) -> str:
    """Return the SHA-256 over all that makes the content of a split: not the plan, failures, hashes or frame index."""
    content = {
        name: [asdict(shard) for shard in value] if name == "shards" else value
        for name, value in manifest_values.items()
        if name not in _NO_CONTENT and (name != "multi_label" or value)
    }
    content["format_version"] = 1
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe_class_difference(found: Iterable[str], expected: Iterable[str]) -> str:
    """Return in words how one list of classes differs from another: which names are new, missing or elsewhere."""
    found, expected, parts = list(found), list(expected), []
    for what, names in (
        ("only here", [name for name in found if name not in set(expected)]),
        ("missing here", [name for name in expected if name not in set(found)]),
    ):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{what} {', '.join(names[:_NAMED])}{more}")
    return "; ".join(parts) or "the same names in another order"


def load_manifest(directory: Path) -> Manifest:
    """Read the manifest of a split. Raises UserError if there is none, or none that this version reads."""
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
    """Return the manifest in a file's content, checked against its own fingerprint; errors name the file by `path`.

    Raises:
        UserError: it is none, none that this version reads, or was changed since its split was packed.
    """
    try:
        values = parse_json(content)
        version = values["format_version"]
        if isinstance(version, int) and version > NEWEST_FORMAT_VERSION:
            newest = NEWEST_FORMAT_VERSION
            raise UserError(f"{path}: format {version}, but this version reads up to {newest}; update vpsn")
        manifest = Manifest.from_values(values)
        problem = problem_of(manifest)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest ({str(error)[:200]!r}); pack this split again") from error
    if problem:
        raise UserError(f"{path}: {problem}; pack this split again")
    if fingerprint_of(vars(manifest)) != manifest.fingerprint:
        raise UserError(
            f"{path}: does not fit its own fingerprint, so it was edited or damaged; copy or upload it again as it was "
            "packed"
        )
    return manifest


def table_schema(levels: Iterable[str], multi_label: bool = False) -> "pa.Schema":
    """Return the columns of samples.parquet, with one more for each further level of labels.

    With `multi_label` there is `labels`, the ascending label ids of a sample, in the place of `label`.
    """
    import pyarrow as pa  # only tables need it, not who reads the manifest alone

    columns = _COLUMNS | {f"label_{level}": "int32" for level in levels}
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
    if not multi_label:
        return schema
    return schema.set(schema.get_field_index("label"), pa.field(LABELS, pa.list_(pa.int32())))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects with a key of a JSON-lines file; none without one. Raises UserError for any other line."""
    if not path.is_file():
        return []
    lines = []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it readable") from error
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
            if not isinstance(value, dict) or not isinstance(value.get("key"), str):
                raise ValueError("no object with a 'key'")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; remove the line") from error
        lines.append(value)
    return lines


def kind_of(failure: Mapping[str, Any]) -> str:
    """Return what failed of a line of failures.jsonl: missing, open, decode, encode or label."""
    kinds = (failure.get("kind"), failure.get("stage"))  # the latter as versions before 0.2 wrote it
    return next((kind for kind in kinds if kind and isinstance(kind, str)), "unknown")
