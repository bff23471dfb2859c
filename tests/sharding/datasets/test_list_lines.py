"""What both readers of lists share: the file of a split, comments; labels that are numbers are in the tests of each."""

from pathlib import Path

import pytest

from sharding.datasets.list_file import read_list
from sharding.datasets.list_multilabel import read_list_multilabel
from sharding.errors import UserError


@pytest.mark.parametrize("reader", [read_list, read_list_multilabel])
@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("train.txt", "pretrain.txt"),
        ("k_train_1.txt", "k_pretrain.txt"),
        ("xtrain.txt", "val.txt"),
        ("train2", "trains"),
    ],
)
def test_the_split_is_a_word_of_the_files_name(tmp_path: Path, reader, chosen: str, other: str) -> None:
    paths = [tmp_path / other, tmp_path / chosen]
    for path in paths:
        path.write_text(f"{path.stem}.mp4 run\n")
    assert [record.key for record in reader(tmp_path, paths, "train").records] == [Path(chosen).stem]


@pytest.mark.parametrize("reader", [read_list, read_list_multilabel])
def test_two_files_of_a_split_are_refused(tmp_path: Path, reader) -> None:
    paths = [tmp_path / "train_1.txt", tmp_path / "train_2.txt", tmp_path / "val.txt"]
    for path in paths:
        path.write_text(f"{path.stem}.mp4 run\n")
    with pytest.raises(UserError, match=r"--annotations train_1\.txt, train_2\.txt: 2 files have the split 'train' in"):
        reader(tmp_path, paths, "train")


@pytest.mark.parametrize("reader", [read_list, read_list_multilabel])
def test_videos_whose_names_begin_as_comments(tmp_path: Path, reader) -> None:
    for name in ("#1.mp4", "#2 x.mp4", "#3.mp4"):
        (tmp_path / name).touch()
    lines = "# mine\n#1.mp4 run\n#2 x.mp4 run\n#3.mp4\trun\n#4.mp4 run\n#\n# " + "long " * 100 + "\n"
    (tmp_path / "train.txt").write_text(lines)
    records = reader(tmp_path, [tmp_path / "train.txt"], "train").records
    assert [record.source for record in records] == ["#1.mp4", "#2 x.mp4", "#3.mp4"]
    (tmp_path / "train.txt").write_text("a.mp4,run\n#1.mp4,run\n#4.mp4,run\n")
    if reader is read_list:
        assert [r.source for r in reader(tmp_path, [tmp_path / "train.txt"], "train").records] == ["a.mp4", "#1.mp4"]


@pytest.mark.parametrize("reader", [read_list, read_list_multilabel])
@pytest.mark.parametrize("line", ["{} 1", "{} c 1", "#{} 1"])
def test_a_path_longer_than_any_file_has_is_that_of_a_video_that_is_not_there(reader, line, tmp_path):
    (tmp_path / "train.txt").write_text("a.mp4 1\n" + line.format("b" * 5000) + "\n")
    sources = [record.source for record in reader(tmp_path, [tmp_path / "train.txt"], "train").records]
    assert sources[0] == "a.mp4" and len(sources) == (1 if line.startswith("#") else 2)
