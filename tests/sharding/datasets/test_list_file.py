"""Lists `path label` and mmaction2's `path num_frames label`."""

from pathlib import Path

import pytest

from sharding.datasets.list_file import read_list
from sharding.errors import UserError
from sharding.records import Annotations, check_records, with_classes


def read(folder: Path, text: str, name: str = "train.txt") -> Annotations:
    (folder / name).write_text(text)
    return check_records(read_list(folder / "videos", [folder / name], "train"))


def pairs(found: Annotations) -> list[tuple[str, str]]:
    return [(record.source, record.label) for record in found.records]


def test_path_and_label(tmp_path: Path) -> None:
    found = read(tmp_path, "some/dir/1.mp4 dancing\nold film.mp4 singing\n\nx.mp4\tplaying the lute\n")
    assert pairs(found) == [
        ("some/dir/1.mp4", "dancing"),
        ("old film.mp4", "singing"),
        ("x.mp4", "playing the lute"),
    ]
    assert found.classes == ("dancing", "playing the lute", "singing")


def test_number_labels_keep_their_places(tmp_path: Path) -> None:
    found = read(tmp_path, "a.mp4 10\nb.mp4 2\n")
    assert found.classes == tuple(str(number) for number in range(11))
    assert pairs(found) == [("a.mp4", "10"), ("b.mp4", "2")]


def test_frame_counts_of_mmaction2(tmp_path: Path) -> None:
    found = read(tmp_path, "abseiling/-3B32lodo2M 299 0\nair_drumming/_dbcJuKJQNs 300 1\n")
    assert pairs(found) == [("abseiling/-3B32lodo2M", "0"), ("air_drumming/_dbcJuKJQNs", "1")]


def test_names_that_end_in_numbers_are_no_frame_counts(tmp_path: Path) -> None:
    (tmp_path / "videos" / "clip 1").mkdir(parents=True)
    assert pairs(read(tmp_path, "clip 1 0\nclip 2 1\n")) == [("clip 1", "0"), ("clip 2", "1")]
    assert pairs(read(tmp_path, "clip 3\t0\n")) == [("clip 3", "0")]


def test_other_files_are_read_for_their_classes(tmp_path: Path) -> None:
    paths = [tmp_path / "k_train_list.txt", tmp_path / "k_val_list.txt"]
    paths[0].write_text("a.mp4 x\n")
    paths[1].write_text("b.mp4 y\n")
    for split, source in (("train", "a.mp4"), ("val", "b.mp4")):
        found = read_list(tmp_path, paths, split)
        assert ([record.source for record in found.records], found.classes) == ([source], ("x", "y"))
    with pytest.raises(UserError, match="no file has the split 'test' in its name"):
        read_list(tmp_path, paths, "test")


@pytest.mark.parametrize(
    ("text", "classes", "labels"),
    [
        ("# made by me\na.mp4 0\n  # 12 of them\nb.mp4 1\n", ("0", "1"), ["0", "1"]),
        ("a.mp4 0.0\nb.mp4 10.0\nc.mp4 2.00\n", tuple(map(str, range(11))), ["0", "10", "2"]),
        ("a.mp4 01\nb.mp4 00\n", ("0", "1"), ["1", "0"]),
        ("a.mp4 1\nb.mp4 3\nc.mp4 2\n", ("1", "2", "3"), ["1", "3", "2"]),
        ("a.mp4 1\nb.mp4 3\n", ("0", "1", "2", "3"), ["1", "3"]),
        ("a.mp4\t7\nb.mp4\trun\nc.mp4\twalk\n", ("7", "run", "walk"), ["7", "run", "walk"]),
    ],
)
def test_what_labels_mean(tmp_path: Path, text: str, classes: tuple[str, ...], labels: list[str]) -> None:
    found = read(tmp_path, text)
    assert (found.classes, [record.label for record in found.records]) == (classes, labels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 999999999\nb.mp4 1\n", r"line 1: label 999999999, but only 2 different labels"),
        ("a.mp4 1\nb.mp4 12345678901\n", r"line 2: label 12345678901, but only 2"),
        ("a.mp4 0\nb.mp4 5000\n", r"line 2: label 5000, but only 2"),
        ("video label\na.mp4 0\nb.mp4 1\n", r"line 1: label 'label' is no number, but the labels of most lines are"),
        ("a.mp4 0\nb.mp4 -1\nc.mp4 1\n", r"line 2: label '-1' is no number"),
        ("a.mp4 0\nb.mp4 1,5\nc.mp4 1\n", r"line 2: label '1,5' is no number"),
        ("a.mp4 0 1\nb.mp4 1 2\n", r"line 1: 'a\.mp4 0 1': 2 labels of 'a\.mp4'; expected is one"),
        ("a.mp4 0\nb.mp4 1 2 7\n", r"line 2: 'b\.mp4 1 2 7': 3 labels of 'b\.mp4'; expected is one"),
    ],
)
def test_what_is_no_list_of_labels(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_several_labels_of_a_file_without_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "clip").write_text("x")
    with pytest.raises(UserError, match=r"line 1: 'clip 3 5': 2 labels of 'clip'"):
        read(tmp_path, "clip 3 5\n")


def test_names_for_numbers_from_one(tmp_path: Path) -> None:
    found = with_classes(read(tmp_path, "a.mp4 2\nb.mp4 1\n"), ("run", "walk"))
    assert [record.label for record in found.records] == ["walk", "run"]
    found = with_classes(read(tmp_path, "a.mp4 2\nb.mp4 1\n"), ("run", "walk", "sit"))
    assert [record.label for record in found.records] == ["sit", "walk"]


def test_paths_that_would_make_one_key(tmp_path: Path) -> None:
    records = read(tmp_path, "x y.mp4 0\nx_y.mp4 1\nx-y.mp4 1\n").records
    assert len({record.key for record in records}) == 3
    assert records[2].key == "x-y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 1\nb.mp4\n", r"train\.txt, line 2: 'b\.mp4': expected is 'path label'"),
        ("a 10 1\n\nb 1\n", r"train\.txt, line 3: 'b 1': expected is 'path num_frames label'"),
        ("a 10 1\na 10 1 4\n", r"line 2: 'a 10 1 4': expected is 'path num_frames label', with one label"),
        ("a.mp4 1\na.mp4 1\n", r"line 2: the key 'a' was already used by .*line 1"),
        ("../a.mp4 1\n", r"line 1: '\.\./a\.mp4': a path inside"),
        ("/a.mp4 1\n", r"line 1: '/a\.mp4': a path inside"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
