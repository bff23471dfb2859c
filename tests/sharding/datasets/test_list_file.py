"""Lists `path label` and mmaction2's `path num_frames label`."""

from pathlib import Path

import pytest

from sharding.datasets.list_file import read_list
from sharding.errors import UserError
from sharding.records import Annotations, check_records


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
    ("text", "message"),
    [
        ("a.mp4 1\nb.mp4\n", r"train\.txt, line 2: 'b\.mp4': expected is 'path label'"),
        ("a 10 1\n\nb 1\n", r"train\.txt, line 3: 'b 1': expected is 'path num_frames label'"),
        ("a 10 1 4\n", r"line 1: 'a 10 1 4': expected is 'path num_frames label', with one label"),
        ("a.mp4 1\na.mp4 1\n", r"line 2: the key 'a' was already used by .*line 1"),
        ("../a.mp4 1\n", r"line 1: '\.\./a\.mp4': a path inside"),
        ("/a.mp4 1\n", r"line 1: '/a\.mp4': a path inside"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
