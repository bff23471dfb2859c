"""Lists `path label label …` and mmaction2's `path num_frames label label …`."""

from pathlib import Path

import pytest

from sharding.datasets.list_file import read_list
from sharding.datasets.list_multilabel import read_list_multilabel
from sharding.errors import UserError
from sharding.records import Annotations, check_records, with_classes


def read(folder: Path, text: str) -> Annotations:
    (folder / "train.txt").write_text(text)
    return check_records(read_list_multilabel(folder / "videos", [folder / "train.txt"], "train"))


def pairs(found: Annotations) -> list[tuple[str, tuple[str, ...] | None]]:
    return [(record.source, record.labels) for record in found.records]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x.mp4 0 3\ny.mp4 1\n", [("x.mp4", ("0", "3")), ("y.mp4", ("1",))]),
        ("a/old film 2.mp4 03 1.0\n", [("a/old film 2.mp4", ("3", "1"))]),
        ("# mine\nx.mp4 cook watch\n", [("x.mp4", ("cook", "watch"))]),
        ("clip 1\tplaying the lute\tsinging\n", [("clip 1", ("playing the lute", "singing"))]),
        ("imgs 5 1\nothers 5 3 5\n", [("imgs", ("1",)), ("others", ("3", "5"))]),
        ("imgs cook watch\nothers wait\n", [("imgs", ("cook", "watch")), ("others", ("wait",))]),
    ],
)
def test_paths_and_labels(tmp_path: Path, text: str, expected: list[tuple[str, tuple[str, ...]]]) -> None:
    found = read(tmp_path, text)
    assert pairs(found) == expected and found.multi_label


def test_paths_of_videos_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "videos" / "clip 3").mkdir(parents=True)
    assert pairs(read(tmp_path, "clip 3 5\n")) == [("clip 3", ("5",))]
    (tmp_path / "videos" / "film").write_text("a file has no frame count in a list")
    assert pairs(read(tmp_path, "film 3 5\n")) == [("film", ("3", "5"))]


def test_classes_of_all_lists_and_of_a_file(tmp_path: Path) -> None:
    paths = [tmp_path / "train.txt", tmp_path / "val.txt"]
    paths[0].write_text("a.mp4 0 2\n")
    paths[1].write_text("b.mp4 4\n")
    found = read_list_multilabel(tmp_path, paths, "val")
    assert found.classes == tuple("01234") and pairs(found) == [("b.mp4", ("4",))]
    named = with_classes(read(tmp_path, "a.mp4 0 2\n"), ("run", "sit", "walk", "wait"))
    assert check_records(named).records[0].labels == ("run", "walk")
    with pytest.raises(UserError, match="labels up to 2, but only 2 class names given"):
        with_classes(read(tmp_path, "a.mp4 0 2\n"), ("run", "sit"))
    assert read(tmp_path, "a.mp4 move_left wait\nb.mp4 move_right\n").flip_pairs == ((0, 1),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 1\nb.mp4\n", r"train\.txt, line 2: 'b\.mp4': expected is 'path label label …', one label or more"),
        ("a.mp4 1 2 1\n", r"line 1: label '1' is listed twice"),
        ("a.mp4 1\nb.mp4 2.0 02\n", r"line 2: label '2' is listed twice"),
        ("a.mp4 1\nb.mp4 2 -1\nc.mp4 0\n", r"line 2: label '-1' is no number"),
        ("a.mp4 0 5000\n", r"line 1: label 5000, but only 2 different labels"),
        ("imgs 5 1\nothers 5\n", r"line 2: 'others 5': expected is 'path num_frames label label …'"),
        ("../a.mp4 1\n", r"line 1: '\.\./a\.mp4': a path inside"),
        ("a.mp4 1\na.mp4 2\n", r"line 2: the key 'a' was already used"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_the_list_of_one_label_names_the_other(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("x.mp4 0 3\n")
    with pytest.raises(UserError, match=r"2 labels of 'x\.mp4'; expected is one.*--dataset list-multilabel"):
        read_list(tmp_path, [tmp_path / "train.txt"], "train")
