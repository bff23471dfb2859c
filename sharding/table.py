"""samples.parquet as NumPy columns: hashed before it is parsed, and checked against the manifest before it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharding.errors import UserError
from sharding.files import file_sha256
from sharding.label_sets import LabelSets
from sharding.manifest import LABELS, NO_LABEL, TABLE, Manifest, table_schema
from sharding.manifest_checks import MAX_PIXELS

_AGAIN = "pack this split again"
_GIVEN = ("key", "suffix", "sha256")  # columns of text that every row has


def read_columns(directory: Path, manifest: Manifest, check_hash: bool = True) -> dict[str, np.ndarray]:
    """Return the columns of numbers by their names, each (samples,).

    Raises:
        UserError: there is no table, or it is not that of the manifest.
    """
    path = directory / TABLE
    schema = [
        column
        for column in table_schema(manifest.levels, manifest.multi_label)
        if column.type != pa.string() and column.name != LABELS
    ]
    with _readable(path):
        if check_hash and manifest.table_sha256 and file_sha256(path) != manifest.table_sha256:
            raise UserError(f"{path}: changed since it was packed; copy it here again, or {_AGAIN}")
        num_rows = pq.read_metadata(path).num_rows
        if num_rows != manifest.samples:  # before memory is taken for them
            raise UserError(f"{path}: {num_rows} rows, but {manifest.samples} in the manifest; {_AGAIN}")
        if num_rows > path.stat().st_size:  # each has a hash, which cannot be compressed to a byte
            raise UserError(f"{path}: too small for {num_rows} rows; {_AGAIN}")
        table = pq.read_table(path, memory_map=True, columns=[column.name for column in schema])
        for column in schema:
            if column.name not in table.column_names or table.schema.field(column.name).type != column.type:
                raise UserError(f"{path}: has no column {column.name} of {column.type}; {_AGAIN}")
            if table.column(column.name).null_count:
                raise UserError(f"{path}: {column.name} is missing in a row; {_AGAIN}")
        columns = {column.name: _to_numpy(table, column.name) for column in schema}
    if len(table):
        _check(columns, manifest, path)
    return columns


def read_label_sets(directory: Path, manifest: Manifest) -> LabelSets:
    """Return the labels of a split whose samples have several each; `read_columns` comes first, and checks the rest.

    Raises:
        UserError: the table has none, or others than the manifest's classes.
    """
    path = directory / TABLE
    with _readable(path):
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
        stored = sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == LABELS)
        if stored > manifest.samples * max(1, len(manifest.classes)):  # before memory is taken for them
            raise UserError(f"{path}: more labels than {manifest.samples} samples can have; {_AGAIN}")
        table = pq.read_table(path, columns=[LABELS])
        if LABELS not in table.column_names or table.schema.field(LABELS).type != pa.list_(pa.int32()):
            raise UserError(f"{path}: has no column {LABELS} of lists of int32; {_AGAIN}")
        lists = table.column(LABELS).combine_chunks()
        if lists.null_count or lists.flatten().null_count:
            raise UserError(f"{path}: {LABELS} is missing in a row; {_AGAIN}")
        sizes = lists.value_lengths().to_numpy(zero_copy_only=False)
        ids = lists.flatten().to_numpy(zero_copy_only=False)
        sets = LabelSets(ids, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), len(manifest.classes))
    if problem := sets.problem():
        raise UserError(f"{path}: {problem}; {_AGAIN}")
    return sets


def read_column(directory: Path, name: str) -> np.ndarray:
    """Return any column of samples.parquet. Raises UserError."""
    with _readable(directory / TABLE):
        table = pq.read_table(directory / TABLE, columns=[name])
        if name not in table.column_names or (name in _GIVEN and table.column(name).null_count):
            raise UserError(f"{directory / TABLE}: {name} is missing; {_AGAIN}")
        return _to_numpy(table, name)


def read_rows(directory: Path, shard: int) -> list[dict[str, Any]]:
    """Return the rows of a shard with all their columns. Raises UserError."""
    with _readable(directory / TABLE):
        return pq.read_table(directory / TABLE, filters=[("shard", "=", shard)]).to_pylist()


def read_column_names(directory: Path) -> list[str]:
    """Return the columns of samples.parquet, which depend on the version that packed it. Raises UserError."""
    with _readable(directory / TABLE):
        return pq.read_schema(directory / TABLE).names


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Make errors of the file, and of its parsing, those of a user."""
    try:
        yield
    except UserError:
        raise
    except (OSError, pa.ArrowException, KeyError, ValueError, MemoryError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: {problem}; {_AGAIN}") from error


def _to_numpy(table: pa.Table, name: str) -> np.ndarray:
    chunks = table.column(name)
    array = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    return array.to_numpy(zero_copy_only=False)


def _check(columns: dict[str, np.ndarray], manifest: Manifest, path: Path) -> None:
    """Check what indexes or sizes something else; of byte ranges, each reading checks its own."""
    shards = columns["shard"]
    if shards.min() < 0 or shards.max() >= len(manifest.shards):  # before a place is made for each number
        raise UserError(f"{path}: a shard outside the {len(manifest.shards)} of the manifest; {_AGAIN}")
    counts = np.bincount(shards, minlength=len(manifest.shards))
    if counts.tolist() != [shard.samples for shard in manifest.shards]:
        raise UserError(f"{path}: its samples per shard differ from the manifest's; {_AGAIN}")
    levels = {f"label_{level}": classes for level, classes in manifest.levels.items()}
    own = {} if manifest.multi_label else {"label": manifest.classes}
    no_labels = not manifest.multi_label and (columns["label"] == NO_LABEL).all()
    for name, classes in (own | levels).items():
        if no_labels and (columns[name] == NO_LABEL).all():
            continue
        if columns[name].min() < 0 or columns[name].max() >= len(classes):
            raise UserError(f"{path}: {name} outside the {len(classes)} classes; {_AGAIN}")
    for name in ("num_frames", "width", "height"):
        if columns[name].min() < 0:  # of none `verify` says which samples they are
            raise UserError(f"{path}: {name} is negative; {_AGAIN}")
    pixels = (columns["width"].astype(np.int64) * columns["height"]).max()
    if pixels > MAX_PIXELS:
        raise UserError(f"{path}: frames of {pixels} pixels, but no more than {MAX_PIXELS} are packed; {_AGAIN}")
