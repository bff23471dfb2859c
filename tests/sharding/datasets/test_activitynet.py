"""ActivityNet and HACS Segments, on a few entries in the form of the published files."""

import json
from pathlib import Path

import pytest

from sharding.datasets.activitynet import read_activitynet
from sharding.errors import UserError
from sharding.pack import PackConfig, pack
from sharding.records import VideoRecord, check_records
from tests.helpers.annotations import real_annotations
from tests.helpers.videos import write_numbered_video
from tests.sharding.datasets.test_packing import numbers, packed

LONG = {
    "duration": 8.0,
    "subset": "training",
    "resolution": "320x240",
    "url": "https://www.youtube.com/watch?v=--0edUL8zmA",
    "annotations": [
        {"segment": [0.4, 0.8], "label": "Dodgeball"},
        {"segment": [6.0, 6.52], "label": "Archery"},
        {"segment": [7.2, 8.3], "label": "Dodgeball"},
    ],
}
DATABASE = {
    "--0edUL8zmA": LONG,
    "abcdefghijk": {"subset": "validation", "annotations": [{"segment": [1, 2], "label": "Surfing"}]},
    "lmnopqrstuv": {"subset": "testing", "annotations": []},
}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_each_segment_is_a_sample(tmp_path: Path) -> None:
    videos = tmp_path / "videos" / "Dodgeball"  # HACS has a folder for each class
    videos.mkdir(parents=True)
    path = write(tmp_path / "activity_net.v1-3.min.json", {"version": "VERSION 1.3", "database": DATABASE})
    assert list(check_records(read_activitynet(tmp_path / "videos", [path], "val")).records) == [
        VideoRecord("abcdefghijk_0", "v_abcdefghijk.mp4", "Surfing", 1.0, 2.0)
    ]
    for name in ("--0edUL8zmA.mkv", "v_--0edUL8zmA.mp4"):  # the second is preferred
        (videos / name).write_bytes(b"x")
        found = check_records(read_activitynet(tmp_path / "videos", [path], "train"))
        assert {record.source for record in found.records} == {f"Dodgeball/{name}"}
    assert found.classes == ("Archery", "Dodgeball", "Surfing")
    assert [(record.key, record.label, record.start_seconds, record.end_seconds) for record in found.records] == [
        ("--0edUL8zmA_0", "Dodgeball", 0.4, 0.8),
        ("--0edUL8zmA_1", "Archery", 6.0, 6.52),
        ("--0edUL8zmA_2", "Dodgeball", 7.2, 8.3),
    ]


def test_the_lists_of_mmaction2(tmp_path: Path) -> None:
    entry = {"duration_second": 8.0, "duration_frame": 200, "annotations": LONG["annotations"][:1]}
    paths = [
        write(tmp_path / f"anet_anno_{split}.json", {f"v_{split}": entry | {"rfps": 25}}) for split in ("train", "val")
    ]
    for split in ("train", "val"):
        (record,) = read_activitynet(tmp_path, paths, split).records
        assert record == VideoRecord(f"v_{split}_0", f"v_{split}.mp4", "Dodgeball", 0.4, 0.8)


def test_segments_hold_their_frames_and_what_is_wrong_is_a_failure(tmp_path: Path) -> None:
    """At 25 frames/s [0.4, 0.8) are frames 10 to 19, and of [7.2, 8.3) only 180 to 199 are there: that is noted."""
    entry = json.loads(json.dumps(LONG))
    for segment in ([9, 10], [7.5, 9], [3, 2], [5, 5], [-1, 1]):
        entry["annotations"].append({"segment": segment, "label": "Archery"})
    path = write(tmp_path / "HACS_segments.json", {"database": {"--0edUL8zmA": entry}})
    write_numbered_video(tmp_path / "videos" / "v_--0edUL8zmA.mp4", 200, gop=60)
    dataset = packed("hacs", tmp_path / "videos", [path], tmp_path / "out", max_failures=1.0)
    expected = {"--0edUL8zmA_0": range(10, 20), "--0edUL8zmA_1": range(150, 163), "--0edUL8zmA_2": range(180, 200)}
    assert {key: numbers(dataset, key) for key in dataset.keys} == {key: list(of) for key, of in expected.items()}
    notes = dict(zip(dataset.keys, dataset.column("notes")))
    assert notes == {"--0edUL8zmA_0": "", "--0edUL8zmA_1": "", "--0edUL8zmA_2": "ends_early"}
    lines = [json.loads(line) for line in (dataset.directory / "failures.jsonl").read_text().splitlines()]
    assert {line["key"][-1]: (line["kind"], line["error"]) for line in lines} == {
        "3": ("decode", "its part begins at 9 s, but the video ends at 8 s"),
        "4": ("decode", "its part is from 7.5 s to 9 s, but the video ends at 8 s"),
        "5": ("label", "it is listed from 3 s to 2 s: a part ends after it begins, at 0 or later"),
        "6": ("label", "it is listed from 5 s to 5 s: a part ends after it begins, at 0 or later"),
        "7": ("label", "it is listed from -1 s to 1 s: a part ends after it begins, at 0 or later"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"hacs\.json: expected is \{\"database\""),
        ({"database": {"a": {"annotations": []}, "b": []}}, r"video 'b': no list of 'annotations', or no 'subset'"),
        ({"database": {"a": {"annotations": {}}}}, r"video 'a': no list of 'annotations'"),
        ({"a": {"annotations": [{"segment": [1], "label": "x"}]}}, r"video 'a', segment 0: .*expected is"),
        ({"a": {"annotations": [{"segment": [1, "x"], "label": "x"}]}}, r"video 'a', segment 0: "),
        ({"a": {"annotations": [{"segment": [1, 2], "label": 3}]}}, r"video 'a', segment 0: "),
        ({"a": {"annotations": [{"segment": [1, 1e999], "label": "x"}]}}, r"video 'a', segment 0: "),
        (
            {"database": {"a": LONG | {"subset": "validation"}}},
            r"no segments of it in .*; its subsets are 'validation'",
        ),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, content: object, message: str) -> None:
    path = write(tmp_path / "hacs.json", content)
    with pytest.raises(UserError, match=message):
        read_activitynet(tmp_path, [path], "train")


def test_a_split_without_segments_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "anet.json", {"database": DATABASE})
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match="--split test: no segments of it"):
        pack(PackConfig("activitynet", tmp_path / "videos", tmp_path / "out", "test", (path,)))
    assert not (tmp_path / "out").exists()


def test_a_published_file() -> None:
    path = real_annotations("mmaction2_list_formats") / "action_test_anno.json"
    found = check_records(read_activitynet(path.parent, [path], "test"))
    assert [(record.start_seconds, record.end_seconds) for record in found.records] == [(0.3, 0.6), (1.0, 2.0)]


def test_several_files_of_which_nobody_knows_the_subset(tmp_path: Path) -> None:
    entry = {"annotations": [{"segment": [1, 2], "label": "Surfing"}]}
    paths = [write(tmp_path / f"{name}.json", {name: entry}) for name in ("one", "other")]
    with pytest.raises(
        UserError, match=r"one\.json, video 'one': no 'subset', and not one of train, val and test in the"
    ):
        read_activitynet(tmp_path, paths, "train")
    assert len(read_activitynet(tmp_path, paths[:1], "train").records) == 1


def test_a_word_that_contains_a_split_is_none_of_its_name(tmp_path):
    """`latest` is not `test`."""
    (tmp_path / "latest_train.json").write_text(
        json.dumps({"database": {"v": {"annotations": [{"segment": [0, 1], "label": "a"}]}}})
    )
    (tmp_path / "val.json").write_text(json.dumps({"database": {}}))
    files = [tmp_path / "latest_train.json", tmp_path / "val.json"]
    assert len(read_activitynet(tmp_path, files, "train").records) == 1
