"""Charades: its CSV files, made up here line for line like the published ones, which are read where they are."""

import tarfile
from pathlib import Path

import pytest

from sharding.datasets.charades import read_charades
from sharding.errors import UserError
from sharding.records import Annotations, check_records
from tests.conftest import ROOT

HEAD = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
REAL = ROOT.parent / "shared" / "real" / "annotations.tar.xz"


def row(key: str, actions: str) -> str:
    return f'{key},HR43,Kitchen,6,7,Yes,"A person, cooking.",food;stove,"One cooks.;Another waits.",{actions},24.83\n'


def read(folder: Path, text: str, *more: Path, split: str = "train") -> Annotations:
    path = folder / f"Charades_v1_{'train' if split == 'train' else 'test'}.csv"
    path.write_text(HEAD + text)
    return check_records(read_charades(folder, [path, *more], split))


def test_actions_are_labels_with_times(tmp_path: Path) -> None:
    (tmp_path / "N11GT.avi").write_text("another suffix")
    text = (
        row("46GP8", "c092 11.90 21.20;c147 0.00 12.60;c092 22.00 24.00") + row("N11GT", "") + row("0IH69", "c000 1 2")
    )
    found = read(tmp_path, text)
    assert found.multi_label and found.classes == tuple(f"c{number:03d}" for number in range(157))
    assert [(record.key, record.source, record.labels) for record in found.records] == [
        ("46GP8", "46GP8.mp4", ("c092", "c147")),
        ("N11GT", "N11GT.avi", ()),
        ("0IH69", "0IH69.mp4", ("c000",)),
    ]
    assert found.records[0].timed_labels == (("c092", 11.9, 21.2), ("c147", 0.0, 12.6), ("c092", 22.0, 24.0))


def test_names_of_the_classes(tmp_path: Path) -> None:
    names = tmp_path / "Charades_v1_classes.txt"
    names.write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    found = read(tmp_path, row("46GP8", "c001 0.00 1.00"), names, split="val")
    assert found.classes == ("Holding some clothes", "Putting clothes somewhere")
    assert found.records[0].timed_labels == (("Putting clothes somewhere", 0.0, 1.0),)
    with pytest.raises(UserError, match=r"line 2: class c002, but there are 2"):
        read(tmp_path, row("46GP8", "c002 0.00 1.00"), names)
    names.write_text("c000 One\nc002 Two\n")
    with pytest.raises(UserError, match=r"classes\.txt, line 2: 'c002 Two': expected is 'c001 NAME'"):
        read(tmp_path, row("46GP8", "c000 0.00 1.00"), names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (row("46GP8", "c157 0.00 1.00"), r"train\.csv, line 2: class c157, but there are 157, from c000 on"),
        (row("46GP8", "c92 0.00 1.00"), r"line 2: action 'c92 0\.00 1\.00': expected is a class and two times"),
        (row("46GP8", "c092 0.00"), r"line 2: action 'c092 0\.00': expected"),
        (row("46GP8", "") * 2, r"line 3: the key '46GP8' was already used"),
        (row("46GP8", "c092 0.00 1.00,c093 0.00 1.00"), r"line 2: 12 fields, but 11 columns"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_what_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "Charades_v1_train.csv").write_text("label,youtube_id\n")
    with pytest.raises(UserError, match=r"line 1: no column 'id'"):
        read_charades(tmp_path, [tmp_path / "Charades_v1_train.csv"], "train")
    with pytest.raises(UserError, match="charades has train, val, test"):
        read_charades(tmp_path, [], "dev")


def test_the_published_file(tmp_path: Path) -> None:
    if not REAL.is_file():
        pytest.skip(f"no published annotation files in {REAL}")
    with tarfile.open(REAL) as archive:
        for name in ("train", "train_mini"):
            content = archive.extractfile(f"annotations/charades/Charades_v1_{name}.csv")
            assert content is not None
            (tmp_path / f"Charades_v1_{name}.csv").write_bytes(content.read())
    found = check_records(read_charades(tmp_path, [tmp_path / "Charades_v1_train.csv"], "train"))
    labels = [record.labels or () for record in found.records]
    assert (len(labels), sum(map(len, labels)), labels.count(())) == (7985, 48684, 174)
    assert sum(len(record.timed_labels) for record in found.records) == 49809
    with pytest.raises(UserError, match="line 2: action 'window'"):  # a copy whose columns somebody's program cut
        read_charades(tmp_path, [tmp_path / "Charades_v1_train_mini.csv"], "train")
