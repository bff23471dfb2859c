"""What training reads: columns, byte ranges, and one clear line for every way in which a folder can be wrong."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.manifest import Manifest, Shard, fingerprint_of, table_schema
from tests.helpers.manifests import edit_manifest


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
    assert dataset.suffixes[3] == "mp4"
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


def swap_classes(split: Path) -> None:
    """Every label means another class."""
    manifest = json.loads((split / "manifest.json").read_text())
    (split / "manifest.json").write_text(json.dumps(manifest | {"classes": manifest["classes"][::-1]}))


def change_shard(split: Path, **values) -> None:
    [shard] = json.loads((split / "manifest.json").read_text())["shards"]
    edit_manifest(split, shards=[shard | values])


def cut_table(split: Path) -> None:
    table = pq.read_table(split / "samples.parquet")
    pq.write_table(table.slice(0, 12), split / "samples.parquet")
    edit_manifest(split)


def set_in_table(split: Path, column: str, value: object, kind: str | None = None) -> None:
    """Give the last row another value, or the column another kind, so that all hashes agree."""
    table = pq.read_table(split / "samples.parquet")
    values, place = table.column(column).to_pylist(), table.column_names.index(column)
    values = [str(value)] * len(values) if kind else [*values[:-1], value]
    changed = pa.array(values, kind or table.schema.field(column).type)
    pq.write_table(table.set_column(place, column, changed), split / "samples.parquet")
    edit_manifest(split)


def set_in_frames(split: Path, **places: int) -> None:
    """Change numbers of frames.npy: first=the first of all."""
    numbers = np.load(split / "frames.npy")
    numbers[0] = places["first"]
    np.save(split / "frames.npy", numbers)
    edit_manifest(split)


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
        (lambda s: edit_manifest(s, format_version=99), "format 99, but this version reads up to 3; update"),
        (lambda s: edit_manifest(s, classes=["only"]), "label outside the 1 classes"),
        (lambda s: edit_manifest(s, samples=14), "13 rows, but 14 in the manifest"),
        (swap_classes, "manifest.json: does not fit its own fingerprint, so it was edited or damaged; copy or upload"),
        (lambda s: change_shard(s, name="../shard.tar"), "'../shard.tar' is no name of a shard"),
        (lambda s: change_shard(s, name="/tmp/shard.tar"), "'/tmp/shard.tar' is no name of a shard"),
        (lambda s: change_shard(s, bytes=-1), "its samples or bytes are no numbers within bounds"),
        (lambda s: edit_manifest(s, samples=1 << 31), "samples=2147483648 is no number from 0"),
        (lambda s: edit_manifest(s, classes=[1, 2]), "'classes': a name of a class is no text"),
        (lambda s: edit_manifest(s, classes=["\ud800", "b"]), "'classes': a name of a class is no text"),
        (lambda s: edit_manifest(s, flip_pairs=[[0, 2]]), "are no label ids of 2 classes"),
        (lambda s: edit_manifest(s, settings={"max_frames": "x"}), "settings: max_frames is no number within bounds"),
        (lambda s: edit_manifest(s, codec_parameters=["zz"]), "codec_parameters are not hexadecimal"),
        (
            lambda s: edit_manifest(s, levels={"set": ["a"]}),
            "samples.parquet: No match .*label_set.*pack this split again",
        ),
        (lambda s: (s / "manifest.json").write_text("[" * 100_000), "not a manifest .*nested too deeply"),
        (lambda s: set_in_table(s, "shard", 2**31 - 1), "a shard outside the 1 of the manifest"),
        (lambda s: set_in_table(s, "shard", -1), "a shard outside the 1 of the manifest"),
        (lambda s: set_in_table(s, "num_frames", -3), "num_frames is negative"),
        (lambda s: set_in_table(s, "width", 2**30), "no more than 67108864 are packed"),
        (lambda s: set_in_table(s, "label", None), "label is missing in a row"),
        (lambda s: set_in_table(s, "fps", "x", "string"), "has no column fps of double"),
        (lambda s: set_in_frames(s, first=7), "codec parameters that are not in manifest.json"),
        (lambda s: set_in_frames(s, first=-2), "codec parameters that are not in manifest.json"),
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
    manifest = Manifest(**values, fingerprint="", plan="")
    manifest = replace(manifest, fingerprint=fingerprint_of(vars(manifest)))
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    began = time.process_time()
    dataset = load_dataset(tmp_path)
    print(f"{time.process_time() - began:.2f} s of CPU time")
    assert len(dataset) == rows
    assert not dataset.media_offsets.flags.owndata
    assert dataset.manifest == manifest
