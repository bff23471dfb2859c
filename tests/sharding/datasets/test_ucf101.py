"""UCF101, on a miniature of the published split files and class folders."""

from pathlib import Path

import pytest

from sharding.datasets.ucf101 import read_ucf101
from sharding.errors import UserError
from sharding.records import VideoRecord, check_records


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, list[Path]]:
    videos = tmp_path / "UCF-101"
    (videos / "HandstandPushups").mkdir(parents=True)
    (videos / "HandstandPushups" / "v_HandStandPushups_g08_c01.avi").write_bytes(b"x")
    (videos / "ApplyEyeMakeup").mkdir()
    (videos / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g08_c02.mp4").write_bytes(b"x")
    files = {  # published with carriage returns; class numbers from 1, not in the order of the names here
        "classInd.txt": "1 YoYo\r\n2 HandstandPushups\r\n3 ApplyEyeMakeup\r\n",
        "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 3\r\n"
        "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\nYoYo/v_YoYo_g01_c01.avi 1\r\n",
        "testlist01.txt": "YoYo/v_YoYo_g02_c01.avi\r\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    return videos, [tmp_path / name for name in files]


def test_classes_are_numbered_as_in_class_ind(dataset) -> None:
    found = check_records(read_ucf101(*dataset, "train"))
    assert found.classes == ("YoYo", "HandstandPushups", "ApplyEyeMakeup")
    assert list(found.records) == [
        VideoRecord("v_ApplyEyeMakeup_g08_c02", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.mp4", "ApplyEyeMakeup"),
        VideoRecord(
            "v_HandStandPushups_g08_c01", "HandstandPushups/v_HandStandPushups_g08_c01.avi", "HandstandPushups"
        ),
        VideoRecord("v_YoYo_g01_c01", "YoYo/v_YoYo_g01_c01.avi", "YoYo"),  # not there
    ]


@pytest.mark.parametrize("split", ["test", "val"])
def test_test_lists_have_no_numbers(dataset, split: str) -> None:
    found = read_ucf101(*dataset, split)
    assert [(record.key, record.label) for record in found.records] == [("v_YoYo_g02_c01", "YoYo")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("YoYo/v_YoYo_g01_c01.avi 2", "line 2: class number 2, but YoYo is 1 in classInd.txt"),
        ("Juggling/v_Juggling_g01_c01.avi 1", "line 2: 'Juggling/v_Juggling_g01_c01.avi 1': expected is"),
        ("v_YoYo_g01_c01.avi 1", "line 2: 'v_YoYo_g01_c01.avi 1': expected is"),
        ("YoYo/ 1", "line 2: 'YoYo/ 1': expected is"),
    ],
)
def test_bad_lines_are_named(dataset, line: str, message: str) -> None:
    videos, paths = dataset
    paths[1].write_text(f"YoYo/v_YoYo_g09_c01.avi 1\n{line}\n")
    with pytest.raises(UserError, match=rf"trainlist01\.txt, {message}"):
        read_ucf101(videos, paths, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 YoYo\n2\n", r"classInd\.txt, line 2: '2'"),
        ("1 YoYo\n2 YoYo\n", r"classInd\.txt, line 2"),
        ("0 YoYo\n1 Mixing\n", r"classInd\.txt: class numbers must be 1 to 2"),
    ],
)
def test_bad_class_index_is_named(dataset, text: str, message: str) -> None:
    videos, paths = dataset
    paths[0].write_text(text)
    with pytest.raises(UserError, match=message):
        read_ucf101(videos, paths, "train")


def test_one_published_split_at_a_time(dataset) -> None:
    videos, paths = dataset
    second = paths[1].with_name("trainlist02.txt")
    second.write_text("")
    with pytest.raises(UserError, match=r"not 2: trainlist01\.txt, trainlist02\.txt"):
        read_ucf101(videos, [*paths, second], "train")
    with pytest.raises(UserError, match="--split all: ucf101 has train, test, val"):
        read_ucf101(videos, paths, "all")
