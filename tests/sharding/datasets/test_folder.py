"""Class folders."""

from pathlib import Path

import pytest

from sharding.datasets.folder import read_folder
from sharding.errors import UserError
from sharding.pack import describe_passed_over
from sharding.records import VideoRecord, check_records


def put(videos: Path, *names: str) -> None:
    for name in names:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_bytes(b"x")


def test_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "b/2.mp4", "b/1.mp4", "a b/film.one.avi", "a b/.DS_Store", "readme.txt")
    found = check_records(read_folder(tmp_path, (), "train"))
    assert found.classes == ("a b", "b")
    assert [(record.source, record.label) for record in found.records] == [
        ("a b/film.one.avi", "a b"),
        ("b/1.mp4", "b"),
        ("b/2.mp4", "b"),
    ]
    assert found.records[1] == VideoRecord("b-1", "b/1.mp4", "b")


def test_splits_number_classes_alike(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.mp4", "train/c/1.mp4", "val/b/1.mp4", "val/c/1.mp4")
    train, val = (check_records(read_folder(tmp_path, (), split)) for split in ("train", "val"))
    assert train.classes == val.classes == ("a", "b", "c")
    assert [record.source for record in val.records] == ["val/b/1.mp4", "val/c/1.mp4"]


def test_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    put(tmp_path, "a/clip/00001.jpg", "a/clip/00002.jpg")
    assert [record.source for record in read_folder(tmp_path, (), "train").records] == ["a/clip"]


def test_names_that_would_make_one_key(tmp_path: Path) -> None:
    put(tmp_path, "a/é.mp4", "a/è.mp4")
    assert len({record.key for record in check_records(read_folder(tmp_path, (), "train")).records}) == 2
    put(tmp_path, "a/film.mp4", "a/film.avi", "a/clip.MOV", "a/clip.mp4", "a/x y.mp4", "a/x_y.mp4", "a/plain.mp4")
    records = check_records(read_folder(tmp_path, (), "train")).records
    assert len({record.key for record in records}) == 9
    keys = {record.source: record.key for record in records}
    assert keys["a/plain.mp4"] == "a-plain"
    assert all(keys[f"a/{name}"].startswith("a-clip-") for name in ("clip.MOV", "clip.mp4"))


def test_only_videos_are_taken_and_the_rest_is_listed(tmp_path: Path) -> None:
    videos = ["a/1.mp4", "a/2.WEBM", "a/3.Mov", "a/4.m2ts", "a/5.h264", "b/clip/00001.jpg"]
    others = [
        "a/cover.png",
        "a/poster.webp",
        "a/x.nfo",
        "a/join.ffconcat",
        "a/1.srt",
        "a/1.json",
        "b/1.m3u8",
        "b/1.mp3",
    ]
    put(tmp_path, *videos, *others, "a/README", "b/x.m3u8", "b/x.gif")
    found = check_records(read_folder(tmp_path, (), "train"))
    assert [record.source for record in found.records] == [*videos[:5], "b/clip"]
    assert set(found.passed_over) == {*others, "a/README", "b/x.m3u8", "b/x.gif"}
    assert "11 files passed over that are no videos by their suffix" in describe_passed_over(found.passed_over)


def test_a_folder_without_any_video(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    with pytest.raises(UserError, match=r"no videos in its class folders, only files such as a/1\.png"):
        read_folder(tmp_path, (), "train")


def test_linked_class_folders(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "1.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a").symlink_to(tmp_path / "elsewhere")
    assert [record.source for record in read_folder(tmp_path / "videos", (), "train").records] == ["a/1.mp4"]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no class folders in it"):
        read_folder(tmp_path, (), "train")
    with pytest.raises(UserError, match="labels are folder names"):
        read_folder(tmp_path, [tmp_path / "labels.csv"], "train")


@pytest.mark.parametrize(
    ("files", "folder", "message"),
    [
        (["set1/walk/a.mp4", "set1/run/b.mp4"], "", r"did you mean --videos .*/videos/set1\?"),
        (
            ["walk/a.mp4", "run/b.mp4"],
            "walk",
            r"holds files and no class folders.* --videos .*/videos\?",
        ),
        (["training/walk/a.mp4", "validation/walk/b.mp4"], "", r"did you mean --split training, or --videos"),
        (["notes.txt"], "", "no class folders in it; expected is VIDEOS/CLASS/FILE"),
        (["walk/a.mp4"], "absent", "absent: no such folder; expected is VIDEOS/CLASS/FILE"),
    ],
)
def test_a_level_too_high_or_low_is_named(tmp_path, files, folder, message):
    for name in files:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path / "videos" / folder, [], "train")


def test_files_next_to_class_folders_are_passed_over(tmp_path):
    for name in ("notes.txt", "walk/a.mp4", "run/b.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = read_folder(tmp_path, [], "train")
    assert found.classes == ("run", "walk") and len(found.records) == 2
