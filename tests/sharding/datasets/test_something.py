"""Something-Something v1 and v2, on miniatures of the published files."""

import json
from pathlib import Path

import pytest

from sharding.datasets.something import read_jester, read_something_v1, read_something_v2
from sharding.errors import UserError
from sharding.records import VideoRecord, check_records

CLASSES = [
    "Pushing something from left to right",
    "Holding something",
    "Pushing something from right to left",
    "Something falling like a feather or paper",
    "Turning the camera left while filming something",
    "Turning the camera right while filming something",
    "Moving something and something so they collide with each other, then stop",
]
PAIRS = ((0, 2), (4, 5))


@pytest.fixture
def v1(tmp_path: Path) -> tuple[Path, list[Path]]:
    videos = tmp_path / "20bn-something-something-v1"
    for video in ("100218", "24413"):
        (videos / video).mkdir(parents=True)
        for frame in range(1, 4):
            (videos / video / f"{frame:05d}.jpg").write_bytes(b"\xff\xd8")
    files = {
        "labels": "\n".join(CLASSES) + "\n",
        "train": f"100218;{CLASSES[3]}\n24413;{CLASSES[6]}\n7;{CLASSES[0]}\n",
        "validation": f"42;{CLASSES[1]}\n",
        "test": "43\n",
    }
    paths = []
    for name, text in files.items():
        paths.append(tmp_path / f"something-something-v1-{name}.csv")
        paths[-1].write_text(text)
    return videos, paths


def test_v1_lists_folders_of_frames(v1) -> None:
    found = check_records(read_something_v1(*v1, "train"))
    assert list(found.records) == [
        VideoRecord("100218", "100218", CLASSES[3]),
        VideoRecord("24413", "24413", CLASSES[6]),
        VideoRecord("7", "7", CLASSES[0]),  # not there: its packing will say so
    ]
    assert found.classes == tuple(CLASSES)
    assert found.flip_pairs == PAIRS


def test_v1_splits_number_classes_alike(v1) -> None:
    found = read_something_v1(*v1, "val")
    assert [record.key for record in found.records] == ["42"]
    assert found.classes == tuple(CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1;Holding something\n2\n", r"train\.csv, line 2: '2': expected is 'id;label'"),
        ("1;Holding something\n\n2;Eating something\n", r"train\.csv, line 3: label 'Eating something'"),
        ("a/b;Holding something\n", r"train\.csv, line 1: key 'a/b'"),
        ("1;Holding something;2\n", r"train\.csv, line 1: '1;Holding something;2'"),
    ],
)
def test_v1_bad_lines_are_named(v1, text: str, message: str) -> None:
    videos, paths = v1
    paths[1].write_text(text)
    with pytest.raises(UserError, match=message):
        read_something_v1(videos, paths, "train")


def test_v1_test_split_has_no_labels(v1) -> None:
    found = check_records(read_something_v1(*v1, "test"))
    assert list(found.records) == [VideoRecord("43", "43", None)]
    assert found.classes == tuple(CLASSES)


def test_jester_is_of_the_same_form(tmp_path: Path) -> None:
    names = ["Swiping Left", "Swiping Right", "Turning Hand Clockwise", "Turning Hand Counterclockwise", "Stop Sign"]
    files = {
        "jester-v1-labels.csv": "\n".join(names),
        "jester-v1-train.csv": "34870;Swiping Right\n",
        "jester-v1-validation.csv": "9223;Stop Sign\n",
        "jester-v1-test.csv": "101\n103;\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = [tmp_path / name for name in files]
    found = check_records(read_jester(tmp_path, paths, "train"))
    assert list(found.records) == [VideoRecord("34870", "34870", "Swiping Right")]
    assert (found.classes, found.flip_pairs) == (tuple(names), ((0, 1), (2, 3)))
    assert [record.label for record in read_jester(tmp_path, paths, "val").records] == ["Stop Sign"]
    assert [(record.key, record.label) for record in read_jester(tmp_path, paths, "test").records] == [
        ("101", None),
        ("103", None),
    ]


def test_v1_names_the_file_that_is_lacking(v1) -> None:
    videos, paths = v1
    with pytest.raises(
        UserError, match=r"the class names: one file with 'labels' in its name is needed; given: .*train"
    ):
        read_something_v1(videos, paths[1:], "train")


def entry(video: int, template: str, **more) -> dict:
    return {"id": str(video), "label": "holding potato", "template": template, "placeholders": ["potato"], **more}


@pytest.fixture
def v2(tmp_path: Path) -> tuple[Path, list[Path]]:
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    for name in ("78687.webm", "42326.mp4"):
        (videos / name).write_bytes(b"x")
    labels = {name: str(label) for label, name in sorted(enumerate(CLASSES), reverse=True)}
    files = {
        "something-something-v2-labels.json": labels,
        "something-something-v2-train.json": [
            entry(78687, "Holding [something]"),
            entry(42326, "Pushing [something] from right to left"),
            entry(99, "[Something] falling like a feather or paper"),
        ],
        "something-something-v2-validation.json": [entry(5, "Holding [something]")],
        "something-something-v2-test.json": [{"id": "1420"}],
    }
    paths = []
    for name, content in files.items():
        paths.append(tmp_path / name)
        paths[-1].write_text(json.dumps(content, indent=1))
    return videos, paths


def test_v2_finds_webm_and_other_copies(v2) -> None:
    found = check_records(read_something_v2(*v2, "train"))
    assert list(found.records) == [
        VideoRecord("78687", "78687.webm", CLASSES[1]),
        VideoRecord("42326", "42326.mp4", CLASSES[2]),
        VideoRecord("99", "99.webm", CLASSES[3]),
    ]
    assert found.classes == tuple(CLASSES)
    assert found.flip_pairs == PAIRS
    assert [record.key for record in read_something_v2(*v2, "val").records] == ["5"]


def test_v2_test_labels_come_from_the_answers(v2) -> None:
    videos, paths = v2
    assert list(read_something_v2(videos, paths, "test").records) == [VideoRecord("1420", "1420.webm", None)]
    answers = paths[0].with_name("test-answers.csv")
    answers.write_text(f"1420;{CLASSES[1]}\n1421;{CLASSES[2]}\n")
    found = read_something_v2(videos, [*paths, answers], "test")
    assert [(record.key, record.label) for record in found.records] == [("1420", CLASSES[1]), ("1421", CLASSES[2])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"id": "1",\n', r"train\.json, line 3: no JSON"),
        ('[{"template": "Holding [something]"}]', r"train\.json, entry 1: no 'id'"),
        (json.dumps([entry(1, "Holding [something]"), entry(2, "Eating [it]")]), r"entry 2: label 'Eating it' is not"),
        ('[{"id": "1420"}]', r"entry 1: video 1420: no 'template', so no label, as in the test split alone"),
        ('{"1": "x"}', r"train\.json: expected is a list"),
    ],
)
def test_v2_bad_entries_are_named(v2, text: str, message: str) -> None:
    videos, paths = v2
    paths[1].write_text(text)
    with pytest.raises(UserError, match=message):
        read_something_v2(videos, paths, "train")


@pytest.mark.parametrize("labels", [{"a": "0", "b": "2"}, {"a": "x"}, ["a", "b"]])
def test_v2_label_ids_must_count_up(v2, labels) -> None:
    videos, paths = v2
    paths[0].write_text(json.dumps(labels))
    with pytest.raises(UserError, match=r"labels\.json: "):
        read_something_v2(videos, paths, "train")
