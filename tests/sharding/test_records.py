"""Keys, classes and the three readers for layouts that everybody has; every mistake names its file and line."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sharding.datasets import DATASETS
from sharding.errors import UserError
from sharding.records import (
    Annotations,
    VideoRecord,
    check_inside,
    check_key,
    check_records,
    key_from_path,
    plain_numbers,
    read_classes,
    sorted_classes,
    with_classes,
)

PATHS = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=300)


@given(PATHS)
@example("/")
def test_any_path_makes_a_key(path):
    assert check_key(key_from_path(path), "here") == key_from_path(path)


def test_keys_stay_readable_and_apart():
    assert key_from_path("applying makeup/clip_01.mp4") == "applying_makeup-clip_01"
    assert key_from_path("..") != key_from_path("...")
    odd = {key_from_path(path) for path in ("ä.mp4", "ö.mp4", "a\nb.mp4", "a\tb.mp4", "x" * 200, "x" * 201)}
    assert len(odd) == 6


@pytest.mark.parametrize("key", ["", "a.b", "a b", "ä", "a/b", "x" * 91, "a\n"])
def test_what_is_no_key(key):
    with pytest.raises(UserError, match=r"file\.txt, line 3: key"):
        check_key(key, "file.txt, line 3")


def test_records_are_checked():
    def check(*records: VideoRecord):
        check_records(Annotations(records, ("a", "b")))

    check(VideoRecord("k1", "x.mp4", "a"), VideoRecord("k2", "y.mp4", "b"))
    with pytest.raises(UserError, match=r"two videos with the key 'k1': x\.mp4 and y\.mp4"):
        check(VideoRecord("k1", "x.mp4", "a"), VideoRecord("k1", "y.mp4", "b"))
    with pytest.raises(UserError, match=r"x\.mp4: label 'c' is not among the 2 classes"):
        check(VideoRecord("k1", "x.mp4", "c"))


@pytest.mark.parametrize("kind", ["labelled", "several", "unlabelled"])
def test_records_are_checked_in_one_go(kind):
    """Not each of them by looking at all of them, which would take a quarter of an hour for Kinetics."""

    class Counted(list):
        times_read = 0

        def __iter__(self):
            self.times_read += 1
            return super().__iter__()

    labels = {"labelled": {"label": "a"}, "several": {"labels": ("a",)}, "unlabelled": {}}[kind]
    records = Counted(VideoRecord(f"k{number}", "x.mp4", **labels) for number in range(50))
    check_records(Annotations(records, ("a",)))
    assert records.times_read < 10


def test_names_that_no_file_of_a_split_can_hold():
    with pytest.raises(UserError, match=r"class 'caf\\udce9': not valid UTF-8, as the names in and of a packed split"):
        check_records(Annotations([VideoRecord("k", "x.mp4", "a")], ("a", "caf\udce9")))
    levels = (("level", ("b", "\ud800")),)
    with pytest.raises(UserError, match=r"class '\\ud800': not valid UTF-8"):
        check_records(Annotations([VideoRecord("k", "x.mp4", "a", level_labels=("b",))], ("a",), levels=levels))
    with pytest.raises(UserError, match=r"'ok/1\\x00\.mp4': a path with a zero byte"):
        check_records(Annotations([VideoRecord("k", "ok/1\0.mp4", "a")], ("a",)))


@pytest.mark.parametrize("source", ["../x.mp4", "a/../../x.mp4", "a/..", "/x.mp4"])
def test_videos_that_are_elsewhere(source):
    with pytest.raises(UserError, match=r"k: .*: a path inside the folder of videos is expected"):
        check_inside(Annotations([VideoRecord("k", source, "a")], ("a",)))


def test_names_with_dots_are_not_elsewhere():
    check_inside(Annotations([VideoRecord("k", "..a/b../...mp4", "a")], ("a",)))


def test_numbers_without_leading_zeros():
    assert plain_numbers(["03", "0", "00"]) == {"03": "3", "0": "0", "00": "0"}
    assert plain_numbers(["03", "1.0"]) == {"03": "03", "1.0": "1.0"}


def test_classes_in_order():
    assert sorted_classes(["b", "a", "b"]) == ("a", "b")
    assert sorted_classes(["10", "2"]) == tuple(str(number) for number in range(11))
    assert sorted_classes(["10", "two"]) == ("10", "two")


def test_given_classes_change_the_order(tmp_path):
    (tmp_path / "classes.txt").write_text("walk\nrun\n\nsit down\n")
    classes = read_classes(tmp_path / "classes.txt")
    assert classes == ("walk", "run", "sit down")
    named = with_classes(Annotations([VideoRecord("k", "x", "run")], ("run", "walk"), ((0, 1),)), classes)
    assert (named.classes, named.flip_pairs) == (classes, ((1, 0),))
    numbered = with_classes(Annotations([VideoRecord("k", "x", "2")], ("0", "1", "2")), classes)
    assert numbered.records[0].label == "sit down"


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def test_folder_with_splits(tmp_path):
    touch(tmp_path, "train/b/1.mp4", "train/a/1.mp4", "train/a/.hidden", "train/readme.txt", "val/c/1.mp4")
    train = DATASETS["folder"](tmp_path, [], "train")
    val = DATASETS["folder"](tmp_path, [], "val")
    assert train.classes == val.classes == ("a", "b", "c")
    assert [(r.key, r.source, r.label) for r in train.records] == [
        ("a-1", "train/a/1.mp4", "a"),
        ("b-1", "train/b/1.mp4", "b"),
    ]


def test_folder_without_splits(tmp_path):
    touch(tmp_path, "run/x y.mp4", "walk/x.mp4")
    records = DATASETS["folder"](tmp_path, [], "train").records
    assert [record.source for record in records] == ["run/x y.mp4", "walk/x.mp4"]
    with pytest.raises(UserError, match="no class folders"):
        DATASETS["folder"](tmp_path / "run", [], "train")
    with pytest.raises(UserError, match="has none"):
        DATASETS["folder"](tmp_path, [tmp_path / "x.csv"], "train")


def read_list(tmp_path: Path, text: str, **others: str) -> Annotations:
    (tmp_path / "train.txt").write_text(text)
    files = [tmp_path / "train.txt"]
    for name, content in others.items():
        files.append(tmp_path / f"{name}.txt")
        files[-1].write_text(content)
    return DATASETS["list"](tmp_path, files, "train")


def test_list(tmp_path):
    annotations = read_list(tmp_path, "a/1.mp4 run\n\nb/my clip.mp4 walk\nc.mp4\tsit down\n", val="d.mp4 jump\n")
    assert annotations.classes == ("jump", "run", "sit down", "walk")
    assert [(r.key, r.source, r.label) for r in annotations.records] == [
        ("a-1", "a/1.mp4", "run"),
        ("b-my_clip", "b/my clip.mp4", "walk"),
        ("c", "c.mp4", "sit down"),
    ]
    assert read_list(tmp_path, "1.mp4 3\n2.mp4 0").classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 1\nb.mp4\n", r"train.txt, line 2: 'b.mp4': expected is 'path label'"),
        ("a.mp4 1\n../b.mp4 1\n", r"train.txt, line 2: '../b.mp4': a path inside"),
        ("/b.mp4 1\n", r"train.txt, line 1: '/b.mp4': a path inside"),
        ("a.mp4 1\nb.mp4 2\na.mp4 2\n", r"train.txt, line 3: the key 'a' was already used by .*train.txt, line 1"),
    ],
)
def test_mistakes_in_a_list(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_list(tmp_path, text)


HEADER = "label,youtube_id,time_start,time_end,split\n"


def read_kinetics(tmp_path: Path, rows: str, split: str = "train", header: str = HEADER) -> Annotations:
    (tmp_path / "k.csv").write_text(header + rows)
    return DATASETS["kinetics"](tmp_path / "videos", [tmp_path / "k.csv"], split)


def test_kinetics_layouts(tmp_path):
    touch(
        tmp_path / "videos",
        "arm wrestling/-a_1_000003_000013.mp4",
        "riding_a_bike/b2_000010_000020.mkv",
        "swimming/b2_000010_000020.mkv",
        "c3_000000_000010.webm",
        "d4.mp4",
    )
    rows = (
        "arm wrestling,-a_1,3,13,train\nriding a bike,b2,10,20,train\nwaving,c3,0,10,train\n"
        "waving,d4,5,15,train\nwaving,e5,5,15,train\nzumba,f6,0,10,validate\n"
    )
    train = read_kinetics(tmp_path, rows)
    assert train.classes == ("arm wrestling", "riding a bike", "waving", "zumba")
    assert [(record.key, record.source) for record in train.records] == [
        ("-a_1_000003_000013", "arm wrestling/-a_1_000003_000013.mp4"),
        ("b2_000010_000020", "riding_a_bike/b2_000010_000020.mkv"),
        ("c3_000000_000010", "c3_000000_000010.webm"),
        ("d4_000005_000015", "d4.mp4"),
        ("e5_000005_000015", "waving/e5_000005_000015.mp4"),
    ]
    val = read_kinetics(tmp_path, rows, "val")
    assert (val.classes, [record.key for record in val.records]) == (train.classes, ["f6_000000_000010"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (",x,0,10,train\n", r"k.csv, line 2: no label for 'x'"),
        ("a,x,0,10,train\na,y,zero,10,train\n", r"k.csv, line 3: time_start 'zero'"),
        ("a,x\n", r"k.csv, line 2: "),
        ("a,x,0,10,train\nb,x,0,10,train\n", r"k.csv, line 3: the key 'x_000000_000010' was already used"),
        ("a,x,0,10,test\n", r"--split train: no rows of it in .*k.csv; there are test"),
    ],
)
def test_mistakes_in_kinetics(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_kinetics(tmp_path, rows)


def test_other_columns_and_text(tmp_path):
    with pytest.raises(UserError, match="line 1: no column 'youtube_id'"):
        read_kinetics(tmp_path, "a,b\n", header="label,id\n")
    (tmp_path / "k.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        DATASETS["kinetics"](tmp_path, [tmp_path / "k.csv"], "train")
