"""Kinetics-400, -600, -700 and -700-2020, on miniatures of the published CSV files and of the copies in use."""

from pathlib import Path

import pytest

from sharding.datasets.kinetics import read_kinetics
from sharding.errors import UserError
from sharding.records import VideoRecord, check_records
from tests.helpers.annotations import real_annotations

# The published files differ in columns, quoting, the names of splits, and how seconds are written.
PUBLISHED = {
    "400": (
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        'testifying,---QUuC4vJs,84,94,{train},0\n"massaging person\'s head",-2VKVjgNuE0,3,13,{train},1\n',
        'testifying,--3ouPhoy2A,20,30,{val},0\n"passing American football (in game)",-4I2BLCh0Vo,5,15,{val},0\n',
        {"train": "train", "val": "val"},
    ),
    "600": (
        "label,youtube_id,time_start,time_end,split\n"
        "testifying,---QUuC4vJs,84.0,94.0,{train}\nmassaging person's head,-2VKVjgNuE0,3.0,13.0,{train}\n",
        "testifying,--3ouPhoy2A,20,30,{val}\npassing American football (in game),-4I2BLCh0Vo,5,15,{val}\n",
        {"train": "train", "val": "val"},
    ),
    "700": (
        "label,youtube_id,time_start,time_end,split\n"
        "testifying,---QUuC4vJs,84,94,{train}\nmassaging person's head,-2VKVjgNuE0,3,13,{train}\n",
        "testifying,--3ouPhoy2A,20,30,{val}\npassing American football (in game),-4I2BLCh0Vo,5,15,{val}\n",
        {"train": "train", "val": "validate"},
    ),
}
CLASSES = ("massaging person's head", "passing American football (in game)", "testifying")
VAL = ["--3ouPhoy2A_000020_000030", "-4I2BLCh0Vo_000005_000015"]


@pytest.fixture(params=PUBLISHED)
def annotations(request, tmp_path: Path) -> list[Path]:
    train, val, splits = PUBLISHED[request.param]
    heading = train.split("\n", 1)[0] + "\n"
    paths = [tmp_path / "train.csv", tmp_path / "val.csv"]
    for path, text in zip(paths, (train, heading + val)):
        path.write_text(text.format(**splits))
    return paths


def put(videos: Path, *names: str) -> None:
    for name in names:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_bytes(b"x")


def sources(videos: Path, annotations: list[Path], split: str = "train") -> list[str]:
    return [record.source for record in check_records(read_kinetics(videos, annotations, split)).records]


def test_classes_are_those_of_all_files_and_rows_those_of_the_split(annotations, tmp_path: Path) -> None:
    found = check_records(read_kinetics(tmp_path, annotations, "train"))
    assert found.classes == CLASSES
    assert list(found.records) == [  # neither is there; they may have been taken off the net
        VideoRecord("---QUuC4vJs_000084_000094", "testifying/---QUuC4vJs_000084_000094.mp4", CLASSES[2]),
        VideoRecord("-2VKVjgNuE0_000003_000013", f"{CLASSES[0]}/-2VKVjgNuE0_000003_000013.mp4", CLASSES[0]),
    ]
    for split in ("val", "validate"):
        found = read_kinetics(tmp_path, annotations, split)
        assert found.classes == CLASSES
        assert [record.key for record in found.records] == VAL


@pytest.mark.parametrize(
    "names",
    [
        ("testifying/---QUuC4vJs_000084_000094.mp4", "massaging person's head/-2VKVjgNuE0_000003_000013.mp4"),
        ("testifying/---QUuC4vJs_000084_000094.mkv", "massaging_persons_head/-2VKVjgNuE0_000003_000013.mp4"),
        ("---QUuC4vJs_000084_000094.mp4", "-2VKVjgNuE0_000003_000013.webm"),
        ("---QUuC4vJs.mp4", "-2VKVjgNuE0.mp4"),
        ("train/testifying/---QUuC4vJs.mp4", "train/Massaging person's head/-2VKVjgNuE0.mp4"),
    ],
)
def test_copies_in_use(annotations, tmp_path: Path, names: tuple[str, str]) -> None:
    videos = tmp_path / "videos"
    put(videos, *names)
    assert sources(videos, annotations) == list(names)


def test_the_copy_in_the_folder_of_the_class_is_taken(annotations, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    name = "-2VKVjgNuE0_000003_000013.mp4"
    put(videos, f"bending back/{name}", f"massaging_person's_head/{name}", "testifying/-2VKVjgNuE0.mp4")
    assert sources(videos, annotations)[1] == f"massaging_person's_head/{name}"


HEADING = "label,youtube_id,time_start,time_end,split\n"
GOOD = "testifying,---QUuC4vJs,84,94,train\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADING + GOOD + ",--3ouPhoy2A,20,30,train\n", r"line 3: no label for '--3ouPhoy2A'"),
        (HEADING + "testifying,,20,30,train\n", r"line 2: no youtube_id"),
        (HEADING + "testifying,abc,twenty,30,train\n", r"line 2: time_start 'twenty', time_end '30'"),
        (HEADING + "testifying,abc,inf,30,train\n", r"line 2: time_start 'inf'"),
        (HEADING + GOOD + "\ntestifying,abc\n", r"line 4: 2 fields, but 5 columns"),
        (HEADING + "testifying,a/../b,1,2,train\n", r"line 2: key 'a/\.\./b_000001_000002'"),
        (HEADING + GOOD + GOOD, r"line 3: the key '---QUuC4vJs_000084_000094' was already used by .*line 2"),
        (
            "youtube_id,time_start,time_end,split\nabc,1,2,train\n",
            r"line 2: no column 'label', which the test split",
        ),
        ("label,id,start,end\n", r"line 1: no column 'youtube_id'; expected are label, youtube_id"),
        ("", r"line 1: no column"),
        (HEADING + "testifying,abc,1,2,test\n", r"--split train: no rows of it in .*; there are test"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_kinetics(tmp_path, [path], "train")


def test_csv_that_is_no_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(HEADING + '"' + "x" * 200_000 + '",a,1,2,train\n')
    with pytest.raises(UserError, match=r"train\.csv, line 2: field larger than"):
        read_kinetics(tmp_path, [path], "train")
    with pytest.raises(UserError, match="needs its CSV files"):
        read_kinetics(tmp_path, [], "train")


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    key = "abcdefghij1_000001_000011"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{key}.mp4").write_bytes(b"x")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "arm_wrestling").symlink_to(tmp_path / "elsewhere")
    (videos / "loop").symlink_to(videos)
    (tmp_path / "elsewhere" / "back").symlink_to(videos)
    listed = tmp_path / "train.csv"
    listed.write_text("label,youtube_id,time_start,time_end,split\narm wrestling,abcdefghij1,1,11,train\n")
    records = read_kinetics(videos, [listed], "train").records
    assert [record.source for record in records] == [f"arm_wrestling/{key}.mp4"]


@pytest.mark.parametrize("companion", ["gif", "mp3", "m4a", "json", "jpg", "en.vtt", "avif"])
def test_companions_do_not_win(tmp_path: Path, companion: str) -> None:
    key = "abcdefghij1_000001_000011"
    folder = tmp_path / "videos" / "archery"
    folder.mkdir(parents=True)
    for name in (f"{key}.{companion}", f"{key}.mp4"):
        (folder / name).write_bytes(b"x")
    listed = tmp_path / "train.csv"
    listed.write_text("label,youtube_id,time_start,time_end,split\narchery,abcdefghij1,1,11,train\n")
    records = read_kinetics(tmp_path / "videos", [listed], "train").records
    assert [record.source for record in records] == [f"archery/{key}.mp4"]


def test_the_test_split_may_be_without_labels(annotations, tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n")
    found = check_records(read_kinetics(tmp_path, [*annotations, path], "test"))
    assert list(found.records) == [VideoRecord("--6bJUbfpnQ_000017_000027", "--6bJUbfpnQ_000017_000027.mp4", None)]
    assert found.classes == CLASSES
    assert len(read_kinetics(tmp_path, [*annotations, path], "train").records) == 2


@pytest.mark.parametrize(
    ("version", "split", "count", "classes"),
    [("400_val", "val", 19906, 400), ("600_val", "val", 30000, 600), ("400_test", "test", 38685, 0)],
)
def test_the_published_files(version: str, split: str, count: int, classes: int) -> None:
    path = real_annotations("kinetics") / f"kinetics-{version}.csv"
    found = read_kinetics(path.parent / "none", [path], split)
    assert (len(found.records), len(found.classes), found.has_labels) == (count, classes, bool(classes))


@pytest.mark.parametrize("names", [("k_train.csv", "k_val.csv"), ("TRAINING.csv", "k600-validate.csv")])
def test_files_without_a_column_of_splits_are_of_the_one_in_their_names(tmp_path: Path, names) -> None:
    heading = "label,youtube_id,time_start,time_end\n"
    paths = [tmp_path / name for name in names]
    paths[0].write_text(heading + "testifying,aaa,0,10\n")
    paths[1].write_text(heading + "zumba,bbb,0,10\n")
    for split, key in (("train", "aaa"), ("val", "bbb"), ("validate", "bbb")):
        found = read_kinetics(tmp_path, paths, split)
        assert [record.key for record in found.records] == [f"{key}_000000_000010"]
        assert found.classes == ("testifying", "zumba")
        assert len(read_kinetics(tmp_path, paths[:1], split).records) == 1
    with pytest.raises(UserError, match=r"--split test: no rows of it in .*; there are train, val"):
        read_kinetics(tmp_path, paths, "test")


@pytest.mark.parametrize("name", ["k400.csv", "latest.csv", "train_and_val.csv"])
def test_files_of_which_nobody_knows_the_split(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / "train.csv", tmp_path / name]
    for path in paths:
        path.write_text("label,youtube_id,time_start,time_end\ntestifying,aaa,0,10\n")
    with pytest.raises(UserError, match=rf"{name}, line 2: of which split\? There is no column 'split', and not one"):
        read_kinetics(tmp_path, paths, "train")


def test_a_split_of_ones_own_by_the_name_of_its_file(tmp_path: Path) -> None:
    paths = [tmp_path / "train_mini.csv", tmp_path / "val.csv"]
    for number, path in enumerate(paths):
        path.write_text(f"label,youtube_id,time_start,time_end\ntestifying,v{number},0,10\n")
    assert [record.key for record in read_kinetics(tmp_path, paths, "mini").records] == ["v0_000000_000010"]
