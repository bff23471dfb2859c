"""What training reads: columns, byte ranges, and one clear line for every way in which a folder can be wrong."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.manifest import Manifest, Shard, fingerprint_of, table_schema


@pytest.fixture
def split(numbered, tmp_path) -> Path:
    return shutil.copytree(numbered, tmp_path / "split")


def test_columns_are_arrays_of_the_table(split):
    dataset = load_dataset(split)
    table = pq.read_table(split / "samples.parquet")
    assert table.schema.equals(table_schema([]))
    assert len(dataset) == table.num_rows == 13
    for attribute, column in [
        ("labels", "label"),
        ("num_frames", "num_frames"),
        ("fps", "fps"),
        ("widths", "width"),
        ("heights", "height"),
        ("shards", "shard"),
        ("media_offsets", "media_offset"),
        ("media_bytes", "media_bytes"),
        ("index_offsets", "index_offset"),
        ("index_bytes", "index_bytes"),
        ("keys", "key"),
        ("suffixes", "suffix"),
    ]:
        np.testing.assert_array_equal(getattr(dataset, attribute), table[column].to_numpy())
    assert dataset.key(3) == table["key"][3].as_py()
    assert dataset.suffix(3) == "mp4"
    assert dataset.fingerprint == json.loads((split / "manifest.json").read_text())["fingerprint"]


def test_byte_ranges_hold_the_components(split):
    dataset = load_dataset(split)
    table = pq.read_table(split / "samples.parquet").to_pylist()
    for sample_id, row in enumerate(table):
        data = dataset.shard_path(dataset.shards[sample_id]).read_bytes()
        media = data[row["media_offset"] :][: row["media_bytes"]]
        assert media[4:8] == b"ftyp"
        assert data[row["cls_offset"] :][: row["cls_bytes"]] == str(row["label"]).encode()
        about = json.loads(data[row["json_offset"] :][: row["json_bytes"]])
        assert (about["key"], about["num_frames"], about["sha256"]) == (row["key"], row["num_frames"], row["sha256"])


def test_quarantined_samples_are_named_by_key(split):
    assert load_dataset(split).quarantined.tolist() == []
    keys = load_dataset(split).keys
    lines = [{"key": keys[5], "reason": "x"}, {"key": "gone", "reason": "x"}, {"key": keys[2]}]
    (split / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load_dataset(split).quarantined.tolist() == [2, 5]


def change_manifest(split: Path, **values) -> None:
    path = split / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut_table(split: Path) -> None:
    table = pq.read_table(split / "samples.parquet")
    pq.write_table(table.slice(0, 12), split / "samples.parquet")


def change_table(split: Path) -> None:
    """One number that no other check would miss."""
    table = pq.read_table(split / "samples.parquet").to_pydict()
    table["num_frames"][3] += 1
    pq.write_table(pa.table(table, table_schema([])), split / "samples.parquet", compression="zstd")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no such folder; give the folder of a packed split"),
        (lambda s: (s / "manifest.json").unlink(), "manifest.json: not there, so this split is not completely packed"),
        (lambda s: (s / "manifest.json").write_text("{"), "not a manifest .*pack this split again"),
        (lambda s: (s / "manifest.json").write_text("[]"), "not a manifest"),
        (lambda s: change_manifest(s, format_version=99), "format 99, but this version reads up to 2; update"),
        (lambda s: change_manifest(s, classes=["only"]), "label outside the 1 classes"),
        (lambda s: change_manifest(s, samples=14), "13 rows, but 14 in the manifest"),
        (cut_table, "12 rows, but 13 in the manifest"),
        (change_table, "samples.parquet: changed since it was packed; copy it here again"),
        (lambda s: (s / "samples.parquet").unlink(), "samples.parquet: .*pack this split again"),
        (lambda s: (s / "samples.parquet").write_bytes(b"PAR1"), "samples.parquet: .*pack this split again"),
        (lambda s: (s / "shard-000000.tar").unlink(), "shard-000000.tar: missing; copy it here again"),
        (lambda s: (s / "shard-000000.tar").write_bytes(b""), "shard-000000.tar: 0 bytes, but .* in the manifest"),
    ],
)
def test_a_spoilt_folder_is_told_in_one_line(split, spoil, message):
    spoil(split)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(split)
    assert "\n" not in str(caught.value)


def test_the_folder_above_the_split(numbered):
    with pytest.raises(UserError, match=r"holds the splits train; give one, such as .*train"):
        load_dataset(numbered.parent)


def test_a_million_rows_are_read_in_place(tmp_path):
    """Columns are views of the file: reading must not make a Python object a row."""
    rows = 1_000_000
    columns = {}
    for column in table_schema([]):
        if column.type == pa.string():
            columns[column.name] = pa.array(np.arange(rows).astype(str))
        else:
            columns[column.name] = pa.array(np.zeros(rows), column.type)
    pq.write_table(pa.table(columns, table_schema([])), tmp_path / "samples.parquet", compression="zstd")
    (tmp_path / "s.tar").touch()
    values = {
        "dataset": "list",
        "split": "train",
        "profile": "h264",
        "classes": ("a",),
        "flip_pairs": (),
        "shards": (Shard("s.tar", rows, 0, ""),),
        "samples": rows,
        "bytes": 0,
        "settings": {},
    }
    manifest = Manifest(**values, fingerprint=fingerprint_of(values), plan="")
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    began = time.process_time()
    dataset = load_dataset(tmp_path)
    print(f"{time.process_time() - began:.2f} s of CPU time")
    assert len(dataset) == rows
    assert not dataset.media_offsets.flags.owndata
    assert dataset.manifest == manifest
