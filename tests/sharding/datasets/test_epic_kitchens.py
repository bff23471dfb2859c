"""EPIC-Kitchens-100, on a few lines in the form of the published files; real ones where they are at hand."""

from pathlib import Path

import pytest
from PIL import Image

from sharding.datasets.epic_kitchens import read_epic_kitchens
from sharding.errors import UserError
from sharding.records import FOLDER_FPS, VideoRecord, check_records
from tests.helpers.annotations import real_annotations
from tests.helpers.videos import draw_number, write_numbered_video
from tests.sharding.datasets.test_packing import numbers, packed

VERBS = "id,key,instances,category\n0,take,\"['take', 'grab']\",retrieve\n1,turn-on,\"['switch-on']\",access\n"
NOUNS = "id,key,instances,category\n0,tap,\"['tap', 'tap:hot']\",appliances\n1,board:chopping,\"['board']\",cutlery\n"
TIMES = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"
HEADING = f"{TIMES},narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
OPEN = "P01_01_0,P01,P01_01,00:00:01.089,00:00:01.00,00:00:01.40,51,70,turn on tap,turn-on,1,tap,0,\"['tap']\",[0]\n"
TAKE = "P01_01_1,P01,P01_01,00:00:02.6,00:00:02.50,00:00:03.02,126,151,take board,take,0,board,1,\"['board']\",[1]\n"
GRAB = "P02_101_0,P02,P02_101,00:01:00.1,00:01:00.00,01:00:01.50,3000,3060,grab tap,grab,0,tap,0,\"['tap']\",[0]\n"
FILES = {
    "EPIC_100_verb_classes.csv": VERBS,
    "EPIC_100_noun_classes.csv": NOUNS,
    "EPIC_100_train.csv": HEADING + OPEN + TAKE,
    "EPIC_100_validation.csv": HEADING + GRAB,
    "EPIC_100_test_timestamps.csv": f"{TIMES}\nP01_02_7,P01,P01_02,00:00:02.851,00:00:02.86,00:00:03.87,143,193\n",
    "EPIC_100_unseen_participant_ids_validation.csv": "participant_id\nP02\n",
    "EPIC_100_tail_verbs.csv": "verb\n1\n",
    "EPIC_100_video_info.csv": "video_id,duration,fps,resolution\nP01_01,4.0,50,1920x1080\n",
}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "videos").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in FILES]


def test_actions_are_classes_and_verbs_and_nouns_are_levels(files, tmp_path: Path) -> None:
    found = check_records(read_epic_kitchens(tmp_path / "videos", files, "train"))
    assert found.classes == ("take tap", "take board:chopping", "turn-on tap")  # by verb and noun, of all files
    assert found.levels == (("verb", ("take", "turn-on")), ("noun", ("tap", "board:chopping")))
    assert list(found.records) == [
        VideoRecord("P01_01_0", "P01/P01_01.MP4", "turn-on tap", 1.0, 1.4, ("turn-on", "tap")),
        VideoRecord("P01_01_1", "P01/P01_01.MP4", "take board:chopping", 2.5, 3.02, ("take", "board:chopping")),
    ]
    (grab,) = read_epic_kitchens(tmp_path / "videos", files, "val").records
    assert (grab.start_seconds, grab.end_seconds) == (60.0, 3601.5)
    test = check_records(read_epic_kitchens(tmp_path / "videos", files, "test"))
    assert list(test.records) == [VideoRecord("P01_02_7", "P01/P01_02.MP4", None, 2.86, 3.87)]
    assert (test.classes, test.levels) == (found.classes, found.levels)


@pytest.mark.parametrize("place", ["P01/videos/P01_01.MP4", "P01/P01_01.mkv", "P01_01.MP4"])
def test_layouts_of_videos(files, tmp_path: Path, place: str) -> None:
    path = tmp_path / "videos" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    record, _ = read_epic_kitchens(tmp_path / "videos", files, "train").records
    assert (record.source, record.start_seconds) == (place, 1.0)


@pytest.mark.parametrize("place", ["P01/rgb_frames/P01_01", "P01/P01_01", "P01_01"])
def test_layouts_of_frames(files, tmp_path: Path, place: str) -> None:
    (tmp_path / "videos" / place).mkdir(parents=True)
    record, _ = read_epic_kitchens(tmp_path / "videos", files, "train").records
    assert (record.source, record.start_seconds, record.end_seconds) == (place, 50 / FOLDER_FPS, 70 / FOLDER_FPS)


def test_segments_of_one_video_hold_exactly_their_frames(files, tmp_path: Path) -> None:
    """At 50 frames/s with keyframes every 40: seconds [1, 1.4) are frames 50 to 69, [2.5, 3.02) are 125 to 150."""
    write_numbered_video(tmp_path / "videos/P01/P01_01.MP4", 200, fps=50, gop=40, b_frames=2)
    dataset = packed("epic-kitchens", tmp_path / "videos", files, tmp_path / "out")
    assert sorted(dataset.keys) == ["P01_01_0", "P01_01_1"]
    assert numbers(dataset, "P01_01_0") == list(range(50, 70))
    assert numbers(dataset, "P01_01_1") == list(range(125, 151))
    row = list(dataset.keys).index("P01_01_1")
    assert dataset.manifest.levels["noun"][dataset.level_labels["noun"][row]] == "board:chopping"
    assert dataset.manifest.classes[dataset.labels[row]] == "take board:chopping"


@pytest.mark.parametrize("profile", ["h264", "jpeg"])
def test_segments_of_published_frames(files, tmp_path: Path, profile: str) -> None:
    """frame_0000000051.jpg is the 51st frame; the segment is of the frames 51 to 70."""
    folder = tmp_path / "videos/P01/rgb_frames/P01_01"
    folder.mkdir(parents=True)
    for number in range(1, 161):
        picture = Image.fromarray(draw_number(number, (96, 64)))
        picture.save(folder / f"frame_{number:010d}.jpg", quality=95)
    dataset = packed("epic-kitchens", tmp_path / "videos", files, tmp_path / "out", profile=profile)
    by_key = dict(zip(dataset.keys, dataset.num_frames.tolist()))
    assert by_key == {"P01_01_0": 20, "P01_01_1": 26}
    if profile == "h264":
        assert numbers(dataset, "P01_01_0") == list(range(51, 71))
        assert numbers(dataset, "P01_01_1") == list(range(126, 152))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train", HEADING + OPEN.replace("00:00:01.40", "1 min"), r"train\.csv, line 2: time '1 min': expected are"),
        ("train", HEADING + OPEN.replace(",1,tap,0", ",2,tap,0"), r"line 2: verb_class '2': allowed are 0 to 1"),
        ("train", HEADING + OPEN.replace(",1,tap,0", ",1,tap,x"), r"line 2: noun_class 'x': allowed are 0 to 1"),
        ("train", HEADING + OPEN + OPEN, r"line 3: the key 'P01_01_0' was already used by .*line 2"),
        ("train", HEADING + OPEN + "P01_01_1,P01\n", r"line 3: 2 fields, but 15 columns"),
        ("train", TIMES + "\n", r"line 1: no column 'verb_class'"),
        ("train", HEADING + OPEN.replace("P01_01,", "../x,"), r"line 2: video_id '\.\./x'"),
        ("verb_classes", VERBS.replace("1,turn", "2,turn"), r"verb_classes\.csv, line 3: id '2'.*expected is 1"),
        ("noun_classes", "id,key\n", r"noun_classes\.csv: no classes"),
    ],
)
def test_bad_lines_are_named(files, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / f"EPIC_100_{name}.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_epic_kitchens(tmp_path / "videos", files, "train")


def test_what_is_lacking_is_named(files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="epic-kitchens has train, val and test"):
        read_epic_kitchens(tmp_path, files, "dev")
    with pytest.raises(UserError, match="the names of the verbs: one file with 'verb_classes' in its name"):
        read_epic_kitchens(tmp_path, files[1:], "train")
    with pytest.raises(UserError, match="no labels, so the classes must come from elsewhere"):
        check_records(read_epic_kitchens(tmp_path, [*files[:2], files[4]], "test"))


def test_the_published_files() -> None:
    folder = real_annotations("epic_kitchens_100")
    files = [folder / f"EPIC_100_{name}.csv" for name in ("verb_classes", "noun_classes", "validation")]
    found = check_records(read_epic_kitchens(folder, files, "val"))
    assert (len(found.records), len(found.classes)) == (9668, 1352)
    assert [(name, len(classes)) for name, classes in found.levels] == [("verb", 97), ("noun", 300)]
    test = check_records(read_epic_kitchens(folder, [*files, folder / "EPIC_100_test_timestamps.csv"], "test"))
    assert (len(test.records), test.has_labels) == (13092, False)
