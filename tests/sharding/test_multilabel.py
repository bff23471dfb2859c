"""Splits whose samples have several labels each: what is written of them, checked, counted and refused."""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.__main__ import main
from sharding.dataset import load_dataset
from sharding.errors import UserError
from sharding.files import file_sha256
from sharding.label_sets import LabelSets
from sharding.manifest import Manifest, Shard, fingerprint_of, table_schema
from sharding.pack import PackConfig, pack
from sharding.records import Annotations, VideoRecord, check_records
from sharding.stats import measure, to_text
from sharding.verify import verify
from tests.conftest import SEVERAL_CLASSES, labels_in_bits
from tests.helpers.manifests import edit_manifest

LISTS = pa.list_(pa.int32())


@pytest.fixture
def split(several_labels: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(several_labels, tmp_path / "train")


def test_the_table_and_the_shards_have_all_labels(several_labels: Path) -> None:
    dataset = load_dataset(several_labels)
    sets = dataset.label_sets
    for sample_id, key in enumerate(dataset.keys):
        assert dataset.label_names(sample_id) == tuple(dataset.manifest.classes[bit] for bit in labels_in_bits(key))
    assert sets is not None and len(sets) == len(dataset) == 13
    for sample_id, key in enumerate(dataset.keys):
        assert sets.of(sample_id).tolist() == labels_in_bits(key)
    assert set(dataset.labels) == {-1}  # whoever takes it for class ids is to notice
    assert sets.count_samples().tolist() == [6, 6, 5]
    for label in range(3):
        expected = [i for i, key in enumerate(dataset.keys) if label in labels_in_bits(key)]
        assert sets.samples_with(label).tolist() == expected
        assert np.flatnonzero(sets.multi_hot(range(13))[:, label]).tolist() == expected
    with tarfile.open(several_labels / "shard-000000.tar") as tar:
        names = tar.getnames()
        about = json.loads(tar.extractfile(next(name for name in names if name.endswith(".json"))).read())
    assert not any(name.endswith(".cls") for name in names)
    assert about["labels"] == labels_in_bits(about["key"])
    assert about["label_names"] == [SEVERAL_CLASSES[label] for label in about["labels"]]
    assert about["timed_labels"] == [[name, 0.5, 1.0] for name in about["label_names"]]
    assert "label" not in about


def test_it_is_verified_and_counted(several_labels: Path, capsys) -> None:
    assert main(["verify", str(several_labels), "--decode", "--workers=1"]) == 0
    assert "13 samples with 17 labels in 1 shards decoded, 0 bad samples" in capsys.readouterr().out
    stats, _ = measure(several_labels)
    assert [of_class.samples for of_class in stats.classes] == [6, 6, 5]
    assert "labels       a sample: 0 to 3, median 1, mean 1.308; 2 samples without any" in to_text(stats)


def test_a_changed_label_is_found(split: Path) -> None:
    table = pq.read_table(split / "samples.parquet").to_pydict()
    row = next(i for i, labels in enumerate(table["labels"]) if labels == [1])
    table["labels"][row] = [2]
    pq.write_table(pa.table(table, table_schema([], True)), split / "samples.parquet", compression="zstd")
    edit_manifest(split)
    assert list(verify(split).bad_samples.values()) == ["its .json and the table differ in labels"]


def rewrite(split: Path, labels: list, kind: pa.DataType = LISTS) -> None:
    table = pq.read_table(split / "samples.parquet")
    changed = table.set_column(table.column_names.index("labels"), "labels", pa.array(labels, kind))
    pq.write_table(changed, split / "samples.parquet")
    edit_manifest(split)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: rewrite(s, [[3]] * 13), "labels outside the 3 classes; pack this split again"),
        (lambda s: rewrite(s, [[-1]] * 13), "labels outside the 3 classes"),
        (lambda s: rewrite(s, [[1, 1]] * 13), "labels that are not ascending, each once"),
        (lambda s: rewrite(s, [[0, 1, 2, 2]] * 13), "more labels than 13 samples can have"),
        (lambda s: rewrite(s, [None] * 13), "labels is missing in a row"),
        (lambda s: rewrite(s, [[0, None]] * 13), "labels is missing in a row"),
        (lambda s: rewrite(s, [0] * 13, pa.int32()), "has no column labels of lists of int32"),
        (lambda s: edit_manifest(s, multi_label=False), "No match for FieldRef.*label|has no column label"),
        (lambda s: edit_manifest(s, multi_label="yes"), "multi_label='yes' is neither true nor false"),
        (lambda s: edit_manifest(s, levels={"set": ["a"]}), "a split with several labels a sample has none"),
    ],
)
def test_a_spoilt_folder_is_told_in_one_line(split: Path, spoil, message: str) -> None:
    spoil(split)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(split)
    assert "\n" not in str(caught.value)


def test_labels_may_fall_from_one_sample_to_the_next() -> None:
    starts = np.array([0, 2, 2, 3])
    assert LabelSets(np.array([1, 2, 0]), starts, 3).problem() is None
    assert LabelSets(np.array([2, 1, 0]), starts, 3).problem() == "labels that are not ascending, each once"
    assert LabelSets(np.array([], int), np.zeros(4, int), 3).problem() is None


def test_one_label_a_video_is_written_as_before(numbered: Path) -> None:
    """Nothing of it says that there could be several; fingerprints are those that older versions compute."""
    assert "multi_label" not in json.loads((numbered / "manifest.json").read_text())
    single = load_dataset(numbered)
    assert single.label_sets is None and single.label_names(0) == (single.manifest.classes[single.labels[0]],)
    values = {
        "dataset": "list", "split": "train", "profile": "h264", "classes": ("a", "b"), "flip_pairs": ((0, 1),),
        "shards": (Shard("s.tar", 2, 10240, "0" * 64),), "samples": 2, "bytes": 10240, "settings": {"seed": 0},
    }  # fmt: skip
    manifest = Manifest(**values, fingerprint="", plan="", levels={"set": ("x",)})
    # By commit 1c8bb7f, before there was such a thing as several labels.
    expected = "49a842fd3ec94c55f5be11b5b948e892630b7fda0e94f680a3079740673d5b39"
    assert fingerprint_of(vars(manifest)) == expected
    assert fingerprint_of(vars(replace(manifest, multi_label=True))) != expected


def records(*labels: object) -> Annotations:
    given = [VideoRecord(f"v{i}", f"v{i}.mp4", labels=each) for i, each in enumerate(labels)]
    return Annotations(given, ("a", "b"))


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (records(("a", "c")), r"v0\.mp4: label 'c' is not among the 2 classes, such as 'a'"),
        (records(("a",), ("b", "b")), r"v1\.mp4: label 'b' is listed twice"),
        (records(("a",), None), r"v1\.mp4: label=None, but others of this dataset have several; give labels="),
        (records(["a"]), r"v0\.mp4: label=None, labels=\['a'\]: give a tuple of names"),
        (replace(records(("a",)), levels=(("set", ("x",)),)), "level_labels=|has none; use either"),
    ],
)
def test_labels_that_are_none_are_refused(annotations: Annotations, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_records(annotations)


def test_failures_and_restarts(several_labels: Path, numbered_videos: Path, tmp_path: Path) -> None:
    """A missing video is a line with its labels; tried again, the split is what it would have been."""
    video = next(numbered_videos.rglob("*_8.mp4"))
    links = tmp_path / "videos"
    links.mkdir()
    (links / "there.mp4").symlink_to(video)
    given = Annotations(
        [VideoRecord("a", "there.mp4", labels=("x",)), VideoRecord("b", "not.mp4", labels=("x", "y"))], ("x", "y")
    )
    config = PackConfig("mine", links, tmp_path / "out", workers=1, max_failures=1)
    pack(config, given)
    [failure] = [json.loads(line) for line in (config.directory / "failures.jsonl").read_text().splitlines()]
    assert failure["labels"] == ["x", "y"]
    stats, _ = measure(config.directory)
    assert [(c.samples, c.missing) for c in stats.classes] == [(1, 1), (0, 1)]
    (links / "not.mp4").symlink_to(video)
    retried = pack(replace(config, retry_failed=True), given)
    whole = pack(replace(config, out=tmp_path / "whole"), given)
    assert retried.failures == 0 and retried.fingerprint == whole.fingerprint
    tables = [file_sha256(result.directory / "shard-000000.tar") for result in (retried, whole)]
    assert tables[0] == tables[1]


def test_numbers_with_names_have_flip_pairs(numbered_videos: Path, tmp_path: Path) -> None:
    video = next(numbered_videos.rglob("*_8.mp4")).relative_to(numbered_videos)
    (tmp_path / "list.txt").write_text(f"{video} 1 2\n")
    (tmp_path / "classes.txt").write_text("\n".join(SEVERAL_CLASSES))
    files = ["--annotations", str(tmp_path / "list.txt"), "--classes", str(tmp_path / "classes.txt")]
    out = ["--out", str(tmp_path / "out"), "--workers=1"]
    assert main(["pack", "--dataset=list-multilabel", "--videos", str(numbered_videos), *files, *out]) == 0
    dataset = load_dataset(tmp_path / "out" / "train")
    assert dataset.manifest.flip_pairs == ((0, 1),) and dataset.label_sets is not None
    assert dataset.label_sets.of(0).tolist() == [1, 2]


def test_labels_in_any_order_are_those_of_the_table(numbered_videos: Path, tmp_path: Path) -> None:
    """The shards name them as the annotations do, the table has their ids in order."""
    videos = sorted(path.relative_to(numbered_videos).as_posix() for path in numbered_videos.rglob("*.mp4"))[:2]
    records = tuple(VideoRecord(f"v{n}", name, labels=("up", "down")) for n, name in enumerate(videos))
    config = PackConfig("python", numbered_videos, tmp_path / "out", profile="copy", workers=1)
    split = pack(config, Annotations(records, ("down", "left", "up"))).directory
    assert load_dataset(split).label_sets.of(0).tolist() == [0, 2]
    report = verify(split)
    assert report.ok and not report.bad_samples
